"""The README's table of speed from the lines of a run: `python -m bench.table bench/results/cpu.jsonl`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .compare import read

PEERS = ("F.linear", "F.conv2d", "masked dense", "torch CSR", "SparseProp", "DeepSparse")


class Row(NamedTuple):
    """One line of the table: its words and the name of its point."""

    words: str
    point: str


ROWS = (
    *(
        Row(f"linear 1000x1000, 512 rows, {100 * density:.0f} %, forward",
            f"task_linear forward shape=1000x1000 rows=512 density={density} slots=1")
        for density in (0.05, 0.1, 0.2, 0.25)
    ),
    Row("the same, 10 %, rows of ten tasks mixed", "task_linear forward shape=1000x1000 rows=512 density=0.1 slots=10"),
    Row("the same, 10 %, forward and backward",
        "task_linear forward+backward shape=1000x1000 rows=512 density=0.1 slots=1"),
    Row("linear 4096x4096, 512 rows, 10 %, forward",
        "task_linear forward shape=4096x4096 rows=512 density=0.1 slots=1"),
    Row("linear 43264 to 256, 512 rows, 20 %, forward",
        "task_linear forward shape=256x43264 rows=512 density=0.2 slots=1"),
    *(
        Row(f"linear {size}x{size}, {rows} row{'s' * (rows > 1)}, 10 %, forward",
            f"task_linear forward shape={size}x{size} rows={rows} density=0.1 slots=1")
        for size, rows in ((1000, 64), (1000, 16), (4096, 1), (1000, 1))
    ),
    *(
        Row(f"convolution 3x3, {channels} to {channels}, 28x28, 64 images, {100 * density:.0f} %, "
            f"{what.replace('+', ' and ')}",
            f"task_conv2d {what} shape={channels}x{channels}x3x3@28 rows=64 density={density} slots=1")
        for channels in (64, 32) for density in (0.1, 0.2) for what in ("forward", "forward+backward")
    ),
    *(
        Row(f"convolution 1x1, 64 to 64, 28x28, 64 images, 20 %, {what.replace('+', ' and ')}",
            f"task_conv2d {what} shape=64x64x1x1@28 rows=64 density=0.2 slots=1")
        for what in ("forward", "forward+backward")
    ),
)  # fmt: skip


def ratio(line: Mapping[str, Any], *names: str) -> str:
    found = next((line["ratio"][name] for name in names if name in line["ratio"]), None)
    wrong = any(name in line.get("wrong", {}) for name in names)
    return "wrong" if wrong else "" if found is None else f"{found:.1f}x"


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """The table in Markdown.

    Raises:
        ValueError: a point is not among the lines.
    """
    by_name = {line["name"]: line for line in lines}
    missing = [row.point for row in ROWS if row.point not in by_name]
    if missing:
        raise ValueError(f"table: the lines must hold {', '.join(missing)}")
    head = ("work, share of the weights owned", "ours, ms", "best dense / ours", "PyTorch's default", *PEERS[2:])
    text = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in ROWS:
        line = by_name[row.point]
        best = f"**{line['ratio_best_dense']:.1f}x** ({line['best_dense']})"
        others = [ratio(line, "F.linear", "F.conv2d"), *(ratio(line, name) for name in PEERS[2:])]
        text.append(f"| {row.words} | {line['ours_ms']['median']:.2f} | {best} | {' | '.join(others)} |")
    return "\n".join(text)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.table", description=__doc__)
    parser.add_argument("lines", type=Path, metavar="LINES.jsonl")
    try:
        print(table(list(read(parser.parse_args(argv).lines).values())))
    except (ValueError, OSError) as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
