"""What became slower or faster: `python -m bench.compare A.jsonl B.jsonl [--threshold 1.1]`.

Compared are ratios, which two runs have in common even where the machines or their load do not: of the best dense
alternative's time to ours, or, for points without one, of the goal's figure or of the first other's time. The exit
status is 1 when a point of B is slower than in A by more than the threshold, 2 when the files have no point in common.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple


class Change(NamedTuple):
    """A point of both files: how many times faster than the alternative ours was, and is now."""

    name: str
    against: str
    before: float
    after: float

    @property
    def slower(self) -> float:
        """How many times slower ours became; below 1 where it became faster."""
        return self.before / self.after


def read(path: Path) -> dict[str, dict[str, Any]]:
    """The lines of a file by name, threads and CPU level. Of several lines with one name the last counts.

    Raises:
        ValueError: a line is no JSON object of a run.
    """
    found = {}
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            line = json.loads(text)
            key = f"{line['name']} [{line['threads']} threads, {line['cpu_level']}]"
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{path}:{number} is no line of bench.run: {error!r}") from error
        found[key] = line
    return found


def speed(line: Mapping[str, Any], against: str | None = None) -> tuple[str, float] | None:
    """What the point is compared by, and the figure, larger for faster; None where nothing was timed.

    Args:
        against: the alternative, when it is not to be chosen.
    """
    ratios = dict(line.get("ratio", {}))
    if line.get("ratio_best_dense") is not None:
        ratios["best dense"] = line["ratio_best_dense"]
    if against is None:
        wanted = ["best dense", *(goal["against"] for goal in line.get("goals", [])), *ratios]
        against = next((name for name in wanted if name in ratios), None)
    return None if against is None or against not in ratios else (against, ratios[against])


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterable[Change]:
    """The points that both have, in the order of ``after``."""
    for name, line in after.items():
        old = speed(before.get(name, {}))
        new = None if old is None else speed(line, old[0])
        if old is not None and new is not None:
            yield Change(name, old[0], old[1], new[1])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    parser.add_argument("before", type=Path, metavar="A.jsonl")
    parser.add_argument("after", type=Path, metavar="B.jsonl")
    parser.add_argument("--threshold", type=float, default=1.1, help="by how much a point may become slower")
    arguments = parser.parse_args(argv)
    if not arguments.threshold >= 1:
        parser.error(f"--threshold must be at least 1, got {arguments.threshold}")
    try:
        before, after = read(arguments.before), read(arguments.after)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    found = sorted(changes(before, after), key=lambda change: -change.slower)
    if not found:
        print("the files have no timed point in common")
        return 2
    slower = [change for change in found if change.slower > arguments.threshold]
    faster = [change for change in found if change.slower < 1 / arguments.threshold]
    for title, chosen in (("slower", slower), ("faster", faster)):
        for change in chosen:
            by = change.slower if title == "slower" else 1 / change.slower
            print(f"{by:5.2f}x {title}: {change.name}: {change.before:.2f}x -> {change.after:.2f}x of {change.against}")
    wrong = [name for name, line in after.items() if "ours" in line.get("wrong", {})]
    for name in wrong:
        print(f"WRONG now: {name}")
    missing = len(before.keys() - after.keys()), len(after.keys() - before.keys())
    print(f"{len(found)} points compared, {len(slower)} slower and {len(faster)} faster than {arguments.threshold:g}x; "
          f"{missing[0]} only in {arguments.before}, {missing[1]} only in {arguments.after}")  # fmt: skip
    return 1 if slower or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
