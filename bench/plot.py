"""Speed-up against density, rows and tasks: `python -m bench.plot RESULTS.jsonl... --out bench/results/`.

Takes the points of `--suite sweep` (others on the same axes join them); writes ``speed_density.svg``,
``speed_rows.svg`` and ``speed_tasks.svg``. Every figure is a time over ours, in one run; above the line at 1 ours is
faster. The lines drawn in full are "best dense", those of single libraries are thinner.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .compare import read as read_lines

Line = Mapping[str, Any]
BEST = "best dense"
# Okabe and Ito's palette, which most kinds of colour blindness tell apart; markers differ too.
STYLES = {
    BEST: ("#000000", "o"),
    "F.linear": ("#D55E00", "v"),
    "F.conv2d": ("#D55E00", "v"),
    "masked dense": ("#CC79A7", "^"),
    "torch CSR": ("#0072B2", "s"),
    "SparseProp": ("#009E73", "D"),
    "DeepSparse": ("#E69F00", "P"),
}
LABELS = {"F.linear": "PyTorch's default", "F.conv2d": "PyTorch's default"}


class Panel(NamedTuple):
    """One set of axes."""

    title: str
    of: Callable[[Line], bool]


class Figure(NamedTuple):
    """One file: its axes share the quantity along x."""

    name: str
    x: str
    label: str
    log: bool
    panels: tuple[Panel, ...]


def _forward(line: Line, shape: str, **wanted: Any) -> bool:
    same = all(line.get(key) == value for key, value in wanted.items())
    return same and line["what"] == "forward" and line.get("shape") == shape and line["dtype"] == "float32"


FIGURES = (
    Figure("speed_density", "density", "share of the weights owned", False, (
        Panel("linear 1000x1000, 512 rows", lambda line: _forward(line, "1000x1000", rows=512, slots=1)),
        Panel("convolution 3x3, 64 to 64, 28x28, 64 images", lambda line: _forward(line, "64x64x3x3@28", rows=64)),
    )),
    Figure("speed_rows", "rows", "rows in the batch", True, (
        Panel("linear 1000x1000, 10 % owned", lambda line: _forward(line, "1000x1000", density=0.10, slots=1)),
        Panel("linear 4096x4096, 10 % owned", lambda line: _forward(line, "4096x4096", density=0.10, slots=1)),
    )),
    Figure("speed_tasks", "slots", "tasks in the batch", True, (
        Panel("linear 1000x1000, 5 % owned by each task, 512 rows,\n"
              "against one dense model for each task",
              lambda line: _forward(line, "1000x1000", density=0.05, rows=512)),
    )),
)  # fmt: skip


def read(paths: Sequence[Path]) -> list[Line]:
    """The timed lines of all files, but for points with a number of threads of their own.

    Raises:
        ValueError: there is none, a line is not of a run, or runs of different numbers of threads are mixed.
    """
    found: dict[str, Line] = {}
    for path in paths:
        for key, line in read_lines(path).items():
            if line.get("ratio") and "threads=" not in line["name"]:
                found[key] = line
    if not found:
        raise ValueError(f"no timed point in {', '.join(map(str, paths))}")
    threads = {line["threads"] for line in found.values()}
    if len(threads) > 1:
        raise ValueError(f"lines with different numbers of threads do not belong in one plot: {sorted(threads)}")
    return list(found.values())


def series(lines: Sequence[Line], panel: Panel, x: str) -> dict[str, list[tuple[float, float]]]:
    """For each alternative its points ``(x, time over ours)``, in order."""
    found: dict[str, list[tuple[float, float]]] = {}
    for line in sorted(filter(panel.of, lines), key=lambda line: line[x]):
        ratios = {**line["ratio"], BEST: line["ratio_best_dense"]}
        for name in STYLES:
            if ratios.get(name) is not None:
                found.setdefault(name, []).append((line[x], ratios[name]))
    return found


def draw(figure: Figure, lines: Sequence[Line], folder: Path) -> Path | None:
    """Write a figure; None when no panel has two points of x to join."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    panels = [(panel, series(lines, panel, figure.x)) for panel in figure.panels]
    panels = [(panel, by_name) for panel, by_name in panels if len(by_name.get(BEST, ())) > 1]
    if not panels:
        return None
    with plt.rc_context({"font.size": 10, "svg.hashsalt": "bench", "svg.fonttype": "none"}):
        drawn, axes = plt.subplots(1, len(panels), figsize=(5.6 * len(panels), 4.8), squeeze=False)
        for ax, (panel, by_name) in zip(axes[0], panels, strict=True):
            for name, pairs in by_name.items():
                colour, marker = STYLES[name]
                ax.plot(*zip(*pairs, strict=True), color=colour, marker=marker, label=LABELS.get(name, name),
                        linewidth=2.5 if name == BEST else 1.2, markersize=6 if name == BEST else 4.5)  # fmt: skip
            ax.axhline(1, color="#777777", linewidth=1, linestyle="--")
            ax.set_yscale("log")
            if figure.log:
                ax.set_xscale("log")
            ticks = sorted({x for pairs in by_name.values() for x, _ in pairs})
            ax.xaxis.set_major_locator(FixedLocator(ticks))
            ax.xaxis.set_minor_locator(NullLocator())
            ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.0%}" if figure.x == "density" else f"{x:g}"))
            ax.tick_params(axis="x", rotation=45 if len(ticks) > 7 else 0)
            ax.yaxis.set_major_locator(FixedLocator([0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100]))
            ax.yaxis.set_minor_locator(NullLocator())
            ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}x"))
            ax.set_title(panel.title, fontsize=10)
            ax.set_xlabel(figure.label)
            ax.grid(True, color="#dddddd", linewidth=0.6)
            # Below the axes, where it covers no point.
            ax.legend(fontsize=9, frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.17))
        axes[0][0].set_ylabel("time over ours")
        drawn.tight_layout()
        path = folder / f"{figure.name}.svg"
        drawn.savefig(path, metadata={"Date": None})
        plt.close(drawn)
    return path


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.plot", description=__doc__)
    parser.add_argument("results", type=Path, nargs="+", metavar="RESULTS.jsonl")
    parser.add_argument("--out", type=Path, default=Path("bench/results"), help="the folder of the plots")
    arguments = parser.parse_args(argv)
    try:
        lines = read(arguments.results)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    arguments.out.mkdir(parents=True, exist_ok=True)
    for figure in FIGURES:
        path = draw(figure, lines, arguments.out)
        print(f"{figure.name}: too few points, run --suite sweep" if path is None else f"{path} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
