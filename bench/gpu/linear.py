"""Points of the linear product: ceilings of the decode, forward, other dtypes, gradients, blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from rsn2_kernels import ops
from rsn2_kernels.formats import PackedWeight, coordinates

from . import baselines
from .points import Case, Maker, Point, Points, Scene, packed_bytes
from .problems import OPERATORS, n_of_m_owners, pack_owners, random_owners
from .timing import Way, copies

SHAPES = {  # O, K
    "14336x4096": (14336, 4096),
    "4096x4096": (4096, 4096),
    "8192x28672": (8192, 28672),
    "4096x14336": (4096, 14336),
    "1024x1024": (1024, 1024),
    "8192x8192": (8192, 8192),
}
DENSITIES = (0.05, 0.1, 0.25)


@dataclass(frozen=True)
class Layer:
    """A packed weight ``[T, O, K]`` and what it was packed from."""

    packed: PackedWeight
    weight: Tensor
    owner: Tensor

    def mask(self, slot: int) -> Tensor:
        return self.owner == slot

    def dense(self, slot: int) -> Tensor:
        """The weight of one slot, zero where it owns nothing."""
        return self.weight * self.mask(slot)

    def sets(self, scene: Scene, *, hot: bool = False) -> list[PackedWeight]:
        """The packed weight in as many places as it takes to be cold, or in one."""
        stored, cold = self.packed, 1 if hot else scene.cold_bytes
        # Of the positions a kernel reads nothing, and their bytes would make the set look colder than it is.
        return [stored._replace(values=v, index=i) for v, i in copies([stored.values, stored.index], cold)]

    def bytes_of(self, slots: int = 1) -> int:
        """What a call reads of the values and the index when so many slots have rows."""
        return packed_bytes(self.packed.values, self.packed.index) * slots // self.packed.shape[0]


@lru_cache(maxsize=2)  # points of one layer come one after another
def layer(scene: Scene, shape: str, slots: int, density: float, dtype: torch.dtype, block: tuple[int, int],
          n_of_m: tuple[int, int] | None = None) -> Layer:  # fmt: skip
    rows, columns = map(scene.size, SHAPES[shape])
    weight = scene.randn(rows, columns, dtype=dtype)
    if n_of_m is not None:
        owner = n_of_m_owners(rows, columns, *n_of_m, scene.generator)
    else:
        owner = random_owners(slots, rows, columns, density, scene.generator, block)
    return Layer(pack_owners(weight, owner, slots), weight, owner)


def _words(dtype: torch.dtype, tf32: bool = False) -> str:
    return "tf32" if tf32 else str(dtype).removeprefix("torch.")


def forward(scene: Scene, part: str, shape: str, density: float, rows: int, dtype: torch.dtype = torch.bfloat16, *,
            tf32: bool = False, others: tuple[str, ...] = (), block_size: tuple[int, int] = (1, 1),
            n_of_m: tuple[int, int] | None = None, **more: Any) -> Point:  # fmt: skip
    """``rows`` rows of one slot, against whichever of the others are named."""

    def make() -> Case:
        own = layer(scene, shape, 1, density, dtype, block_size, n_of_m)
        x = scene.randn(rows, own.weight.shape[1], dtype=dtype)
        slot = torch.zeros((), dtype=torch.int64, device=scene.where)
        dense, mask = own.dense(0), own.mask(0)

        def ours(*, hot: bool) -> Way:
            return Way([lambda p=p: ops.task_linear(x, p, slot) for p in own.sets(scene, hot=hot)])

        makers: dict[str, Maker] = {
            "F.linear": lambda: baselines.dense(scene, x, dense),
            "masked dense": lambda: baselines.masked(scene, x, own.weight, mask),
            "torch CSR": lambda: baselines.csr(scene, x, dense),
            "cupy CSR": lambda: baselines.cupy_csr(scene, x, dense),
            "semi-structured": lambda: baselines.semi_structured(scene, x, dense),
            "torch BSR": lambda: baselines.block_csr(scene, x, dense, block_size[0]),
            "F.linear, hot": lambda: baselines.dense(scene, x, dense, hot=True),
            "ours, hot": lambda: ours(hot=True),
        }
        return Case(ours(hot=False), {name: makers[name] for name in others},
                    lambda: x.double() @ dense.double().T, own.bytes_of(),
                    {"owned": own.packed.values.numel()})  # fmt: skip

    settings = {"what": "forward", "shape": shape, "density": density, "rows": rows, "dtype": _words(dtype, tf32)}
    return Point(part, {**settings, **more}, make, dtype, tf32)


def decode(scene: Scene) -> Points:
    """B: 64 million positions, so few rows that reading and decoding the weights is all there is."""
    for density in DENSITIES:
        for rows in (1, 2, 4, 8, 16):
            yield forward(scene, "B", "8192x8192", density, rows)


def forwards(scene: Scene) -> Points:
    """C: one task's forward product, the headline's shapes first."""
    for shape in list(SHAPES)[:5]:
        for density in DENSITIES:
            for rows in (1, 4, 16, 64, 256, 1024, 4096):
                if shape == "8192x28672" and rows > 256:
                    continue
                others = ["F.linear", "masked dense"]
                others += ["torch CSR"] * (density == 0.1 and rows <= 256)
                others += ["ours, hot", "F.linear, hot"] * (rows in (1, 64, 1024))
                yield forward(scene, "C", shape, density, rows, others=tuple(others))


def other_dtypes(scene: Scene) -> Points:
    """C': float32, TF32 and float16."""
    for shape in ("14336x4096", "4096x4096"):
        for dtype, tf32 in ((torch.float32, False), (torch.float32, True), (torch.float16, False)):
            for density in DENSITIES:
                for rows in (1, 16, 256, 4096):
                    others = ["F.linear"]
                    if density == 0.1 and rows <= 256 and not tf32:
                        others += ["torch CSR"] + ["cupy CSR"] * (dtype == torch.float32)
                    yield forward(scene, "C'", shape, density, rows, dtype, tf32=tf32, others=tuple(others))


