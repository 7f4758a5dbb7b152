"""Results on disk: one JSON line per finished unit, appended when it ends."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rsn2.experiments.experiment import Unit

_REQUIRED = ("experiment", "variant", "seed", "stage", "settings", "settings_hash", "metrics")


def file_of(out: Path, experiment: str) -> Path:
    """The file of an experiment's results in a folder of results."""
    return out / f"{experiment}.jsonl"


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The finished units in a file of results; none when there is no such file.

    A last line without its end, left by a process that was killed while writing it, is not a finished unit.

    Raises:
        ValueError: another line is not what ``append_line`` writes; the message names file and line.
    """
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    lines = text.split("\n")[:-1]
    return [_parsed(path, number, line) for number, line in enumerate(lines, start=1)]


def _parsed(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: line {number} must be JSON: {error}") from None
    missing = [key for key in _REQUIRED if not isinstance(record, dict) or key not in record]
    if missing:
        raise ValueError(f"{path}: line {number} must be a unit's result, but it lacks {', '.join(missing)}")
    checked: dict[str, Any] = record
    return checked


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Append one result, whole and on the disk when this returns.

    Raises:
        ValueError: it holds NaN, an infinity, or something that JSON cannot express.
    """
    line = (json.dumps(record, allow_nan=False) + "\n").encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # several processes may work on one experiment's units
        _cut_unfinished_line(file)
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def _cut_unfinished_line(file: Any) -> None:
    file.seek(0)
    content = file.read()
    end = content.rfind(b"\n") + 1
    if end < len(content):
        file.truncate(end)


def key_of(record: dict[str, Any]) -> tuple[str, str, int, str, str]:
    """What a line is found by; the same as ``Unit.key`` of the unit that wrote it."""
    return record["experiment"], record["variant"], record["seed"], record["stage"], record["settings_hash"]


def find(lines: Iterable[dict[str, Any]], unit: Unit) -> dict[str, Any] | None:
    """The line of a unit, if it is finished; the last one if there are several."""
    found = None
    for record in lines:
        if key_of(record) == unit.key:
            found = record
    return found
