"""What a run says in the end: `python -m bench.gpu.summary DIR`, at most 60 lines of text from its files."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

from .lines import read

MOST_LINES = 60


def words_of_goal(goal: dict[str, Any]) -> str:
    if goal["figure"] is None:
        return f"{goal['verdict']} {goal['against']}"
    bound = "<=" if goal["at_most"] else ">="
    return f"{goal['verdict']} {goal['figure']:.2f}x {bound} {goal['must']:g} ({goal['reach']:g}) of {goal['against']}"


def row(line: dict[str, Any]) -> str:
    """A point as a line of text."""
    if line["status"] != "ok":
        return f"{line['name']}: {line['status'].upper()}: {line.get('why', '')}"
    times = line["times"]
    words = [f"{name} {timing['us']:.1f} us" for name, timing in times.items() if name == "ours" or "ratio" not in line]
    words += [f"{name} {ratio:.2f}x" for name, ratio in line.get("ratio", {}).items()]
    words += [f"{name} WRONG" for name in line["wrong"]]
    words += [f"[{words_of_goal(goal)}]" for goal in line.get("goals", [])]
    return f"{line['name']}: {'; '.join(words)}"


def of_goals(lines: list[dict[str, Any]]) -> str:
    """Every goal judged, the missed ones one by one, then what failed."""
    judged = [(line["name"], goal) for line in lines for goal in line.get("goals", [])]
    count = Counter(goal["verdict"] for _, goal in judged)
    texts = [f"{name}: {words_of_goal(goal)}" for name, goal in judged if goal["verdict"] == "MISS"]
    texts += [f"{line['name']}: {line['status'].upper()}: {line.get('why', '')}" for line in lines
              if line["status"] in ("failed", "lost")]  # fmt: skip
    texts += [
        f"{line['name']}: {name} is WRONG: {why}" for line in lines for name, why in line.get("wrong", {}).items()
    ]
    texts.append(
        f"{len(lines)} lines; of {len(judged)} goals {count['reach'] + count['pass']} hold ({count['reach']} as far as "
        f"hoped for), {count['MISS']} are missed, {count['absent']} have nothing to compare with"
    )
    return "\n".join(texts)


def absences(lines: list[dict[str, Any]]) -> list[str]:
    found = {f"absent: {name}: {why}" for line in lines for name, why in line.get("absent", {}).items()}
    return sorted(found | {f"absent: {line['group']}: {line['why']}" for line in lines if line["status"] == "absent"})


def text(folder: Path) -> list[str]:
    """The summary's lines: parts, correctness, gates, goals; the middle is cut where it is too long."""
    parts = (folder / "parts.txt").read_text(encoding="utf-8").splitlines() if (folder / "parts.txt").exists() else []
    tests, gates, points = (read(folder / f"{name}.jsonl") for name in ("test", "gates", "bench"))
    head = [f"{folder}", *(f"part {part}" for part in parts)]
    if tests:
        count = Counter(line["status"] for line in tests)
        head.append("correctness: " + ", ".join(f"{number} {status}" for status, number in count.items()))
    body = [f"{line['name']}: {line['status'].upper()}: {line.get('why', '')}" for line in tests
            if line["status"] in ("failed", "lost")]  # fmt: skip
    body += [verdict for line in gates for verdict in line.get("verdicts", [])]
    tail = absences([*tests, *gates, *points])[:8]
    if points:
        *missed, last = of_goals(points).splitlines()
        if any(line.get("dry") for line in points):
            missed, last = [], f"{last} (dry: no figure means anything)"
        body += missed
        tail.append(last)
    room = MOST_LINES - len(head) - len(tail) - 1
    if len(body) > room:
        body = [*body[: max(room, 0)], f"... and {len(body) - max(room, 0)} more"]
    return [line[:200] for line in (*head, *body, *tail)]


def main(argv: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    if len(arguments) != 1 or not Path(arguments[0]).is_dir():
        print("usage: python -m bench.gpu.summary DIR", file=sys.stderr)
        return 2
    print("\n".join(text(Path(arguments[0]))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
