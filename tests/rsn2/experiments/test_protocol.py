"""Stages: the same numbers again, interruption, what a later stage builds on, validation, forgetting."""

from __future__ import annotations

import pytest
import torch

from rsn2.experiments import PAPER, load_experiment, protocol, records
from rsn2.experiments.exp3 import Settings, tasks
from rsn2.experiments.running import run
from rsn2.experiments.tasks import prepared


def smoke(tiny_data, out, **options) -> list[dict]:
    chosen = dict(data_dir=tiny_data, seeds=[0], variants=["ours"], smoke=True, progress=False, say=lambda line: None)
    return run(load_experiment("exp3"), out, **(chosen | options))


@pytest.fixture(scope="module")
def finished(tiny_data, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    return out, smoke(tiny_data, out)


def results(lines: list[dict]) -> list:
    return [line["metrics"]["tasks"] for line in lines]


def test_a_line_holds_all_metrics(finished):
    first, second = finished[1]
    assert first["metrics"]["rows"] == {"digits": {"train": 160, "validation": 40, "test": 50}}
    for line in (first, second):
        found = line["metrics"]
        assert found["epochs"] == found["best_epoch"] == len(found["validation_losses"]) == 1
        assert found["claim_seconds"] > 0 and found["seconds_per_epoch"] > 0 and found["bytes"]["file"] > 0
        assert line["wall_seconds"] > 0 and line["peak_memory_bytes"] > 0
        assert len(found["tasks"][line["stage"]]["f1"]) == 10
    assert set(second["metrics"]["losses_after"]) == {"digits", "fashion"}


def test_finished_units_are_skipped(finished, tiny_data):
    out, lines = finished
    said: list[str] = []
    assert results(smoke(tiny_data, out, say=said.append)) == results(lines)
    assert len(said) == 2 and all(line.endswith("finished before, skipped") for line in said)


def test_one_seed_gives_the_same_numbers_again(finished, tiny_data, tmp_path):
    again = smoke(tiny_data, tmp_path)
    assert results(again) == results(finished[1])
    assert results(smoke(tiny_data, tmp_path, seeds=[1])) != results(again)


def test_an_interrupted_stage_ends_as_one_that_was_not(finished, tiny_data, tmp_path, monkeypatch):
    from rsn2.procedure.run import Run

    train_step, steps = Run._train_step, []

    def interrupted(self):
        steps.append(self.step)
        if len(steps) == 4:  # two steps make an epoch: in the second stage
            raise KeyboardInterrupt
        return train_step(self)

    monkeypatch.setattr(Run, "_train_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        smoke(tiny_data, tmp_path)
    monkeypatch.undo()
    assert [line["stage"] for line in records.read_lines(tmp_path / "exp3.jsonl")] == ["digits"]
    assert results(smoke(tiny_data, tmp_path)) == results(finished[1])
    assert not list((tmp_path / "checkpoints").iterdir())


def test_a_stage_whose_network_is_gone_runs_again(finished, tiny_data, tmp_path):
    lines = finished[1]
    records.append_line(tmp_path / "exp3.jsonl", lines[0])
    said: list[str] = []
    assert results(smoke(tiny_data, tmp_path, say=said.append)) == results(lines)
    assert "the network that the next stage builds on is not there" in said[0]
    assert [line["stage"] for line in records.read_lines(tmp_path / "exp3.jsonl")] == ["digits", "digits", "fashion"]


def test_a_changed_output_of_an_earlier_task_is_an_error(tiny_data, tmp_path, monkeypatch):
    fit = protocol.fit

    def careless(net, names, *args, **kwargs):
        history = fit(net, names, *args, **kwargs)
        if "fashion" in names:
            with torch.no_grad():
                net.trunk.hidden1.flat_values[0] += 1
        return history

    monkeypatch.setattr(protocol, "fit", careless)
    with pytest.raises(RuntimeError, match="outputs of digits changed in a later stage"):
        smoke(tiny_data, tmp_path)


def test_an_output_that_is_not_read_back_as_it_was_is_an_error(tiny_data, tmp_path, monkeypatch):
    """Between two stages the network is a file."""
    load = torch.load

    def careless(path, **kwargs):
        state = load(path, **kwargs)
        if "networks" in str(path):
            state = state | {"trunk.hidden1.bias": state["trunk.hidden1.bias"] + 1}
        return state

    monkeypatch.setattr(torch, "load", careless)
    with pytest.raises(RuntimeError, match="outputs of digits changed between two stages"):
        smoke(tiny_data, tmp_path)


def test_the_papers_variants_are_as_the_paper_has_them():
    for name in PAPER:
        paper = load_experiment(name).variants["paper"].settings
        assert (paper.initialiser, paper.mode, paper.start) == ("normal_0.05", "preallocate", "per_task")
        assert paper.output_scope == "tensor" and paper.score == "gradient"
    assert load_experiment("exp8").variants["authors"].settings.score == "magnitude"


def test_validation_is_the_last_fifth_of_the_training_part(tiny_data):
    settings = Settings(max_rows=100).__dict__
    part = prepared(tasks(settings)["digits"], settings, tiny_data)
    assert [len(split) for split in part.splits().values()] == [80, 20, 50]
    assert torch.equal(part.validation.y, (torch.arange(80, 100) % 10))
