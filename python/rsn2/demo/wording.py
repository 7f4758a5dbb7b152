"""How the demo words its figures, in the terminal and on the page alike."""

from __future__ import annotations

from typing import Any

from rsn2.demo.tasks import STAGES, Task
from rsn2.metrics import Timing


def score_text(task: Task, score: float) -> str:
    """Accuracy in percent; R² as a number."""
    return f"{100 * score:.1f} %" if task.data.num_classes else f"{score:.3f}"


def difference(task: Task, ours: float, alone: float) -> str:
    """By how much the shared network is better (+) or worse (-), and in how many rows where these can be counted."""
    if not task.data.num_classes:
        return f"{ours - alone:+.3f}"
    num_rows = round((ours - alone) * len(task.data.test))
    return f"{100 * (ours - alone):+.1f} points ({num_rows:+d} row{'' if abs(num_rows) == 1 else 's'})"


def stage_names() -> list[str]:
    """What was trained in each stage."""
    return [f"{number}: {' + '.join(names)}" for number, names in enumerate(STAGES, start=1)]


def verdict(result: Any, name: str) -> str:
    """Whether a task's outputs and owned bytes are at the end what they were when it was finished."""
    return "bit-identical" if result.proof.first[name] == result.proof.last[name] else "CHANGED"


def kilobytes(num_bytes: int) -> str:
    return f"{num_bytes / 1000:,.0f}"


def milliseconds(timing: Timing) -> str:
    return f"{timing.median_ms():.2f} ({timing.quantile_ms(0.2):.2f} to {timing.quantile_ms(0.8):.2f})"


def shortcomings(result: Any) -> list[str]:
    """Where the shared network is worse than dedicated ones, in sentences."""
    found = []
    for name, task in result.tasks.items():
        ours, alone = result.final[name].score, result.dedicated[name].score
        if ours < alone:
            found.append(
                f"{name}: {task.metric} {score_text(task, ours)} instead of {score_text(task, alone)} in a dedicated "
                f"network, {difference(task, ours, alone)}."
            )
    for speed in result.speeds:
        rows = f"With {speed.rows_per_task} rows of each task a mixed batch"
        if speed.ratio < 1 and not speed.is_noisy:
            found.append(f"{rows} takes {1 / speed.ratio:.2f} times as long as the four dedicated networks.")
        if not speed.is_identical:
            found.append(
                f"{rows} gives the same outputs as the tasks one by one only up to rounding: the compiled kernels, "
                f"which make them bit-identical, are not used here."
            )
    if any(speed.is_noisy for speed in result.speeds):
        found.append(
            "Other programs disturbed the measurement of milliseconds, of which nothing is said here: "
            "run the demo again on an idle machine. Where cores are shared, OMP_WAIT_POLICY=passive helps."
        )
    if result.sizes.ours_stored >= result.sizes.dedicated:
        found.append("The shared network needs no fewer bytes than the dedicated ones.")
    test_rows = ", ".join(str(len(task.data.test)) for task in result.tasks.values())
    index = kilobytes(result.sizes.ours["index"])
    return [
        *found,
        f"The kernels derive an index from the positions of the weights: {index} kB more in memory while the network "
        f"is used, nothing in its file.",
        "Tasks do not help each other: nothing that one has learned is read by another.",
        f"This is one run with one seed, and the test parts are small ({test_rows} rows): differences of a few rows "
        f"are chance.",
    ]
