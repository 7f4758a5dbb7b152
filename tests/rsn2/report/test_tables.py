"""Tables show the lines and nothing else; misses are shown as misses."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rsn2.experiments import load_experiment
from rsn2.experiments.experiment import Column
from rsn2.experiments.figure import Figure, Series
from rsn2.report.entries import Results
from rsn2.report.tables import (
    Table,
    f1_table,
    figure_table,
    judged,
    kept_by_all,
    losses_table,
    mean_and_range,
    mean_and_spread,
    results_table,
)


def test_mean_and_spread():
    assert mean_and_spread([]) == "–"
    assert mean_and_spread([0.97], 100) == "97.00 (one seed)"
    assert mean_and_spread([0.99, 0.97, 0.98], 100) == "98.00 (99.00, 97.00, 98.00)"
    assert mean_and_spread([0.1 * n for n in range(6)]) == "0.25 (0.00 to 0.50, 6 seeds)"
    assert mean_and_spread([-0.5, -1.5]) == "−1.00 (−0.50, −1.50)"
    assert mean_and_range([2.0, 2.0]) == "2.00" and mean_and_range([1.0, 3.0], 1, 1) == "2.0 (1.0 to 3.0)"


@pytest.mark.parametrize(
    ("values", "wanted", "verdict"),
    [
        ([0.972], 97.2, "✓ reached"),
        ([0.971, 0.973], 97.2, "✓ reached"),
        ([0.9649], 97.2, "✗ missed by 0.71"),
        ([0.97199], 97.2, "✗ missed by 0.001"),
    ],
)
def test_verdicts_of_the_mean(values, wanted, verdict):
    assert judged(Column("t", "accuracy", "T, %"), values, wanted) == verdict


def test_an_error_has_to_be_small():
    column = Column("boston", "mse", "Boston, MSE", scale=1, lower_is_better=True)
    assert judged(column, [0.016, 0.018], 0.017) == "✓ reached"
    assert judged(column, [0.0184], 0.017) == "✗ missed by 0.0014"


def test_results_beside_target_and_paper(exp3, exp3_lines):
    table = results_table(exp3, Results(exp3_lines).entries(exp3))
    assert table.headings == ("", "ours", "target", "verdict", "dense control", "published", "published control")
    assert table.rows[0] == ("Digits, %", "97.50 (97.00, 98.00)", "≥ 97.2", "✓ reached",
                             "99.25 (99.00, 99.50)", "97", "97")  # fmt: skip
    assert "Tables 3, 11 and 12" in table.note


def test_many_variants_are_rows(exp3, exp3_lines, line):
    more = [line("exp3", f"v{number}", "digits") for number in range(4)]
    table = results_table(exp3, Results([*exp3_lines, *more]).entries(exp3))
    assert table.headings == ("", "Digits, %", "Fashion, %")
    assert [row[0] for row in table.rows] == ["ours", "target", "verdict", "v0", "v1", "v2", "v3", "dense control",
                                              "published", "published control"]  # fmt: skip


def test_smoke_runs_are_marked_and_not_judged(exp3, line):
    table = results_table(exp3, Results([line("exp3", "ours", "digits", smoke=True)]).entries(exp3))
    assert table.headings == ("", "ours (smoke run)", "published", "published control")
    assert "shows nothing about accuracy" in table.note


def test_f1_is_the_mean_over_seeds_beside_the_papers(exp3, exp3_lines):
    table = f1_table(exp3.columns[0], Results(exp3_lines).entries(exp3))
    assert table.headings == ("class", "ours", "dense control", "published", "published control")
    assert table.rows[2] == ("2", "0.975", f"{(0.99 + 0.995) / 2:.3f}", "0.98", "0.97") and len(table.rows) == 11
    assert table.rows[-1] == ("accuracy", "0.975", f"{(0.99 + 0.995) / 2:.3f}", "0.97", "0.97")
    assert f1_table(exp3.columns[0], []) is None


def test_losses_after_each_stage(exp3, exp3_lines):
    ours, control = Results(exp3_lines).entries(exp3)
    table = losses_table(exp3, ours)
    assert table.headings == ("task", "after digits", "after fashion")
    assert table.rows == (("digits", "0.250000", "0.250000"), ("fashion", "", "0.500000"))
    assert "In the later stage of each of the 2 seeds" in table.note and "the same bits" in table.note
    assert losses_table(exp3, control) is None


def test_beyond_the_paper_only_the_bits_are_told(line):
    granularity = load_experiment("granularity")
    lines = [line("granularity", "1x1-0.1", "digits"),
             line("granularity", "1x1-0.1", "fashion", losses={"digits": 0.25, "fashion": 0.5})]  # fmt: skip
    entries = Results(lines).entries(granularity)
    assert losses_table(granularity, entries[0]) is None
    assert "For 1 of 1 later tasks all outputs" in results_table(granularity, entries).note
    lines[1]["metrics"]["outputs_of_earlier_tasks"] = "not compared"
    assert "For 0 of 1 later tasks" in results_table(granularity, Results(lines).entries(granularity)).note


def test_every_network_of_capacity_counts_its_later_tasks(line):
    capacity, lines = load_experiment("capacity"), []
    for num_tasks in (8, 17, 32, 64, 128):
        lines.append(line("capacity", "mnist-random", f"T={num_tasks}"))
        lines[-1]["metrics"] |= {"num_tasks": num_tasks, "outputs_of_earlier_tasks": "the same bits"}
    assert "For 244 of 244 later tasks" in kept_by_all(Results(lines).entries(capacity))


def test_what_was_not_compared_is_said(exp3, exp3_lines):
    exp3_lines[1]["metrics"]["outputs_of_earlier_tasks"] = "not compared"
    assert losses_table(exp3, Results(exp3_lines).entries(exp3)[0]).note.endswith(
        "Only 1 of 2 later stages compared the outputs of earlier tasks bit by bit."
    )


def test_losses_stand_beside_the_published_ones(line):
    exp5 = load_experiment("exp5")
    tasks = ["digits", "fashion", "boston"]
    lines = [line("exp5", "ours", task, losses=dict.fromkeys(tasks[: n + 1], 0.1)) for n, task in enumerate(tasks)]
    table = losses_table(exp5, Results(lines).entries(exp5)[0])
    assert table.headings[-1] == "published, at the end" and [row[-1] for row in table.rows] == [
        "0.1513",
        "0.3584",
        "0.01602",
    ]
    assert losses_table(exp5, Results(lines[:2]).entries(exp5)[0]) is None, "no seed is finished"


def test_a_figure_has_its_table():
    series = (Series("a", ((2, (1.0, 2.0)), (4, (3.0,)))), Series("b", ((4, (5.0,)),)))
    figure = Figure("How many", "", "tasks", "accuracy, %", series, digits=1)
    table = figure_table(figure)
    assert table.headings == ("tasks", "a", "b")
    assert table.rows == (("2", "1.5 (1.0, 2.0)", "–"), ("4", "3.0 (one seed)", "5.0 (one seed)"))


def test_groups_are_a_first_column_in_markdown():
    table = Table("t", ("a", "b"), (("1", "2"), ("3", "4"), ("5", "6")), groups=("x", "x", "y"), group_heading="g")
    cells = [row.strip("| ").split(" | ") for row in table.as_markdown().splitlines()]
    assert cells[0] == ["g", "a", "b"] and cells[2:] == [["x", "1", "2"], ["3", "4"], ["y", "5", "6"]]
    assert replace(table, groups=()).as_markdown().startswith("| a | b |")
