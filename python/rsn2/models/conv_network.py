"""The paper's convolutional network."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import nn

from rsn2.models.initialising import initialise
from rsn2.models.split import SplitNetwork


def conv_network(in_channels: int = 1, num_outputs: int = 10, *, image_size: tuple[int, int] = (28, 28),
                 channels: Sequence[int] = (32, 64), hidden: Sequence[int] = (256, 256), pool_stride: int = 1,
                 initialiser: str = "he", generator: torch.Generator | None = None) -> SplitNetwork:  # fmt: skip
    """Blocks of two 3x3 convolutions and a 2x2 maximum, then linear layers, as in the paper's Experiments 1, 2, 4 and
    6.

    With the defaults: 11 208 480 weights, of which 11 075 584 in the first linear layer, because the paper's pooling
    moves by one pixel. ``pool_stride=2``, the usual choice, has 935 712.

    Args:
        in_channels, image_size: the images, ``[B, in_channels, *image_size]``.
        num_outputs: width of the head.
        channels: output channels of each block.
        hidden: widths of the linear layers before the head.
        pool_stride: step of the 2x2 maximum.
        initialiser: a name in ``INITIALISERS``.
        generator: where starting values come from; torch's global generator when None.

    Returns:
        Trunk ``[B, C, H, W] -> [B, hidden[-1]]`` with layers ``conv1``, ``relu1``, ..., ``pool1``, ``hidden1``, ...,
        and head.

    Raises:
        ValueError: a number is not a positive int, or the image is too small; an unknown initialiser.
    """
    numbers = (in_channels, num_outputs, *image_size, *channels, *hidden, pool_stride)
    if not channels or not hidden or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in numbers):
        raise ValueError(
            f"conv_network: sizes must be positive ints and there must be channels and hidden layers, got in_channels="
            f"{in_channels}, num_outputs={num_outputs}, image_size={image_size}, channels={list(channels)}, "
            f"hidden={list(hidden)}, pool_stride={pool_stride}"
        )
    layers: list[tuple[str, nn.Module]] = []
    height, width = image_size
    previous, number = in_channels, 0
    for block, num_channels in enumerate(channels, start=1):
        for _ in range(2):
            number += 1
            conv = nn.Conv2d(previous, num_channels, 3, padding="same")
            layers += [(f"conv{number}", conv), (f"relu{number}", nn.ReLU())]
            previous = num_channels
        layers.append((f"pool{block}", nn.MaxPool2d(2, stride=pool_stride)))
        height, width = (height - 2) // pool_stride + 1, (width - 2) // pool_stride + 1
        if height < 1 or width < 1:
            raise ValueError(f"conv_network: image_size must allow {len(channels)} poolings, got {image_size}")
    layers.append(("flatten", nn.Flatten()))
    previous = previous * height * width
    for layer, num_out in enumerate(hidden, start=1):
        layers += [(f"hidden{layer}", nn.Linear(previous, num_out)), (f"hidden_relu{layer}", nn.ReLU())]
        previous = num_out
    network = SplitNetwork(nn.Sequential(OrderedDict(layers)), nn.Linear(previous, num_outputs))
    for part in network:
        initialise(part, initialiser, generator=generator)
    return network
