"""The residual network with 18 layers, in the narrow form of the continual-learning literature."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rsn2.models.initialising import initialise
from rsn2.models.split import SplitNetwork

NARROW = (20, 40, 80, 160)
"""Channels of the four groups in the experiments of GEM (Lopez-Paz and Ranzato, 2017, section 4.2) and of SupSup
(Wortsman et al., 2020): fewer than the 64, 128, 256, 512 of He et al."""


class BasicBlock(nn.Module):
    """Two 3x3 convolutions whose result is added to the input (He et al., 2016, section 3.2 and Table 1).

    ``[B, in_channels, H, W] -> [B, out_channels, ceil(H / stride), ceil(W / stride)]``. Where the shapes differ, the
    input goes through a 1x1 convolution (option B of section 3.3); batch normalisation follows every convolution
    (section 3.4).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                OrderedDict(
                    conv=nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
                    norm=nn.BatchNorm2d(out_channels),
                )
            )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))


def resnet18(num_outputs: int = 10, *, in_channels: int = 3, channels: Sequence[int] = NARROW, initialiser: str = "he",
             generator: torch.Generator | None = None) -> SplitNetwork:  # fmt: skip
    """ResNet-18 for small images: eight basic blocks, two of each width (He et al., 2016, Table 1).

    For images of 32x32 the first layer is a 3x3 convolution and there is no maximum after it, as in their networks for
    CIFAR-10 (section 4.2). Every group but the first begins with stride 2; the mean over all positions goes to the
    head. With the defaults: 1 091 740 weights and 3 010 other parameters.

    Args:
        num_outputs: width of the head.
        in_channels: of the images, ``[B, in_channels, H, W]``.
        channels: of the four groups; any number of groups is taken.
        initialiser: a name in ``INITIALISERS``.
        generator: where starting values come from; torch's global generator when None.

    Returns:
        Trunk ``[B, in_channels, H, W] -> [B, channels[-1]]`` with layers ``conv1``, ``norm1``, ``relu1``, ``block1``,
        ..., and head.

    Raises:
        ValueError: a number is not a positive int, or there are no channels; an unknown initialiser.
    """
    numbers = (num_outputs, in_channels, *channels)
    if not channels or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in numbers):
        raise ValueError(
            f"resnet18: sizes must be positive ints and there must be channels, got num_outputs={num_outputs}, "
            f"in_channels={in_channels}, channels={list(channels)}"
        )
    layers: list[tuple[str, nn.Module]] = [
        ("conv1", nn.Conv2d(in_channels, channels[0], 3, padding=1, bias=False)),
        ("norm1", nn.BatchNorm2d(channels[0])),
        ("relu1", nn.ReLU()),
    ]
    previous = channels[0]
    for group, width in enumerate(channels):
        for place in range(2):
            stride = 2 if group > 0 and place == 0 else 1
            layers.append((f"block{2 * group + place + 1}", BasicBlock(previous, width, stride)))
            previous = width
    layers += [("mean", nn.AdaptiveAvgPool2d(1)), ("flatten", nn.Flatten())]
    network = SplitNetwork(nn.Sequential(OrderedDict(layers)), nn.Linear(previous, num_outputs))
    for part in network:
        initialise(part, initialiser, generator=generator)
    return network
