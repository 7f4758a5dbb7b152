"""How much of the earlier tasks a sequence of trainings destroys, by the two definitions in use."""

from __future__ import annotations

import math
from collections.abc import Sequence


def _checked(function: str, results: Sequence[Sequence[float | None]]) -> list[list[float]]:
    """A square table with every entry on and below the diagonal."""
    table = [[math.nan if value is None else float(value) for value in row] for row in results]
    if len(table) < 2:
        raise ValueError(f"{function}: results must cover at least two stages, got {len(table)}")
    for stage, row in enumerate(table):
        if len(row) != len(table):
            raise ValueError(
                f"{function}: results must be square, got {len(row)} values in row {stage} of {len(table)}"
            )
        for task in range(stage + 1):
            if math.isnan(row[task]):
                raise ValueError(f"{function}: the result of task {task} after stage {stage} is missing")
    return table


def forgetting(results: Sequence[Sequence[float | None]], *, higher_is_better: bool = True) -> float:
    """Average forgetting (Chaudhry et al., "Riemannian walk", ECCV 2018).

    The mean over all tasks but the last of: the best result the task had at any stage from its own up to the last but
    one, minus its result after the last stage. 0 is the least a network can do that never changes an old task;
    positive means something was forgotten.

    Args:
        results: `results[stage][task]` is the result of `task` after training stage `stage` (task i is trained at stage
            i): square, with None or NaN for tasks that were not trained yet.
        higher_is_better: False for losses and errors; forgetting is then counted with the opposite sign.

    Raises:
        ValueError: the table is not square, has one stage only, or lacks a result.
    """
    table = _checked("forgetting", results)
    sign = 1.0 if higher_is_better else -1.0
    last = len(table) - 1
    lost = [
        max(sign * table[stage][task] for stage in range(task, last)) - sign * table[last][task] for task in range(last)
    ]
    return sum(lost) / last


def backward_transfer(results: Sequence[Sequence[float | None]], *, higher_is_better: bool = True) -> float:
    """Backward transfer (Lopez-Paz and Ranzato, "Gradient episodic memory", NeurIPS 2017).

    The mean over all tasks but the last of: the result after the last stage minus that after the task's own stage.
    Negative means something was forgotten. Arguments and errors as for `forgetting`.
    """
    table = _checked("backward_transfer", results)
    sign = 1.0 if higher_is_better else -1.0
    last = len(table) - 1
    return sum(sign * (table[last][task] - table[task][task]) for task in range(last)) / last
