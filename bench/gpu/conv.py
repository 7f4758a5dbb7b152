"""Points of convolutions, G: 3 x 3 kernels of ResNet's sizes against cuDNN with channels_last."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_input, conv2d_weight

from rsn2_kernels import ops
from rsn2_kernels.formats import PackedWeight, coordinates

from .baselines import csr_matrix, csr_parts
from .linear import DENSITIES, Layer
from .points import Case, Maker, Point, Points, Scene
from .problems import OPERATORS, pack_owners, random_owners
from .timing import Way

SIZES = {"28x28x128": (28, 128), "14x14x256": (14, 256), "7x7x512": (7, 512), "56x56x64": (56, 64)}
KERNEL = [3, 3]
LAST = torch.channels_last


@lru_cache(maxsize=2)
def layer(scene: Scene, channels: int, slots: int, density: float, dtype: torch.dtype) -> Layer:
    """A convolution with as many outputs as inputs; the columns of its weight are (p, q, channel)."""
    weight = scene.randn(channels, 9 * channels, dtype=dtype)
    owner = random_owners(slots, channels, 9 * channels, density, scene.generator)
    return Layer(pack_owners(weight, owner, slots, KERNEL), weight, owner)


def as_kernel(weight: Tensor) -> Tensor:
    """``[O, 9 C]`` as ``[O, C, 3, 3]``, channels_last."""
    return weight.reshape(len(weight), *KERNEL, -1).permute(0, 3, 1, 2).contiguous(memory_format=LAST)


def points(scene: Scene) -> Points:
    for slots, rows in ((8, 64), (1, 64), (1, 256), (8, 256), (1, 1)):
        for shape in SIZES:
            for density in DENSITIES:
                if slots * density > 1:
                    continue
                for what in ("forward", "gradient of the input", "gradient of the values"):
                    yield conv(scene, what, shape, slots, density, rows)
    yield conv(scene, "forward", "56x56x64", 8, 0.1, 64, stride=2)
    for density in DENSITIES:
        yield conv(scene, "forward", "14x14x256", 1, density, 64, torch.float32)


def conv(scene: Scene, what: str, shape: str, slots: int, density: float, rows: int,
         dtype: torch.dtype = torch.bfloat16, *, stride: int = 1) -> Point:  # fmt: skip
    def make() -> Case:
        side, channels = SIZES[shape]
        side, channels = (min(side, 6), max(8, channels // 16)) if scene.dry else (side, channels)
        own = layer(scene, channels, slots, density, dtype)
        images = max(1, rows // 16) if scene.dry else rows
        x = scene.randn(images, channels, side, side, dtype=dtype).contiguous(memory_format=LAST)
        which = torch.arange(images, device=scene.where) % slots
        if slots == 1:
            which = torch.zeros((), dtype=torch.int64, device=scene.where)
        return _Work(scene, own, x, which, stride).case(what)

    settings: dict[str, Any] = {"what": what, "shape": shape, "slots": slots, "density": density, "rows": rows,
                                "stride": stride, "dtype": str(dtype).removeprefix("torch.")}  # fmt: skip
    return Point("G", settings, make, dtype)


class _Work:
    """One layer and one batch, by all ways."""

    def __init__(self, scene: Scene, own: Layer, x: Tensor, which: Tensor, stride: int) -> None:
        self.scene, self.own, self.x, self.which, self.stride = scene, own, x, which, [stride, stride]
        side = (x.shape[2] - 1) // stride + 1
        self.grad_y = scene.randn(len(x), len(own.weight), side, side, dtype=x.dtype).contiguous(memory_format=LAST)
        self.window = (KERNEL, self.stride, [1, 1, 1, 1], [1, 1])
        slots = [0] if which.dim() == 0 else sorted(set(which.tolist()))
        every = torch.ones(len(x), dtype=torch.bool, device=x.device)
        self.rows_of = {slot: every if which.dim() == 0 else which == slot for slot in slots}
        self.kernels = [as_kernel(own.dense(slot)) for slot in slots]
        self.masks = [as_kernel(own.mask(slot)) for slot in slots]

    def parts(self, tensor: Tensor) -> list[Tensor]:
        """The images of each slot, ready."""
        return [tensor[rows].contiguous(memory_format=LAST) for rows in self.rows_of.values()]

    def ours(self, what: str) -> Way:
        x, grad_y, which = self.x, self.grad_y, self.which
        slots = list(range(self.own.packed.shape[0]))
        number = [int((self.own.owner == slot).sum()) for slot in slots]

        def call(p: PackedWeight) -> Tensor:
            packed = (p.values, p.positions, p.index, which)
            if what == "forward":
                return ops.task_conv2d(x, p, which, kernel_size=KERNEL, stride=self.stride, padding=[1, 1, 1, 1])
            if what == "gradient of the input":
                return OPERATORS.task_conv2d_grad_input(grad_y, *packed, [], list(x.shape[1:]), *self.window)
            return OPERATORS.task_conv2d_grad_values(x, grad_y, *packed, slots, number, *self.window)

        pick: Callable[[Any], Any] = self.parts
        if what == "gradient of the values":

            def pick(flat: Tensor) -> list[Tensor]:
                found = []
                for slot, part in zip(slots, flat.split(number), strict=True):
                    if slot in self.rows_of:
                        dense = part.new_zeros(self.own.weight.shape)
                        dense[coordinates(self.own.packed.positions, slot)] = part
                        found.append(as_kernel(dense))
                return found

        return Way([lambda p=p: call(p) for p in self.own.sets(self.scene)], pick=pick)

    def dense(self, what: str, x: list[Tensor], grad_y: list[Tensor], kernels: list[Tensor]) -> list[Tensor]:
        """PyTorch's own convolution of each slot's images."""
        if what == "forward":
            return [F.conv2d(part, kernel, None, self.stride, 1) for part, kernel in zip(x, kernels, strict=True)]
        triples = zip(x, kernels, grad_y, strict=True)
        if what == "gradient of the input":
            return [conv2d_input(part.shape, kernel, grad, self.stride, 1) for part, kernel, grad in triples]
        return [conv2d_weight(part, kernel.shape, grad, self.stride, 1) for part, kernel, grad in triples]

    def case(self, what: str) -> Case:
        x, grad_y = self.parts(self.x), self.parts(self.grad_y)

        def masked(grads: list[Tensor]) -> list[Tensor]:
            if what != "gradient of the values":
                return grads
            return [grad * mask for grad, mask in zip(grads, self.masks, strict=True)]

        def library(*, graph: bool) -> Way:
            return Way([lambda: self.dense(what, x, grad_y, self.kernels)], graph=graph, pick=masked)

        def masked_library() -> Way:
            pairs = list(zip(self.kernels, self.masks, strict=True))
            if what == "gradient of the values":
                return Way([lambda: masked(self.dense(what, x, grad_y, self.kernels))])
            return Way([lambda: self.dense(what, x, grad_y, [kernel * mask for kernel, mask in pairs])])

        name = "cuDNN" if len(x) == 1 else "cuDNN, task by task"
        makers: dict[str, Maker] = {
            name: lambda: library(graph=True),
            f"{name}, eager": lambda: library(graph=False),
            f"{name}, masked": masked_library,
        }
        if self.x.dtype == torch.float32 and what == "forward" and len(x) == 1:
            makers["unfold + torch CSR"] = self.unfolded
        wide = [[tensor.double() for tensor in tensors] for tensors in (x, grad_y, self.kernels)]
        return Case(self.ours(what), makers, lambda: masked(self.dense(what, *wide)),
                    self.own.bytes_of(len(self.rows_of)))  # fmt: skip

    def unfolded(self) -> Way:
        """Windows as columns, times the kernel in CSR form; making them counts."""
        kernel = self.kernels[0].flatten(1)  # columns (channel, p, q), as unfold has them
        matrix = csr_matrix(*csr_parts(kernel), kernel.shape)
        side = self.grad_y.shape[2]

        def call() -> Tensor:
            columns = F.unfold(self.x, KERNEL, padding=1, stride=self.stride)  # [B, 9 C, pixels]
            return matrix @ columns.transpose(0, 1).reshape(kernel.shape[1], -1)

        def pick(y: Tensor) -> list[Tensor]:
            return [y.reshape(len(kernel), len(self.x), side, side).transpose(0, 1)]

        return Way([call], pick=pick)
