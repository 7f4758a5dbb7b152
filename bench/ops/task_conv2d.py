"""Points of the convolution."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rsn2_kernels.nn import TaskConv2d
from rsn2_kernels.testing import random_masks

from .. import alternatives, baselines, peers, proof
from ..baselines import without_grad
from ..registry import BEST_DENSE, Case, Goal, Maker, Point
from .task_linear import truth
from .task_linear_gradients import Step, training
from .task_linear_scaling import ODD, beside, threads_point


class Conv(NamedTuple):
    """``[O, C, kernel, kernel]`` on square images of ``size``, padded by half the kernel; ``B`` images."""

    O: int  # noqa: E741  # the project's letters
    C: int
    density: float
    size: int = 28
    kernel: int = 3
    stride: int = 1
    B: int = 64

    @property
    def settings(self) -> dict[str, Any]:
        shape = f"{self.O}x{self.C}x{self.kernel}x{self.kernel}@{self.size}"
        shape += f"/{self.stride}" * (self.stride > 1)
        return {"shape": shape, "rows": self.B, "density": self.density, "slots": 1}

    def layer(self) -> TaskConv2d:
        torch.manual_seed(0)
        layer = TaskConv2d(self.C, self.O, self.kernel, self.stride, self.kernel // 2, num_slots=1)
        generator = torch.Generator().manual_seed(1)
        mask = random_masks(1, self.O, layer.numel // self.O, self.density, generator)[0]
        layer.claim(0, mask.reshape(layer.weight_shape))
        return layer

    def images(self) -> Tensor:
        generator = torch.Generator().manual_seed(2)
        return torch.randn(self.B, self.C, self.size, self.size, generator=generator)

    def work(self) -> float:
        """Products of a weight and a pixel, up to the density."""
        return self.O * self.C * (self.kernel * self.size // self.stride) ** 2 * self.B


def forward(spec: Conv) -> Case:
    layer, x, slot = spec.layer(), spec.images(), torch.tensor(0)
    model = layer.to_dense(0)
    plain, exact = truth([model], [x])
    return Case(
        proof.ours(without_grad(lambda: layer(x, slot)), plain, exact), alternatives.forward([model], [x], exact)
    )


def forward_backward(spec: Conv) -> Case:
    layer, slot = spec.layer(), torch.tensor(0)
    x = spec.images().requires_grad_()
    model, owned = layer.to_dense(0), layer.owned(0)
    mask = (model.weight.detach() != 0).float()
    grad_y = torch.randn(model(x).shape, generator=torch.Generator().manual_seed(3))
    part = (x, grad_y)

    def only_owned(returned: Any) -> Any:
        return [[gx, gw.flatten()[owned], gb] for gx, gw, gb in returned]

    wide = proof.wide(model)
    wide_part = (x.detach().double().requires_grad_(), grad_y.double())
    exact = proof.tensors(only_owned(training([wide_part], [[wide.weight, wide.bias]], [wide])()))

    def with_step(step: Step, module: nn.Module = model, pair: tuple[Tensor, Tensor] = part) -> Maker:
        return alternatives.maker(lambda: training([pair], [[module.weight, module.bias]], [step]), exact, only_owned)

    last = layer.to_dense(0).to(memory_format=torch.channels_last)
    last_part = (
        x.detach().to(memory_format=torch.channels_last).requires_grad_(),
        grad_y.to(memory_format=torch.channels_last),
    )
    others = {
        "F.conv2d": with_step(model),
        "F.conv2d channels_last": with_step(last, last, last_part),
        "torch.compile": lambda: with_step(torch.compile(model))(),
        "masked dense": with_step(lambda images: baselines.masked_product(model, mask, images)),
        "SparseProp": lambda: _sparseprop(model, part, owned, exact),
    }
    plain = proof.tensors(only_owned(training([part], [[model.weight, model.bias]], [model])()))
    ours = training([part], [[layer.values[0], layer.bias[0]]], [lambda images: layer(images, slot)])
    return Case(proof.ours(ours, plain, exact), others)


def _sparseprop(model: nn.Conv2d, part: tuple[Tensor, Tensor], owned: Tensor, exact: Sequence[Tensor]) -> Any:
    layer = peers.sparseprop(model, part[0].detach())
    if isinstance(layer, str):
        return layer
    number = torch.arange(1, model.weight.numel() + 1, dtype=torch.float32).reshape(model.weight.shape)
    numbered = nn.Conv2d(model.in_channels, model.out_channels, model.kernel_size, model.stride, model.padding)
    with torch.no_grad():
        numbered.weight.copy_(number * (model.weight != 0))
    stands_for = peers.sparseprop_order(numbered)  # the flattened index of each of its values
    position = torch.empty(model.weight.numel(), dtype=torch.int64)
    position[stands_for] = torch.arange(len(stands_for))
    call = training([part], [[layer.W_val, layer.bias]], [layer])
    return proof.other(call, exact, lambda returned: [[gx, gw[position[owned]], gb] for gx, gw, gb in returned])


DENSE = {0.10: (2.8, 4.5), 0.20: (1.7, 2.8)}
TRAINING = {0.10: (2.8, 4.5), 0.20: (1.8, 2.8)}
OTHER_SHAPES = (
    Conv(64, 64, 0.20, kernel=1),
    Conv(64, 64, 0.20, kernel=5),
    Conv(64, 64, 0.20, stride=2),
)
LARGE = Conv(64, 64, 0.20)


def points() -> Iterator[Point]:
    for what, case, bars, dense in (
        ("forward", forward, DENSE, alternatives.DENSE_CONV),
        ("forward+backward", forward_backward, TRAINING, ("F.conv2d", "F.conv2d channels_last", "torch.compile")),
    ):
        for channels in (64, 32):
            for density, bar in bars.items():
                spec = Conv(channels, channels, density)
                yield Point("task_conv2d", what, spec.settings, lambda c=case, s=spec: c(s), dense,
                            (Goal(BEST_DENSE, *bar),), quick=channels == 64 and density == 0.20)  # fmt: skip
        for spec in OTHER_SHAPES:
            yield Point("task_conv2d", what, spec.settings, lambda c=case, s=spec: c(s), dense)
        odd, even = Conv(56, 40, 0.20, size=21), Conv(56, 40, 0.20, size=20)
        work = odd.work() / even.work()
        yield Point("task_conv2d", f"{what}, beside 20x20", odd.settings,
                    lambda c=case, o=odd, e=even: beside(c, o, e, "ours, round size"),
                    goals=(Goal("ours, round size", *ODD, at_most=True, work=work),))  # fmt: skip
        yield threads_point("task_conv2d", what, case, LARGE)
    yield Point("task_conv2d", "forward", LARGE.settings, lambda: forward(LARGE), alternatives.DENSE_CONV,
                (Goal(BEST_DENSE, *DENSE[0.20]),), threads=1)  # fmt: skip
