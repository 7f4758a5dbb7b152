"""One line per finished unit, found again, and never half a line."""

from __future__ import annotations

import json

import pytest

from rsn2.experiments import records
from rsn2.experiments.experiment import Unit

UNIT = Unit("exp", "base", 0, "all", {"keep": 0.1, "widths": [3, 2]})


def line_of(unit: Unit, **metrics) -> dict:
    return {
        "experiment": unit.experiment, "variant": unit.variant, "seed": unit.seed, "stage": unit.stage,
        "settings_hash": unit.settings_hash, "settings": dict(unit.settings), "metrics": metrics,
    }  # fmt: skip


def test_lines_are_read_back(tmp_path):
    path = tmp_path / "new" / "results.jsonl"
    other = Unit("exp", "base", 1, "all", UNIT.settings)
    records.append_line(path, line_of(UNIT, a=1))
    records.append_line(path, line_of(other, a=2))
    lines = records.read_lines(path)
    assert [line["metrics"]["a"] for line in lines] == [1, 2]
    assert records.find(lines, UNIT)["metrics"] == {"a": 1}
    assert records.find(lines, Unit("exp", "base", 0, "all", {"keep": 0.2, "widths": [3, 2]})) is None
    assert records.find(lines, Unit("exp", "base", 0, "other", UNIT.settings)) is None


def test_the_hash_is_of_the_settings_alone_and_not_of_their_order():
    assert (
        Unit("a", "b", 1, "c", {"x": 1, "y": 2}).settings_hash == Unit("d", "e", 2, "f", {"y": 2, "x": 1}).settings_hash
    )
    assert Unit("a", "b", 1, "c", {"x": 1}).settings_hash != Unit("a", "b", 1, "c", {"x": 2}).settings_hash


def test_a_line_that_was_cut_off_is_no_result_and_is_replaced(tmp_path):
    path = tmp_path / "results.jsonl"
    records.append_line(path, line_of(UNIT, a=1))
    whole = path.read_bytes()
    for cut in (1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole + whole[:cut])
        assert len(records.read_lines(path)) == 1
        records.append_line(path, line_of(UNIT, a=3))
        assert [line["metrics"]["a"] for line in records.read_lines(path)] == [1, 3]


def test_no_file_is_no_result(tmp_path):
    assert records.read_lines(tmp_path / "results.jsonl") == []


@pytest.mark.parametrize("bad", ["{", "[1]", json.dumps({"experiment": "exp"})])
def test_a_foreign_line_is_an_error_that_names_it(tmp_path, bad):
    path = tmp_path / "results.jsonl"
    records.append_line(path, line_of(UNIT))
    path.write_text(path.read_text() + bad + "\n")
    with pytest.raises(ValueError, match=r"results.jsonl: line 2 must be"):
        records.read_lines(path)


def test_nan_is_refused(tmp_path):
    with pytest.raises(ValueError):
        records.append_line(tmp_path / "results.jsonl", line_of(UNIT, a=float("nan")))
    assert records.read_lines(tmp_path / "results.jsonl") == []
