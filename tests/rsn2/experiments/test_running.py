"""Units run once, go on from their checkpoint, and say on what they ran."""

from __future__ import annotations

import mmap
from dataclasses import dataclass

import pytest
import torch

from rsn2.experiments import EXPERIMENTS, environment, load_experiment, records
from rsn2.experiments.experiment import Context, Experiment, Unit, Variant
from rsn2.experiments.running import run


@dataclass(frozen=True)
class Toy:
    keep: float = 0.1
    smoke: bool = False


def toy(run_unit) -> Experiment:
    variants = {"a": Variant("first", Toy(), ("one", "two")), "b": Variant("second", Toy(keep=0.2), ("one",))}
    return Experiment("toy", "a toy", "", variants, {"smoke": True}, (), run_unit, seeds=(0, 1))


class Recorder:
    def __init__(self, fail_at: int | None = None):
        self.calls: list[tuple] = []
        self.resumed: list[bool] = []
        self.fail_at = fail_at

    def __call__(self, unit: Unit, context: Context) -> dict:
        self.calls.append((unit.variant, unit.seed, unit.stage))
        self.resumed.append(context.checkpoint.exists())
        context.checkpoint.write_text("half way")
        if len(self.calls) == self.fail_at:
            raise KeyboardInterrupt
        return {"tasks": {"t": {"accuracy": 0.5}}}


def quiet(out, recorder, **options):
    return run(toy(recorder), out, progress=False, say=lambda line: None, **options)


def test_every_unit_runs_once(tmp_path):
    recorder = Recorder()
    lines = quiet(tmp_path, recorder)
    assert recorder.calls == [(v, s, stage) for s in (0, 1) for v, stage in (("a", "one"), ("a", "two"), ("b", "one"))]
    assert records.read_lines(tmp_path / "toy.jsonl") == lines
    again = Recorder()
    assert quiet(tmp_path, again) == lines
    assert again.calls == []


def test_other_settings_are_other_units(tmp_path):
    quiet(tmp_path, Recorder())
    smoke = Recorder()
    quiet(tmp_path, smoke, smoke=True)
    assert len(smoke.calls) == 6


def test_an_interrupted_unit_is_not_recorded_and_finds_its_checkpoint(tmp_path):
    broken = Recorder(fail_at=2)
    with pytest.raises(KeyboardInterrupt):
        quiet(tmp_path, broken)
    assert [line["stage"] for line in records.read_lines(tmp_path / "toy.jsonl")] == ["one"]
    again = Recorder()
    quiet(tmp_path, again)
    assert again.calls[0] == ("a", 0, "two") and again.resumed == [True] + [False] * 4
    assert [line["resumed"] for line in records.read_lines(tmp_path / "toy.jsonl")] == [False, True] + [False] * 4
    assert not any((tmp_path / "checkpoints").iterdir())


def test_some_seeds_and_variants(tmp_path):
    recorder = Recorder()
    quiet(tmp_path, recorder, seeds=[7], variants=["b"])
    assert recorder.calls == [("b", 7, "one")]
    with pytest.raises(ValueError, match=r"units: variants \(--variant\) of toy must be among a, b, got c"):
        quiet(tmp_path, recorder, variants=["c"])


def test_a_line_says_what_it_was_made_on(tmp_path):
    (line,) = quiet(tmp_path, Recorder(), seeds=[0], variants=["b"])
    assert line["settings"] == {"keep": 0.2, "smoke": False}
    assert line["environment"]["torch"] == torch.__version__
    assert line["environment"]["threads"] == torch.get_num_threads()
    assert {"cpu_level", "processor", "device", "commit", "rsn2_kernels", "python"} <= line["environment"].keys()
    assert line["peak_memory_bytes"] > 10_000_000 and line["wall_seconds"] >= 0


def test_peak_memory_sees_an_allocation_and_forgets_an_earlier_one():
    first = environment.PeakMemory()
    # Pages of our own: a tensor may be given memory that an earlier test freed and the allocator kept.
    with mmap.mmap(-1, 60_000_000) as block:
        block.write(b"\1" * len(block))
        high = first.num_bytes()
    second = environment.PeakMemory()
    if second.since_start_of_process:
        pytest.skip("this system does not let a process reset its peak")
    assert high - second.num_bytes() > 40_000_000


def test_the_commit_is_one_or_none():
    found = environment.commit()
    assert found is None or len(found.removesuffix("-changed")) == 40


def test_unknown_experiment_lists_those_there_are():
    with pytest.raises(ValueError, match=f"must be one of {', '.join(EXPERIMENTS)}, got 'exp99'"):
        load_experiment("exp99")
