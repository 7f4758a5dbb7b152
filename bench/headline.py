"""The headline table of ``rsn2 bench``: a handful of points against what PyTorch and, where installed, others give."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .facts import facts
from .measure import Pace, measure
from .ops import task_conv2d, task_linear, task_linear_gradients
from .ops.task_linear import Linear
from .registry import Point

LEFT_OUT = ("torch.compile frozen", "torch.compile", "DeepSparse", "SparseProp")
PACE = Pace(0.3, block=5, least=4, most=20, attempts=2, leave_out=LEFT_OUT)
LARGE = Linear(1000, 1000, 512, 0.10)


def chosen() -> Iterator[tuple[str, Point]]:
    """The points, in words."""
    yield "linear 1000x1000, 512 rows", task_linear.point(LARGE)
    yield "the same, forward and backward", Point(
        "task_linear", "forward+backward", LARGE.settings, lambda: task_linear_gradients.forward_backward(LARGE),
        ("F.linear", "oneDNN"),
    )  # fmt: skip
    yield "the same, rows of ten tasks mixed, forward", task_linear.point(LARGE._replace(num_slots=10))
    yield "linear 1000x1000, 64 rows", task_linear.point(LARGE._replace(B=64))
    yield "linear 4096x4096, 1 row", task_linear.point(Linear(4096, 4096, 1, 0.10))
    yield "linear 1000x1000, 1 row", task_linear.point(Linear(1000, 1000, 1, 0.10))
    conv = task_conv2d.Conv(64, 64, 0.20)
    yield "convolution 3x3, 64 to 64, 28x28, 64 images", Point(
        "task_conv2d", "forward", conv.settings, lambda: task_conv2d.forward(conv),
        ("F.conv2d", "F.conv2d channels_last", "oneDNN", "onnxruntime"),
    )  # fmt: skip


def cells(words: str, line: dict[str, Any]) -> tuple[str, ...]:
    """A row of the table.

    Raises:
        RuntimeError: our result is wrong.
    """
    if "ours" in line["wrong"]:
        raise RuntimeError(f"bench: the result of {words!r} is wrong: {line['wrong']['ours']}")
    default = next(line["ratio"][name] for name in ("F.linear", "F.conv2d") if name in line["ratio"])
    best, masked = line["best_dense"], line["ratio"].get("masked dense")
    return (
        words,
        f"{line['density']:.0%}",
        f"{line['ours_ms']['median']:.2f}",
        f"{line['others_ms'][best]['median']:.2f} ({best})",
        f"{line['ratio_best_dense']:.1f}x",
        f"{default:.1f}x",
        "" if masked is None else f"{masked:.1f}x",
    )


def show() -> None:
    """Measure and print the table; results are compared first.

    Raises:
        RuntimeError: a result is wrong.
    """
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

    known = facts()
    console = Console(highlight=False)
    table = Table(title="Times longer than ours, the same work in turns", title_justify="left")
    for header in ("work (forward, float32)", "owned", "ours, ms", "best dense, ms", "best dense", "PyTorch's default",
                   "masked dense"):  # fmt: skip
        table.add_column(header, justify="left" if header.startswith("work") else "right")
    with Live(table, console=console, auto_refresh=False) as live:
        for words, point in chosen():
            table.add_row(*cells(words, measure(point, PACE)))
            live.refresh()
    level = known["cpu_level"] or "none: the plain PyTorch reference runs, see `rsn2 backends`"
    console.print(
        f"rsn2_kernels {known['rsn2_kernels']}, torch {known['torch']}, "
        f"onnxruntime {known['onnxruntime'] or 'absent'}, {known['processor']}, {known['threads']} threads, CPU level {level}"
    )
    console.print("Best dense is the fastest of PyTorch's default, oneDNN, onnxruntime and channels_last. Every point, "
                  "with its goals: python -m bench.run, in the source tree.")  # fmt: skip
