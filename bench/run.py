"""Prove, then time, each point of a suite: `python -m bench.run --suite cpu|sweep|e2e [--quick] [--filter TEXT]
[--out FILE.jsonl]`.

Every line of the output says how long ours takes, how many times longer the best dense alternative and each of the
others take, and, for each goal of the point, whether the figure passes. The exit status is 1 when a result is wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rsn2.data import DataError

from . import e2e
from .facts import facts
from .measure import DISTURBED, FULL, QUICK, measure
from .registry import SUITES, points

HEADER = f"{'point':72} {'ours ms':>9} {'p20':>8} {'p80':>8} {'dense/ours':>10}  best dense; others; goals"


def lines(suite: str, *, quick: bool, text: str) -> Iterator[dict[str, Any]]:
    """The lines of a suite's points whose name contains ``text``."""
    if suite == "e2e":
        for network in e2e.NETWORKS.values():
            if text in network.title:
                yield {"name": network.title, **e2e.measure(network, quick=quick)}
        return
    for point in points(suite):
        if text in point.name and (point.quick or not quick):
            yield {"name": point.name, **measure(point, QUICK if quick else FULL)}


def words_of_goal(goal: dict[str, Any]) -> str:
    if goal["figure"] is None:
        return f"{goal['against']}: absent"
    bound = "<=" if goal["at_most"] else ">="
    return f"{goal['verdict']} {goal['figure']:.3g}x {bound} {goal['must']:g} ({goal['reach']:g}) of {goal['against']}"


def row(line: dict[str, Any]) -> str:
    """A line of JSON as a line of text."""
    name = line["name"]
    if "ours" in line.get("wrong", {}):
        return f"{name:72} WRONG, not timed: {line['wrong']['ours']}"
    if "ours_ms" not in line:  # counted
        words = [f"{key} {value}" for key, value in line.items() if key.endswith("_bytes")]
        return f"{name:72} {'; '.join(words)}; {'; '.join(map(words_of_goal, line['goals']))}"
    own, best = line["ours_ms"], line.get("best_dense")
    others = [f"{other} {ratio:.2f}x" for other, ratio in line["ratio"].items() if other != best]
    others += [f"{other} WRONG" for other in line.get("wrong", {})]
    dense = "" if best is None else f"{line['ratio_best_dense']:.2f}"
    words = [best or "", ", ".join(others), *map(words_of_goal, line["goals"])]
    times = f"{own['median']:9.3f} {own['p20']:8.3f} {own['p80']:8.3f} {dense:>10}"
    return f"{name:72} {times}  {'; '.join(filter(None, words))}"


def disturbed(line: dict[str, Any]) -> list[str]:
    """Alternatives of which many calls took much longer than the fastest one: something else used the machine."""
    times = {"ours": line["ours_ms"], **line["others_ms"]} if "ours_ms" in line else {}
    return [name for name, timing in times.items() if timing["p80"] > DISTURBED * timing["least"]]


def summary(found: list[dict[str, Any]]) -> str:
    """What did not hold, and how much did."""
    judged = [(line["name"], goal) for line in found for goal in line.get("goals", [])]
    count = Counter(goal["verdict"] for _, goal in judged)
    texts = [f"{name}: {words_of_goal(goal)}" for name, goal in judged if goal["verdict"] == "MISS"]
    texts += [f"{line['name']}: {who} is WRONG: {why}" for line in found for who, why in line.get("wrong", {}).items()]
    texts += [f"disturbed: {line['name']}: {', '.join(names)}" for line in found if (names := disturbed(line))]
    why = {f"{name}: {reason}" for line in found for name, reason in line.get("absent", {}).items()}
    texts += [f"absent: {reason}" for reason in sorted(why)]
    texts.append(
        f"{len(found)} points; of {len(judged)} goals {count['reach'] + count['pass']} hold "
        f"({count['reach']} as far as hoped for), {count['MISS']} are missed, "
        f"{count['absent']} have nothing to compare with"
    )
    return "\n".join(texts)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    parser.add_argument("--suite", default="cpu", choices=[*SUITES, "e2e"])
    parser.add_argument("--quick", action="store_true", help="fewer points and shorter timing, under two minutes (cpu)")
    parser.add_argument("--filter", default="", metavar="TEXT", help="only points whose name contains this")
    parser.add_argument("--out", type=Path, help="append a JSON line per point")
    arguments = parser.parse_args(argv)
    known = facts()
    print(" ".join(f"{key}={value}" for key, value in known.items() if key != "library"))
    print(HEADER)
    found = []
    try:
        for line in lines(arguments.suite, quick=arguments.quick, text=arguments.filter):
            found.append(line)
            print(row(line), flush=True)
            if arguments.out:
                arguments.out.parent.mkdir(parents=True, exist_ok=True)
                with open(arguments.out, "a", encoding="utf-8") as file:
                    # The threads of the line, where a point has its own, win over those of the machine.
                    full = {**known, "suite": arguments.suite, "quick": arguments.quick, **line}
                    file.write(json.dumps(full) + "\n")
    except DataError as error:
        parser.error(str(error))
    print(summary(found))
    return 1 if any("ours" in line.get("wrong", {}) for line in found) or not found else 0


if __name__ == "__main__":
    sys.exit(main())
