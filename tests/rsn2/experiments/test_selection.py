"""The experiment on selection in its smoke form, on tiny files, and on the real ones where they are."""

from __future__ import annotations

import os
from dataclasses import asdict

import pytest

from rsn2.experiments import load_experiment, records
from rsn2.experiments.running import run
from rsn2.experiments.selection import KEEPS, REGROW, SCORES, reselection
from rsn2.procedure import Reselection
from rsn2_kernels.formats import num_kept

NAMES = [f"{name}-{keep:g}" for keep in KEEPS for name in (*SCORES, *REGROW)]
QUIET = {"smoke": True, "progress": False, "say": lambda line: None}


@pytest.fixture(scope="module")
def finished(tiny_data, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    run(load_experiment("selection"), out, data_dir=tiny_data, seeds=[0], **QUIET)
    return out


def lines_of(out, variant) -> list[dict]:
    return [line for line in records.read_lines(out / "selection.jsonl") if line["variant"] == variant]


def test_every_share_has_every_way():
    experiment = load_experiment("selection")
    assert list(experiment.variants) == NAMES and experiment.seeds == (0, 1, 2)
    for keep in KEEPS:
        settings = [asdict(experiment.variants[f"{name}-{keep:g}"].settings) for name in SCORES]
        assert [found["score"] for found in settings] == list(SCORES)
        differing = {key for key in settings[0] if len({repr(found[key]) for found in settings}) > 1}
        assert differing == {"score"} and settings[0]["keep"] == keep


def test_reselection_is_what_the_settings_say():
    variants = load_experiment("selection").variants
    found = {name: reselection(asdict(variant.settings)) for name, variant in variants.items()}
    for name, options in found.items():
        regrow = REGROW.get(name.rsplit("-", 1)[0], ("",))[0]
        expected = {"reselect": Reselection(until=900, every=100, fraction=0.3, regrow=regrow)} if regrow else {}
        assert options == expected


@pytest.mark.parametrize("name", NAMES)
def test_every_task_is_tested_and_owns_what_it_keeps(finished, name):
    digits, fashion = lines_of(finished, name)
    for line, task in ((digits, "digits"), (fashion, "fashion")):
        metrics = line["metrics"]["tasks"][task]
        assert 0 <= metrics["accuracy"] <= 1 and metrics["validation"]["loss"] > 0
    for layer, owned in fashion["metrics"]["owned_per_layer"].items():
        count = num_kept(fashion["settings"]["keep"], fashion["metrics"]["weights_per_layer"][layer])
        assert owned == {"digits": count, "fashion": count}
    assert fashion["metrics"]["outputs_of_earlier_tasks"] == "the same bits"
    assert fashion["metrics"]["losses_after"]["digits"] == digits["metrics"]["losses_after"]["digits"]


def test_every_way_is_another(finished):
    for keep in KEEPS:
        results = [lines_of(finished, f"{name}-{keep:g}")[1]["metrics"]["validation_losses"]
                   for name in (*SCORES, *REGROW)]  # fmt: skip
        assert len({repr(losses) for losses in results}) == len(results)


def test_controls_are_those_of_experiment_3(finished):
    stages = [(line["variant"], line["stage"]) for line in records.read_lines(finished / "exp3.jsonl")]
    assert stages == [("control", "digits"), ("control", "fashion")]


def test_an_interrupted_stage_ends_as_one_that_was_not(finished, tiny_data, tmp_path, monkeypatch):
    from rsn2.procedure.run import Run

    name, train_step, steps = f"reselect-{KEEPS[0]:g}", Run._train_step, []
    options = dict(data_dir=tiny_data, seeds=[0], variants=[name], **QUIET)

    def interrupted(self):
        steps.append(self.step)
        if len(steps) == 4:  # two steps make an epoch: in the second stage
            raise KeyboardInterrupt
        return train_step(self)

    monkeypatch.setattr(Run, "_train_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(load_experiment("selection"), tmp_path, **options)
    monkeypatch.undo()
    again = run(load_experiment("selection"), tmp_path, **options)
    assert [line["metrics"]["tasks"] for line in again] == [
        line["metrics"]["tasks"] for line in lines_of(finished, name)
    ]


@pytest.mark.skipif(not os.environ.get("RSN2_DATA"), reason="RSN2_DATA is not set: the real data sets are needed")
def test_smoke_on_the_real_data(tmp_path):
    lines = run(load_experiment("selection"), tmp_path, seeds=[0], variants=[f"reselect-{KEEPS[0]:g}"], **QUIET)
    assert [line["metrics"]["rows"][line["stage"]]["train"] for line in lines] == [256, 256]
