"""A folder of results becomes a report."""

from __future__ import annotations

import json

import pytest

from rsn2.experiments import load_experiment
from rsn2.report.results import as_markdown, main_table_as_markdown, tables, write_markdown, write_report


def write(folder, name, lines):
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_tables_of_an_experiment(exp3, exp3_lines):
    titles = [table.title for table in tables(exp3, exp3_lines)]
    assert titles == ["Results", "Test losses after each stage: ours", "Digits: F1 per class", "Fashion: F1 per class",
                      "Who owns which weights: ours", "Size", "Cost"]  # fmt: skip


def test_no_tables_of_nothing(exp3_lines):
    with pytest.raises(ValueError, match="must be results of exp4, got none"):
        tables(load_experiment("exp4"), exp3_lines)


def test_markdown_of_an_experiment_uses_the_whole_folder(tmp_path, exp3_lines, line):
    exp5 = load_experiment("exp5")
    write(tmp_path, "exp3", exp3_lines)
    write(tmp_path, "exp5", [line("exp5", "ours", "digits", accuracy=0.98)])
    path = write_markdown(exp5, tmp_path)
    assert path.name == "exp5.md"
    assert "| Digits, % | 98.00 (one seed) | ≥ 97 | ✓ reached | 99.25 (99.00, 99.50) |" in path.read_text()


def test_report_of_a_folder_and_its_folders(tmp_path, exp3, exp3_lines):
    (tmp_path / "below").mkdir()
    write(tmp_path / "below", "exp3", exp3_lines)
    report_md, report_html = write_report(tmp_path)
    assert report_md.parent == report_html.parent == tmp_path
    text = report_md.read_text()
    assert as_markdown(exp3, exp3_lines, is_part=True) in text and text.count(exp3.common) == 1
    assert main_table_as_markdown(exp3_lines).splitlines()[0] in text
    assert report_html.read_text().startswith("<!DOCTYPE html>")


def test_main_table_for_the_readme(exp3_lines):
    lines = main_table_as_markdown(exp3_lines).splitlines()
    headings = ("experiment", "task", "ours", "dense control", "ours − control", "target", "verdict", "published",
                "published control")  # fmt: skip
    assert lines[0] == f"| {' | '.join(headings)} |"
    assert sum("✓ reached" in line for line in lines) == 2 and sum("not run" in line for line in lines) >= 20


def test_report_of_nothing(tmp_path):
    with pytest.raises(ValueError, match="must be a folder"):
        write_report(tmp_path / "none")
    with pytest.raises(ValueError, match=r"must hold <experiment>\.jsonl"):
        write_report(tmp_path)


def test_report_of_an_unknown_experiment(tmp_path, line):
    write(tmp_path, "exp99", [line("exp99", "ours", "digits")])
    with pytest.raises(ValueError, match="results must be of exp1, .*, got exp99"):
        write_report(tmp_path)
