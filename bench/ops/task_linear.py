"""Points of the linear layer's forward product."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rsn2_kernels.nn import TaskLinear
from rsn2_kernels.testing import random_masks

from .. import alternatives, proof
from ..baselines import without_grad
from ..registry import BEST_DENSE, Case, Goal, Maker, Point

ONE_TASK = "ours, one task"  # the same rows, all of one task


class Linear(NamedTuple):
    """A linear layer and its batch: ``[O, I]``, ``B`` rows at random over ``num_slots`` tasks of the given density."""

    O: int  # noqa: E741  # the project's letters
    I: int  # noqa: E741
    B: int
    density: float
    num_slots: int = 1
    dtype: str = "float32"

    @property
    def settings(self) -> dict[str, Any]:
        return {"shape": f"{self.O}x{self.I}", "rows": self.B, "density": self.density, "slots": self.num_slots}

    def layer(self, num_held: int | None = None) -> TaskLinear:
        """The layer; it holds ``num_held`` slots, as many as the batch has when None."""
        torch.manual_seed(0)
        num_held = num_held or self.num_slots
        layer = TaskLinear(self.I, self.O, num_slots=num_held, dtype=getattr(torch, self.dtype))
        generator = torch.Generator().manual_seed(1)
        for slot, mask in enumerate(random_masks(num_held, self.O, self.I, self.density, generator)):
            layer.claim(slot, mask)
        return layer

    def rows(self) -> tuple[Tensor, Tensor, list[Tensor]]:
        """``x`` ``[B, I]``, the slot of each row, and the rows of each slot."""
        generator = torch.Generator().manual_seed(2)
        x = torch.randn(self.B, self.I, generator=generator).to(getattr(torch, self.dtype))
        if self.num_slots == 1:
            return x, torch.tensor(0), [torch.arange(self.B)]
        slots = torch.randint(0, self.num_slots, (self.B,), generator=generator)
        return x, slots, [(slots == slot).nonzero().squeeze(1) for slot in range(self.num_slots)]


def truth(models: Sequence[nn.Module], parts: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """The results of PyTorch in the models' own type, and in float64."""
    with torch.no_grad():
        plain = [model(part) for model, part in zip(models, parts, strict=True)]
        return plain, [proof.wide(model)(part.double()) for model, part in zip(models, parts, strict=True)]


def forward(spec: Linear) -> Case:
    layer = spec.layer()
    x, slots, groups = spec.rows()
    models: list[nn.Module] = [layer.to_dense(slot) for slot in range(spec.num_slots)]
    parts = [x[rows] for rows in groups]
    plain, exact = truth(models, parts)
    others = alternatives.forward(models, parts, exact)
    if spec.num_slots > 1:
        others[ONE_TASK] = lambda: _one_task(layer, x, models[0])
    if spec.dtype != "float32":
        others |= _in_float32(spec, exact)
    # Each task's rows, taken from the mixed result.
    ours = proof.ours(without_grad(lambda: layer(x, slots)), plain, exact, lambda y: [y[rows] for rows in groups])
    return Case(ours, others)


def _one_task(layer: TaskLinear, x: Tensor, model: nn.Module) -> Any:
    slot = torch.tensor(0)
    plain, exact = truth([model], [x])
    return proof.ours(without_grad(lambda: layer(x, slot)), plain, exact)


def _in_float32(spec: Linear, exact: Sequence[Tensor]) -> dict[str, Maker]:
    """What the same work takes with twice the bytes: ours, and the dense layers that then compete."""
    layer = spec._replace(dtype="float32").layer()
    x = spec.rows()[0].float()
    slot = torch.tensor(0)
    wider = alternatives.forward([layer.to_dense(0)], [x], exact)
    found = {f"{name} float32": wider[name] for name in ("F.linear", "oneDNN", "onnxruntime")}
    found["ours float32"] = lambda: proof.other(without_grad(lambda: layer(x, slot)), exact)
    return found


DENSE = {0.05: (6, 9), 0.10: (4.2, 6), 0.20: (2.6, 3.5), 0.25: (2.1, 2.8)}  # must and reach by density
LARGE_BATCH = (Goal("torch CSR", 3, 5), Goal("SparseProp", 5, 8), Goal("DeepSparse", 1.4, 2))
MIXED = (Goal(ONE_TASK, 1.25, 1.1, at_most=True), Goal(BEST_DENSE, 4, 6))
SMALL_BATCH = (Goal(BEST_DENSE, 2.5, 4),)

POINTS: list[tuple[Linear, tuple[Goal, ...], bool]] = [  # with the goals, and whether --quick has it
    *(
        (Linear(size, size, 512, d), (Goal(BEST_DENSE, *DENSE[d]), *LARGE_BATCH), size == 1000 and d in (0.10, 0.20))
        for size in (1000, 4096)
        for d in DENSE
    ),
    (Linear(1000, 1000, 512, 0.10, 10), MIXED, True),
    (Linear(256, 43264, 512, 0.20), (Goal(BEST_DENSE, 2.3, 3.3),), False),
    *((Linear(1000, 1000, rows, 0.10), SMALL_BATCH, rows == 64) for rows in (16, 64)),
    (Linear(4096, 4096, 1, 0.10), (Goal(BEST_DENSE, 4, 7),), True),
    (Linear(1000, 1000, 1, 0.10), (), True),  # a tiny product: where dense may win
    *(
        (Linear(size, size, rows, 0.10, dtype=dtype), (), size == 4096 and rows == 1 and dtype == "bfloat16")
        for dtype in ("bfloat16", "float16")
        for size, rows in ((1000, 1), (1000, 16), (4096, 1), (4096, 16))
    ),
]
ALL_DENSE = (*alternatives.DENSE_LINEAR, *(f"{name} float32" for name in ("F.linear", "oneDNN", "onnxruntime")))


def point(spec: Linear, goals: tuple[Goal, ...] = (), *, quick: bool = False, threads: int | None = None) -> Point:
    return Point("task_linear", "forward", spec.settings, lambda: forward(spec), ALL_DENSE, goals, spec.dtype,
                 threads, quick)  # fmt: skip


def points() -> Iterator[Point]:
    yield from (point(spec, goals, quick=quick) for spec, goals, quick in POINTS)
    # Without the second thread's share of luck: the same bar for one.
    yield point(Linear(1000, 1000, 512, 0.10), (Goal(BEST_DENSE, *DENSE[0.10]), *LARGE_BATCH), threads=1)
