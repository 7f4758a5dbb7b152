"""A: what this device can do at most: copies, dense products, an empty node of a graph."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .points import Case, Maker, Point, Points, Scene
from .timing import Way, copies

COPY_BYTES = 4 << 30
COPY = "A what=copy"


def points(scene: Scene) -> Points:
    yield copy(scene)
    for dtype, tf32 in ((torch.bfloat16, False), (torch.float16, False), (torch.float32, True), (torch.float32, False)):
        yield product(scene, dtype, tf32)
    yield empty(scene)
    for shape in ((4096, 4096), (14336, 4096), (8192, 28672)):
        yield gemv(scene, shape)


def _point(what: str, make: Maker, facts: dict[str, float]) -> Point:
    def case() -> Case:
        return Case(None, {"this": make}, lambda: [], 0, dict(facts))

    return Point("A", {"what": what}, case)


def _unchecked(result: object) -> list[torch.Tensor]:
    return []


def copy(scene: Scene) -> Point:
    """4 GB from one place to another; the line's ``bytes`` counts those read and those written."""
    number = 4096 if scene.dry else COPY_BYTES

    def make() -> Way:
        source = torch.zeros(number, dtype=torch.uint8, device=scene.where)
        target = torch.empty_like(source)
        return Way([lambda: target.copy_(source)], pick=_unchecked)

    return _point("copy", make, {"bytes": 2 * number})


def product(scene: Scene, dtype: torch.dtype, tf32: bool) -> Point:
    size = 64 if scene.dry else 8192

    def make() -> Way:
        left, right = scene.randn(size, size, dtype=dtype), scene.randn(size, size, dtype=dtype)

        def call() -> torch.Tensor:
            torch.backends.cuda.matmul.allow_tf32 = tf32
            return left @ right

        return Way([call], pick=_unchecked)

    return _point(f"product {'tf32' if tf32 else str(dtype).removeprefix('torch.')}", make, {"flops": 2.0 * size**3})


def empty(scene: Scene) -> Point:
    """The smallest kernel, a thousand times in one graph."""

    def make() -> Way:
        one = torch.zeros(1, device=scene.where)
        return Way([lambda: one.fill_(1.0)] * (3 if scene.dry else 1000), pick=_unchecked)

    return _point("smallest kernel in a graph", make, {})


def gemv(scene: Scene, shape: tuple[int, int]) -> Point:
    rows, columns = map(scene.size, shape)

    def make() -> Way:
        x = scene.randn(1, columns, dtype=torch.bfloat16)
        sets = copies([scene.randn(rows, columns, dtype=torch.bfloat16)], scene.cold_bytes)
        return Way([lambda own=own: F.linear(x, own[0]) for own in sets], pick=_unchecked)

    return _point(f"dense {shape[0]}x{shape[1]} times one row, cold", make, {"bytes": 2.0 * rows * columns})
