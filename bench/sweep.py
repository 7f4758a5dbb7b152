"""Points along one setting each, for the plots: density, rows, number of tasks in the batch."""

from __future__ import annotations

from collections.abc import Iterator

from . import alternatives
from .ops import task_conv2d, task_linear
from .registry import Point

DENSITIES = (0.02, 0.05, 0.10, 0.15, 0.20, 0.25, 0.35, 0.50)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
SLOTS = (1, 2, 4, 8, 16)


def points() -> Iterator[Point]:
    for density in DENSITIES:
        yield task_linear.point(task_linear.Linear(1000, 1000, 512, density), quick=True)
    for density in DENSITIES:
        spec = task_conv2d.Conv(64, 64, density)
        yield Point("task_conv2d", "forward", spec.settings, lambda s=spec: task_conv2d.forward(s),
                    alternatives.DENSE_CONV, quick=True)  # fmt: skip
    for size in (1000, 4096):
        for rows in ROWS:
            if (size, rows) != (1000, 512):  # among the densities
                yield task_linear.point(task_linear.Linear(size, size, rows, 0.10), quick=True)
    for num_slots in SLOTS:
        if num_slots > 1:
            yield task_linear.point(task_linear.Linear(1000, 1000, 512, 0.05, num_slots), quick=True)
