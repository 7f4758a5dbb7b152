"""The experiment on transfer in its smoke form, on tiny files, and on the real ones where they are."""

from __future__ import annotations

import os
from dataclasses import asdict, replace

import pytest
import torch

from rsn2.experiments import load_experiment, records
from rsn2.experiments.experiment import Context, network_file
from rsn2.experiments.protocol import Recipe, _Stage
from rsn2.experiments.running import run
from rsn2.experiments.tasks import prepared
from rsn2.experiments.transfer import FIRST, ROWS, Settings, control, network, prepare, tasks

NAMES = ("transfer", "transfer-digits", "transfer-conv")
QUIET = {"smoke": True, "progress": False, "say": lambda line: None}


@pytest.fixture(scope="module")
def finished(tiny_data, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    for name in NAMES:
        run(load_experiment(name), out, data_dir=tiny_data, seeds=[0], **QUIET)
    return out


def lines_of(out, name, variant) -> list[dict]:
    return [line for line in records.read_lines(out / f"{name}.jsonl") if line["variant"] == variant]


@pytest.mark.parametrize("name", NAMES)
def test_every_task_is_tested_and_none_forgets(finished, name):
    for variant in load_experiment(name).variants:
        lines = lines_of(finished, name, variant)
        assert [line["stage"] for line in lines] == ([*ROWS] if variant == "control" else [FIRST, *ROWS])
        seen: dict[str, float] = {}
        for line in lines:
            metrics = line["metrics"]["tasks"][line["stage"]]
            assert 0 <= metrics["accuracy"] <= 1 and metrics["validation"]["loss"] > 0 and len(metrics["f1"]) == 5
            if variant not in ("control", "finetuned"):
                after = line["metrics"]["losses_after"]
                assert {task: after[task] for task in seen} == seen
                assert line["metrics"]["outputs_of_earlier_tasks"] == ("the same bits" if seen else "no earlier tasks")
                seen = after


def test_what_is_trained_on_starts_from_the_first_task(finished, tiny_data):
    """With its hidden layers and an output layer of its own; without that network there is an error."""
    experiment = load_experiment("transfer")
    unit = next(u for u in experiment.units((0,), ("finetuned",), True) if u.stage == "300 rows")
    context = Context(tiny_data, finished, finished / "checkpoints" / "none.pt", False, lambda line: None)
    start = _Stage(Recipe(tasks, network, control), unit, context)._network().state_dict()
    first = torch.load(network_file(unit, context, FIRST), weights_only=True)
    fresh = control(unit.settings, FIRST).state_dict()
    assert {name.removeprefix("networks.300 rows.") for name in start} == set(fresh)
    for name in fresh:
        is_learned = torch.equal(start[f"networks.300 rows.{name}"], first[f"networks.{FIRST}.{name}"])
        assert is_learned == (not name.startswith("output")), name
    with pytest.raises(FileNotFoundError):
        _Stage(Recipe(tasks, network, control), replace(unit, seed=7), context)._network()


@pytest.mark.parametrize(("name", "share"), [*((name, "") for name in NAMES), ("transfer", "-0.01")])
def test_only_reading_makes_the_difference(finished, name, share):
    """The first task is one and the same, the others differ."""
    variants = load_experiment(name).variants
    one, two = asdict(variants[f"reading{share}"].settings), asdict(variants[f"alone{share}"].settings)
    assert {key for key in one if one[key] != two[key]} == {"reads"}
    reading, alone = lines_of(finished, name, f"reading{share}"), lines_of(finished, name, f"alone{share}")
    assert reading[0]["metrics"]["losses_after"] == alone[0]["metrics"]["losses_after"]
    for one, two in zip(reading[1:], alone[1:], strict=True):
        assert one["metrics"]["owned_per_layer"] == two["metrics"]["owned_per_layer"]
        assert one["metrics"]["validation_losses"] != two["metrics"]["validation_losses"]


def test_tasks_with_few_rows_have_as_many_as_they_are_named_after(tiny_data, monkeypatch):
    monkeypatch.setitem(ROWS, "100 rows", 60)  # the tiny files have 100 rows of these classes
    settings = asdict(Settings())
    chosen = tasks(settings)
    few, first = (prepared(chosen[name], settings, tiny_data) for name in ("100 rows", FIRST))
    assert [len(split) for split in few.splits().values()] == [60, 15, 25]
    assert [len(split) for split in first.splits().values()] == [80, 20, 25]
    x = chosen["100 rows"].load(tiny_data).train.x
    assert torch.equal(x, torch.cat([few.train.x, few.validation.x])) and set(few.train.y.tolist()) == set(range(5))


@pytest.mark.parametrize("kind", ["fully_connected", "convolutional"])
def test_who_reads_what(kind):
    settings = asdict(Settings(network=kind, reads=True, widths=(784, 64, 48, 10), channels=(8, 8), hidden=(64, 48)))
    net = network(settings)
    net.freeze(FIRST)
    net.freeze("100 rows")
    prepare(net, ["300 rows"], settings)
    for name, layer in net.trunk_layers().items():
        assert [layer.reads(slot) for slot in range(4)] == [(), (), () if name == "output" else (0,), ()]
    prepare(net, [FIRST], settings)
    prepare(net, ["1000 rows"], settings | {"reads": False})
    assert net.trunk_layers()["hidden1"].reads(0) == net.trunk_layers()["hidden1"].reads(3) == ()


@pytest.mark.skipif(not os.environ.get("RSN2_DATA"), reason="RSN2_DATA is not set: the real data sets are needed")
def test_smoke_on_the_real_data(tmp_path):
    lines = run(load_experiment("transfer"), tmp_path, seeds=[0], variants=["reading"], **QUIET)
    assert [line["metrics"]["rows"][line["stage"]]["train"] for line in lines] == [256, 100, 256, 256]
