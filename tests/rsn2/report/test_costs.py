"""Sizes of finished networks, seconds of whole runs."""

from __future__ import annotations

import pytest

from rsn2.experiments import load_experiment
from rsn2.report.costs import (
    cost_table,
    machine,
    megabytes,
    num_file_bytes,
    num_weights,
    per_network,
    size_table,
    speed_of_steps,
)
from rsn2.report.entries import Results


def test_one_network_is_the_last_stages_and_dense_ones_are_added_up(exp3, exp3_lines):
    exp3_lines[0]["metrics"]["bytes"]["file"] = 7  # before the last stage
    ours, control = Results(exp3_lines).entries(exp3)
    assert per_network(ours, num_file_bytes) == 1000 and per_network(control, num_file_bytes) == 2000
    assert per_network(ours, num_weights) == 200
    assert per_network(None, num_file_bytes) is None


def test_unfinished_runs_have_no_size(exp3, exp3_lines, line):
    (ours,) = Results([line("exp3", "ours", "digits")]).entries(exp3)
    assert per_network(ours, num_file_bytes) is None
    assert size_table(exp3, [ours]) is None


def test_weights_of_older_lines_are_counted_once(line):
    found = line("exp8", "ours", "age+gender", owned_weights=200)
    assert num_weights(found) == 100, "400 bytes of values"
    assert num_weights(line("exp8", "control", "age", bytes={"values": 0})) == 100


def test_steps_of_all_timed_tasks_are_added_up(exp3, exp3_lines, line):
    times = {"ours_ms": 10.0, "masked_dense_ms": 30.0, "dense_ms": 20.0}
    timed = line("exp3", "speed", "steps", speed={"a": times, "b": {**times, "masked_dense_ms": 60.0}})
    entry = Results([*exp3_lines, timed]).chosen(exp3, "speed", smoke=False)
    assert speed_of_steps(entry) == ("20", "4.50", "2.00")
    assert speed_of_steps(None) == speed_of_steps(Results(exp3_lines).entries(exp3)[0]) == ("–", "–", "–")


def test_networks_of_different_last_stages_are_told_apart(exp3, line):
    lines = [line("exp3", "v0", "T=2"), line("exp3", "v1", "T=4")]
    assert [row[0] for row in size_table(exp3, Results(lines).entries(exp3)).rows] == ["v0 (T=2)", "v1 (T=4)"]


def test_sizes_stand_beside_the_published_ones(line, exp3, exp3_lines):
    table = size_table(exp3, Results(exp3_lines).entries(exp3))
    assert [row[:4] for row in table.rows] == [("ours", "1", "200", "0.0010"), ("dense control", "2", "200", "0.0020")]
    lines = [line("exp8", "ours", "age+gender+ethnicity"), line("exp8", "ours", "cifar")]
    exp8 = load_experiment("exp8")
    table = size_table(exp8, Results(lines).entries(exp8))
    assert [row[3] for row in table.rows] == ["0.0010", "130", "203"]


def test_cost_of_each_stage(exp3, exp3_lines):
    exp3_lines[4]["metrics"]["epochs"] = 20
    table = cost_table(exp3, Results(exp3_lines).entries(exp3))
    assert table.groups == ("ours", "ours", *["dense control, one network per task"] * 2)
    assert table.rows[0] == ("digits", "15.0 (10.0 to 20.0)", "2.00", "1.00", "31 (21 to 41)", "5")
    assert table.rows[2][3] == "–" and "P, 2 threads, torch 2, CPU level avx2" in table.note


def test_controls_of_another_experiment_are_named(exp3_lines, line):
    exp5 = load_experiment("exp5")
    table = cost_table(exp5, Results([*exp3_lines, line("exp5", "ours", "digits")]).entries(exp5))
    assert [row[0] for row in table.rows] == ["digits", "digits, trained by exp3", "fashion, trained by exp3"]


@pytest.mark.parametrize(("size", "words"), [(None, "–"), (0, "–"), (2_345_678, "2.35"), (1234, "0.0012")])
def test_megabytes(size, words):
    assert megabytes(size) == words


def test_machine():
    facts = {"processor": "P", "threads": 1, "torch": "2", "cpu_level": None, "device": "H200"}
    assert machine(facts) == "P with H200, 1 thread, torch 2, CPU level none (reference)"
