"""Points of mixed batches, E: rows of many tasks in one call, against a dense model for each task."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rsn2_kernels import ops
from rsn2_kernels.formats import PackedWeight

from . import baselines
from .linear import Layer, layer
from .points import Case, Maker, Point, Points, Scene
from .problems import OPERATORS
from .timing import Way

KINDS = (  # slots, density, how the rows are spread over the slots
    (8, 0.1, "uniform"),
    (16, 0.05, "uniform"),
    (4, 0.25, "uniform"),
    (8, 0.1, "zipf"),
    (64, 0.015, "uniform"),
)


def slot_ids(scene: Scene, rows: int, slots: int, ids: str) -> Tensor:
    """The slot of each row: any alike, or slot ``t`` in proportion to ``1 / (t + 1)``."""
    weights = torch.ones(slots) if ids == "uniform" else 1 / torch.arange(1.0, slots + 1)
    return torch.multinomial(weights.to(scene.where), rows, replacement=True, generator=scene.generator)


def points(scene: Scene) -> Points:
    for shape in ("4096x4096", "14336x4096"):
        for slots, density, ids in KINDS:
            for rows in (64, 1024, 16, 256, 8192):
                yield mixed(scene, shape, slots, density, ids, rows)
                if rows in (256, 8192):
                    yield mixed(scene, shape, slots, density, ids, rows, what="forward+backward")


def mixed(scene: Scene, shape: str, slots: int, density: float, ids: str, rows: int, *, what: str = "forward",
          singles: bool = False) -> Point:  # fmt: skip
    """One point; ``singles`` compares with the same slots one after another, ours too, and nothing else."""

    def make() -> Case:
        own = layer(scene, shape, slots, density, torch.bfloat16, (1, 1))
        x = scene.randn(rows, own.weight.shape[1], dtype=torch.bfloat16)
        which = slot_ids(scene, rows, slots, ids)
        rows_of = {slot: found for slot in range(slots) if len(found := (which == slot).nonzero().squeeze(1))}
        work = _forward if what == "forward" else _both
        grad_y = scene.randn(rows, own.weight.shape[0], dtype=torch.bfloat16)
        return work(scene, own, x, grad_y, which, rows_of, singles)

    settings: dict[str, Any] = {"what": what, "shape": shape, "slots": slots, "density": density, "rows": rows,
                                "ids": ids, "dtype": "bfloat16"}  # fmt: skip
    return Point("G3" if singles else "E", settings, make)


def _ready(own: Layer, x: Tensor, rows_of: dict[int, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    return [x[found] for found in rows_of.values()], [own.dense(slot) for slot in rows_of]


def _forward(scene: Scene, own: Layer, x: Tensor, grad_y: Tensor, which: Tensor, rows_of: dict[int, Tensor],
             singles: bool) -> Case:  # fmt: skip
    parts, weights = _ready(own, x, rows_of)
    sets = own.sets(scene)

    def in_parts(y: Tensor) -> list[Tensor]:
        return [y[found] for found in rows_of.values()]

    def one_by_one() -> Way:
        slots = [torch.tensor(slot, device=x.device) for slot in rows_of]

        def call(p: PackedWeight) -> list[Tensor]:
            return [ops.task_linear(part, p, slot) for part, slot in zip(parts, slots, strict=True)]

        return Way([lambda p=p: call(p) for p in sets])

    makers: dict[str, Maker] = {
        "dense models": lambda: baselines.loop(parts, weights),
        "dense models, eager": lambda: baselines.loop(parts, weights, graph=False),
        "masked models": lambda: baselines.loop(parts, [own.weight] * len(parts), [own.mask(s) for s in rows_of]),
        "grouped matmul": lambda: baselines.grouped(parts, torch.stack(weights)),
        "ours, task by task": one_by_one,
    }
    names = ["ours, task by task"] if singles else list(makers)
    ours = Way([lambda p=p: ops.task_linear(x, p, which) for p in sets], pick=in_parts)
    return Case(ours, {name: makers[name] for name in names},
                lambda: [part.double() @ weight.double().T for part, weight in zip(parts, weights, strict=True)],
                own.bytes_of(len(rows_of)), {"active": len(rows_of)})  # fmt: skip


def _both(scene: Scene, own: Layer, x: Tensor, grad_y: Tensor, which: Tensor, rows_of: dict[int, Tensor],
          singles: bool) -> Case:  # fmt: skip
    """Forward and both gradients; the gradients of the input are what is compared."""
    parts, weights = _ready(own, x, rows_of)
    grads = [grad_y[found] for found in rows_of.values()]
    slots = list(range(own.packed.shape[0]))
    number = [int((own.owner == slot).sum()) for slot in slots]

    def ours(p: PackedWeight) -> Tensor:
        ops.task_linear(x, p, which)
        OPERATORS.task_linear_grad_values(x, grad_y, p.values, p.positions, p.index, which, slots, number)
        return OPERATORS.task_linear_grad_input(grad_y, p.values, p.positions, p.index, which, [], p.shape[2])

    def dense() -> list[Tensor]:
        found = []
        for part, grad, weight in zip(parts, grads, weights, strict=True):
            part @ weight.T  # noqa: B018  (the work counts, not the result)
            grad.T @ part  # noqa: B018
            found.append(grad @ weight)
        return found

    makers: dict[str, Maker] = {
        "dense models": lambda: Way([dense]),
        "dense models, eager": lambda: Way([dense], graph=False),
    }
    return Case(Way([lambda p=p: ours(p) for p in own.sets(scene)],
                    pick=lambda y: [y[found] for found in rows_of.values()]), makers,
                lambda: [grad.double() @ weight.double() for grad, weight in zip(grads, weights, strict=True)],
                own.bytes_of(len(rows_of)), {"active": len(rows_of)})  # fmt: skip
