"""The headline table of ``rsn2 bench``: a handful of points against what PyTorch and, where installed, others give."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from rsn2.metrics import OtherWork

from .facts import facts
from .measure import Pace, measure
from .ops import task_conv2d, task_linear, task_linear_gradients
from .ops.task_linear import Linear
from .registry import Point

LEFT_OUT = ("torch.compile frozen", "torch.compile", "DeepSparse", "SparseProp")
PACE = Pace(0.3, block=5, least=4, most=20, attempts=2, leave_out=LEFT_OUT)
LARGE = Linear(1000, 1000, 512, 0.10)


def chosen() -> Iterator[tuple[str, Point]]:
    """The points, in words that fit a terminal."""
    yield "linear 1000x1000, 512 rows", task_linear.point(LARGE)
    yield "  forward and backward", Point(
        "task_linear", "forward+backward", LARGE.settings, lambda: task_linear_gradients.forward_backward(LARGE),
        ("F.linear", "oneDNN"),
    )  # fmt: skip
    yield "  rows of ten tasks mixed", task_linear.point(LARGE._replace(num_slots=10))
    yield "linear 1000x1000, 64 rows", task_linear.point(LARGE._replace(B=64))
    yield "linear 4096x4096, 1 row", task_linear.point(Linear(4096, 4096, 1, 0.10))
    yield "linear 1000x1000, 1 row", task_linear.point(Linear(1000, 1000, 1, 0.10))
    conv = task_conv2d.Conv(64, 64, 0.20)
    yield "conv 3x3, 64 to 64, 28x28", Point(
        "task_conv2d", "forward", conv.settings, lambda: task_conv2d.forward(conv),
        ("F.conv2d", "F.conv2d channels_last", "oneDNN", "onnxruntime"),
    )  # fmt: skip


def cells(words: str, line: dict[str, Any]) -> tuple[str, ...]:
    """A row of the table.

    Raises:
        RuntimeError: our result is wrong.
    """
    if "ours" in line["wrong"]:
        raise RuntimeError(f"bench: the result of {words.strip()!r} is wrong: {line['wrong']['ours']}")
    ratio = line["ratio"]
    return (
        words,
        f"{line['density']:.0%}",
        f"{line['ours_ms']['median']:.2f}",
        f"{line['ratio_best_dense']:.1f}x {line['best_dense'].split()[-1]}",
        *(f"{ratio[name]:.1f}x" for name in ("F.linear", "F.conv2d") if name in ratio),
        f"{ratio['masked dense']:.1f}x",
    )


def show() -> None:
    """Measure and print the table; results are compared first.

    Raises:
        RuntimeError: a result is wrong.
    """
    from rich import box
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

    known = facts()
    console = Console(highlight=False)
    console.print("How many times longer than ours the same work takes, in turns (float32, forward; ms are ours):")
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    for header in ("work", "owned", "ms", "best dense", "default", "masked"):
        table.add_column(header, justify="left" if header in ("work", "best dense") else "right", no_wrap=True)
    with OtherWork() as other, Live(table, console=console, auto_refresh=False) as live:
        for words, point in chosen():
            table.add_row(*cells(words, measure(point, PACE)))
            live.refresh()
    level = known["cpu_level"] or "none (the plain PyTorch reference runs, see `rsn2 backends`)"
    words = [f"rsn2_kernels {known['rsn2_kernels']}", f"torch {known['torch']}"]
    words += [f"onnxruntime {known['onnxruntime'] or 'absent'}", f"CPU level {level}"]
    words += [known["processor"], f"{known['threads']} threads"]
    if other.disturbs(known["threads"]):
        is_passive = os.environ.get("OMP_WAIT_POLICY", "").lower() == "passive"
        passive = "" if is_passive else ", or with OMP_WAIT_POLICY=passive"
        console.print(
            f"\nOther programs kept {other.cores:.1f} of {other.num_cores} cores busy meanwhile, and threads that wait "
            "for each other lose more than that, some more than others: do not believe these ratios. Measure again on "
            f"idle cores, or with --threads 1{passive}."
        )
    console.print(
        "\nBest dense is the fastest of PyTorch's default, oneDNN, onnxruntime and, for convolutions, channels_last, "
        "with the mask multiplied out; masked multiplies it in every call. "
        + ", ".join(words)
        + ". Every point, and its "
        "goal: python -m bench.run, in the source tree."
    )