def gradients(scene: Scene) -> Points:
    """D: the gradient of the input, and of the owned values."""
    for shape in ("14336x4096", "4096x4096"):
        for dtype in (torch.bfloat16, torch.float32):
            for density in DENSITIES:
                for rows in (16, 64, 256, 4096):
                    for what in ("gradient of the input", "gradient of the values"):
                        yield gradient(scene, what, shape, density, rows, dtype)


def gradient(scene: Scene, what: str, shape: str, density: float, rows: int, dtype: torch.dtype, part: str = "D", *,
             block_size: tuple[int, int] = (1, 1), **more: Any) -> Point:  # fmt: skip
    def make() -> Case:
        own = layer(scene, shape, 1, density, dtype, block_size, None)
        num_outputs, num_inputs = own.weight.shape
        x, grad_y = scene.randn(rows, num_inputs, dtype=dtype), scene.randn(rows, num_outputs, dtype=dtype)
        slot = torch.zeros((), dtype=torch.int64, device=scene.where)
        dense, mask = own.dense(0), own.mask(0)
        if what == "gradient of the input":
            ours = [_grad_input(p, grad_y, slot) for p in own.sets(scene)]
            makers: dict[str, Maker] = {"dense": lambda: baselines.grad_input(scene, grad_y, dense)}
            return Case(Way(ours), makers, lambda: grad_y.double() @ dense.double(), own.bytes_of())
        number = [own.packed.values.numel()]
        calls = [_grad_values(p, x, grad_y, slot, number) for p in own.sets(scene)]

        def whole(flat: Tensor) -> Tensor:  # the values of a slot lie in an order of their own
            return unpacked(own, flat)

        makers = {
            "masked dense": lambda: baselines.grad_weight(x, grad_y, mask),
            "torch CSR": lambda: baselines.sampled(x, grad_y, mask) if dtype == torch.float32 else "float32 only",
            "dense": lambda: Way([lambda: grad_y.T @ x], pick=lambda grad: grad * mask),
        }
        return Case(Way(calls, pick=whole), makers, lambda: (grad_y.double().T @ x.double()) * mask, own.bytes_of())

    settings = {"what": what, "shape": shape, "density": density, "rows": rows, "dtype": _words(dtype)}
    return Point(part, {**settings, **more}, make, dtype)


def _grad_input(p: PackedWeight, grad_y: Tensor, slot: Tensor) -> Callable[[], Tensor]:
    return lambda: OPERATORS.task_linear_grad_input(grad_y, p.values, p.positions, p.index, slot, [], p.shape[2])


def _grad_values(p: PackedWeight, x: Tensor, grad_y: Tensor, slot: Tensor, number: list[int]) -> Callable[[], Tensor]:
    return lambda: OPERATORS.task_linear_grad_values(x, grad_y, p.values, p.positions, p.index, slot, [0], number)


def unpacked(own: Layer, flat: Tensor) -> Tensor:
    """The values of slot 0 as a dense weight."""
    dense = flat.new_zeros(own.weight.shape)
    dense[coordinates(own.packed.positions, 0)] = flat
    return dense


def blocks(scene: Scene) -> Points:
    """F: masks of square blocks, of vectors along a column, and of n out of m neighbours in a row."""
    for shape in ("14336x4096", "4096x4096"):
        for density in DENSITIES:
            for block in ((64, 64), (32, 32), (16, 16), (8, 1), (16, 1)):
                square = block[0] == block[1]
                for rows in (64, 1024, 4096):
                    others = ("F.linear", *(["torch BSR"] if square else []))
                    size, name = _small(scene, block), block[0] if square else f"{block[0]}x{block[1]}"
                    yield forward(scene, "F", shape, density, rows, others=others, block_size=size, block=name)
                    if square and density == 0.1:
                        yield gradient(scene, "gradient of the values", shape, density, rows, torch.bfloat16, "F",
                                       block_size=size, block=name)  # fmt: skip
        for n, m in ((1, 4), (2, 8)):
            for rows in (64, 1024, 4096):
                yield forward(scene, "F", shape, n / m, rows, others=("F.linear", "semi-structured"), n_of_m=(n, m),
                              block=f"{n}:{m}")  # fmt: skip


def _small(scene: Scene, block: tuple[int, int]) -> tuple[int, int]:
    return (min(block[0], 16), min(block[1], 16)) if scene.dry else block
