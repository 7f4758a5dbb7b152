"""The eight experiments in one table."""

from __future__ import annotations

import pytest

from rsn2.experiments import PAPER, load_experiment
from rsn2.report.entries import Results
from rsn2.report.summary import against_targets, file_shares, main_table, size_and_speed_table


def row_of(table, experiment: str, task: str) -> tuple[str, ...]:
    return next(
        row for group, row in zip(table.groups, table.rows, strict=True) if (group, row[0]) == (experiment, task)
    )


def test_every_task_has_a_row_whether_it_was_run_or_not(exp3_lines):
    table = main_table(Results(exp3_lines))
    assert len(table.rows) == sum(len(load_experiment(name).columns) for name in PAPER)
    assert row_of(table, "exp3", "Digits, %") == (
        "Digits, %", "97.50 (97.00, 98.00)", "99.25 (99.00, 99.50)", "−1.75", "≥ 97.2",
        "✓ reached", "97", "97",
    )  # fmt: skip
    assert row_of(table, "exp8 (64x64)", "Age, %") == ("Age, %", "–", "–", "–", "≥ 52", "not run", "55", "32")


def test_a_miss_is_shown_as_a_miss(line):
    lines = [line("exp5", "ours", task, accuracy=0.9) for task in ("digits", "fashion", "boston")]
    lines[2]["metrics"]["tasks"]["boston"]["mse"] = 0.02
    table = main_table(Results(lines))
    assert row_of(table, "exp5", "Digits, %")[5] == "✗ missed by 7.00"
    assert row_of(table, "exp5", "Boston, MSE")[1:6] == ("0.0200 (one seed)", "–", "–", "≤ 0.017", "✗ missed by 0.0030")
    assert row_of(table, "exp5", "Fashion, %")[5] == "✓ reached"


def test_controls_come_from_other_experiments(exp3_lines, line):
    table = main_table(Results([*exp3_lines, line("exp7", "ours", "digits", accuracy=0.98)]))
    difference = "−1.00"  # of the one seed that both have, not of the means
    assert row_of(table, "exp7", "Digits, %")[1:4] == ("98.00 (one seed)", "99.25 (99.00, 99.50)", difference)


def test_smoke_runs_are_not_judged(line):
    table = main_table(Results([line("exp3", "ours", "digits", smoke=True)]))
    assert row_of(table, "exp3", "Digits, %")[5] == "smoke run" and "not judged" in table.note


def test_sizes_and_steps(exp3_lines, line):
    times = {"ours_ms": 10.0, "masked_dense_ms": 30.0, "dense_ms": 20.0}
    table = size_and_speed_table(Results([*exp3_lines, line("exp3", "speed", "steps", speed={"digits": times})]))
    assert table.rows[2] == ("exp3", "200", "200", "2", "0.0010", "0.0020", "0.50", "10", "3.00", "2.00")
    assert table.rows[0] == ("exp1", *["–"] * 9) and table.rows[7][0] == "exp8 (64x64)"


def test_pictures_show_full_runs(exp3_lines, line, parsed, svg_of):
    results = Results(exp3_lines)
    words = [text.text for text in parsed(svg_of(against_targets(results))).iter("{http://www.w3.org/2000/svg}text")]
    assert "3 digits" in words and "3 fashion" in words and "target" in words
    titles = [t.text for t in parsed(svg_of(against_targets(results))).iter("{http://www.w3.org/2000/svg}title")]
    assert "ours: +0.30" in titles and "dense control: +2.05" in titles and "published: -0.20" in titles
    assert "exp3: 0.0010 MB beside 0.0020 MB" in file_shares(results) and "50 %" in file_shares(results)
    smoke = Results([line("exp3", "ours", "digits", smoke=True)])
    assert against_targets(smoke) == "" and file_shares(smoke) == ""


@pytest.mark.parametrize("name", PAPER)
def test_names_fit_beside_the_dots(name):
    from rsn2.report.summary import _short

    for column in load_experiment(name).columns:
        assert len(f"1 {_short(column.title.split(',')[0])}") <= 16


def test_several_settings_are_not_hidden(exp3_lines, line):
    older = line("exp3", "ours", "digits", accuracy=0.5, settings_hash="older")
    table = main_table(Results([older, *exp3_lines]))
    assert row_of(table, "exp3", "Digits, %")[1].startswith("97.50") and "exp3: run with several settings" in table.note
    assert "several settings" not in main_table(Results(exp3_lines)).note


def test_what_is_far_out_is_drawn_at_the_edge_with_its_number(exp3_lines, line, parsed, svg_of):
    far = line("exp3", "control", "digits", accuracy=0.5, seed=0)
    lines = [found for found in exp3_lines if (found["variant"], found["stage"]) != ("control", "digits")]
    svg = parsed(svg_of(against_targets(Results([*lines, far]))))
    words = [text.text for text in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert "−47.2" in words and "-10" in words and "-20" not in words
