"""Rows of tables are made from the right lines."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from rsn2.experiments import EXPERIMENTS, load_experiment
from rsn2.report.entries import Results


def test_an_entry_is_a_variant_with_its_seeds_and_stages(exp3, exp3_lines):
    ours, control = Results(exp3_lines).entries(exp3)
    assert (ours.variant, ours.title, ours.is_control) == ("ours", "ours", False)
    assert ours.seeds == [0, 1] and ours.stages == ["digits", "fashion"]
    assert ours.values("digits", "accuracy") == [0.97, 0.98] and control.values("fashion", "accuracy") == [0.99, 0.995]
    assert ours.values("digits", "nothing") == [] and ours.values("nothing", "accuracy") == []


def test_the_last_line_of_a_unit_counts(exp3, exp3_lines, line):
    again = line("exp3", "ours", "digits", seed=0, accuracy=0.5)
    ours = Results([*exp3_lines, again]).entries(exp3)[0]
    assert ours.values("digits", "accuracy") == [0.5, 0.98]


def test_a_run_is_whole_when_all_its_stages_are_there(exp3, exp3_lines):
    results = Results(line for line in exp3_lines if (line["seed"], line["stage"]) != (1, "fashion"))
    ours, control = results.entries(exp3)
    assert [[part["stage"] for part in run] for run in ours.whole_runs()] == [["digits", "fashion"]]
    assert [[part["stage"] for part in part] for part in ours.networks()] == [["fashion"]], "the last stage's network"
    assert [[part["stage"] for part in part] for part in control.networks()] == [["digits", "fashion"]], "one per task"


def test_controls_of_another_experiment_are_found(exp3_lines, line):
    exp5 = load_experiment("exp5")
    own = [line("exp5", "ours", "digits"), line("exp5", "control", "boston")]
    ours, control = Results([*exp3_lines, *own]).entries(exp5)
    assert control.is_control and control.order == ("digits", "fashion", "boston")
    assert control.values("digits", "accuracy") == [0.99, 0.995] and control.values("boston", "mse") == [0.016]
    assert len(control.whole_runs()) == 1, "Boston's control has one seed"
    assert ours.whole_runs() == []


def test_one_dense_network_stands_for_all_tasks_with_its_data(line):
    exp1 = load_experiment("exp1")
    lines = [line("exp1", "ours", "subnetwork 1"), line("exp4", "control", "fashion", accuracy=0.91),
             line("exp4", "control", "digits")]  # fmt: skip
    control = Results(lines).control(exp1, smoke=False)
    assert control.values("subnetwork 1", "accuracy") == control.values("subnetwork 4", "accuracy") == [0.91]
    assert control.values("ensemble", "accuracy") == []  # that would be an ensemble of dense networks
    assert len(control.networks()[0]) == 1


def test_smoke_and_full_runs_are_not_mixed(exp3, exp3_lines, line):
    smoke = [line("exp5", "ours", "digits", smoke=True)]
    exp5 = load_experiment("exp5")
    assert Results([*exp3_lines, *smoke]).control(exp5, smoke=True) is None
    assert [entry.title for entry in Results(smoke).entries(exp5)] == ["ours (smoke run)"]
    both = [*exp3_lines, line("exp3", "ours", "digits", smoke=True, accuracy=0.1)]
    assert not any(entry.is_smoke for entry in Results(both).entries(exp3))
    assert Results(both).of(exp3) == exp3_lines and Results(smoke).of(exp5) == smoke


def test_other_settings_are_an_entry_of_their_own_and_the_last_is_chosen(exp3, exp3_lines, line):
    results = Results([line("exp3", "ours", "digits", accuracy=0.5, settings_hash="older"), *exp3_lines])
    titles = [(entry.title, entry.is_current) for entry in results.entries(exp3) if entry.variant == "ours"]
    assert titles == [("ours (older)", False), ("ours", True)]
    assert results.chosen(exp3, "ours", smoke=False).values("digits", "accuracy") == [0.97, 0.98]
    assert results.chosen(exp3, "paper", smoke=False) is None


def test_earlier_settings_are_named_by_what_differs(exp3, line):
    """Those that the variant has now are the current ones, whichever were run last."""
    now = json.loads(json.dumps(asdict(exp3.variants["ours"].settings)))
    lines = [line("exp3", "ours", "digits", settings_hash="a") | {"settings": now},
             line("exp3", "ours", "digits", settings_hash="b")]  # fmt: skip
    lines[1]["settings"] = {key: value for key, value in now.items() if key != "score"} | {"keep": 0.3}
    lines[1]["settings"]["by_stage"] = {"digits": {"batch_size": 32}}
    ours, earlier = Results(lines).entries(exp3)
    assert (ours.title, ours.is_current, earlier.is_current) == ("ours", True, False)
    assert earlier.title == "ours (earlier: keep 0.3, by_stage.digits.batch_size 32, without score, without by_stage)"
    assert Results(lines).chosen(exp3, "ours", smoke=False) == ours


def test_a_variant_that_the_experiment_no_longer_has_is_shown(exp3, exp3_lines, line):
    entries = Results([*exp3_lines, line("exp3", "base", "digits")]).entries(exp3)
    assert [entry.title for entry in entries] == ["ours", "base", "dense control, one network per task"]


def test_short_titles_end_at_a_comma_unless_two_would_be_the_same(exp3, exp3_lines, line):
    short = [entry.short_title for entry in Results([*exp3_lines, line("exp3", "base", "digits")]).entries(exp3)]
    assert short == ["ours", "base", "dense control"]
    two = [line("granularity", variant, "digits") for variant in ("1x1-0.1", "1x1-0.05", "16x16-0.1")]
    short = [entry.short_title for entry in Results(two).entries(load_experiment("granularity"))]
    assert short[:3] == ["1x1, keep 10 %", "16x16", "1x1, keep 5 %"]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_short_titles_of_all_variants_differ(name, line):
    experiment = load_experiment(name)
    lines = [line(name, variant, unit.stages[0]) for variant, unit in experiment.variants.items()]
    short = [entry.short_title for entry in Results(lines).entries(experiment)]
    assert len(set(short)) == len(short)
