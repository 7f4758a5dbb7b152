"""The paper's eight experiments, each in its smoke form on tiny files, and on the real ones where they are."""

from __future__ import annotations

import os

import pytest
from typer.testing import CliRunner

from rsn2.cli import app
from rsn2.experiments import EXPERIMENTS, PAPER, load_experiment, records
from rsn2.experiments.running import run
from rsn2_kernels.formats import num_kept

# Networks of a few units may have a layer whose outputs are all zero for a task.
UNTRAINED = ("authors", "speed")
pytestmark = pytest.mark.filterwarnings("ignore:claim. all scores are zero:UserWarning")


@pytest.fixture(scope="module")
def finished(tiny_data, tmp_path_factory):
    """A folder of results of all eight, seed 0, through the command line."""
    out = tmp_path_factory.mktemp("out")
    arguments = ["--smoke", "--no-progress", "--seeds", "0", "--data-dir", str(tiny_data), "--out", str(out)]
    done = CliRunner().invoke(app, ["run", "all", *arguments])
    assert done.exit_code == 0, done.output
    return out


def test_the_eight_are_all_there():
    assert PAPER == tuple(f"exp{number}" for number in range(1, 9)) and set(PAPER) < set(EXPERIMENTS)


@pytest.mark.parametrize("name", PAPER)
def test_every_task_of_every_unit_is_tested(finished, name):
    experiment = load_experiment(name)
    lines = records.read_lines(finished / f"{name}.jsonl")
    assert {records.key_of(line) for line in lines} == {unit.key for unit in experiment.units((0,), smoke=True)}
    for line in lines:
        for task in line["stage"].split("+") if line["variant"] not in UNTRAINED else ():
            metrics = line["metrics"]["tasks"][task]
            assert metrics["loss"] >= 0 and metrics["validation"]["loss"] >= 0
            assert metrics["mse"] >= 0 if task == "boston" else 0 <= metrics["accuracy"] <= 1


@pytest.mark.parametrize("name", PAPER)
def test_every_column_can_be_filled(finished, name):
    """Of both our variants, and of the controls, borrowed ones included."""
    experiment = load_experiment(name)
    lines = {other: records.read_lines(finished / f"{other}.jsonl") for other in PAPER}
    for column in experiment.columns:
        for variant in ("ours", "paper"):
            own = [line for line in lines[name] if line["variant"] == variant]
            found = [line["metrics"]["tasks"].get(column.task, {}).get(column.metric) for line in own]
            assert sum(value is not None for value in found) == 1, (variant, column.title)
        other, task = experiment.borrowed_controls.get(column.task, (name, column.task))
        controls = [line for line in lines[other] if line["variant"] == "control"]
        has_control = any(task in line["metrics"]["tasks"] for line in controls)
        assert has_control == (column.task != "ensemble"), column.title  # which no dense network stands beside
        if column.published_f1:
            assert len(column.published_f1) == len(column.class_names)


@pytest.mark.parametrize("name", PAPER)
def test_tasks_own_what_they_keep_and_nothing_twice(finished, name):
    for line in records.read_lines(finished / f"{name}.jsonl"):
        if line["variant"] in ("control", *UNTRAINED):
            continue
        keep, stages = line["settings"]["keep"], line["settings"]["stages"]
        is_last = line["stage"] == stages[-1]
        for layer, owned in line["metrics"]["owned_per_layer"].items():
            numel = line["metrics"]["weights_per_layer"][layer]
            counts = {task: count for task, count in owned.items() if count}
            assert set(counts.values()) <= {num_kept(keep, numel)}, layer
            shared = 2 if name == "exp8" and layer.startswith("conv") else 0  # three tasks on faces use one slot
            assert sum(counts.values()) - min(shared, len(counts) - 1) * num_kept(keep, numel) <= numel
            if is_last:
                assert counts.keys() == owned.keys()


@pytest.mark.parametrize("name", PAPER)
def test_the_authors_rule_is_counted(finished, name):
    (line,) = [line for line in records.read_lines(finished / f"{name}.jsonl") if line["variant"] == "authors"]
    for counts in line["metrics"]["authors_selection"].values():
        tasks = {key: count for key, count in counts.items() if key not in ("of several tasks", "of none", "all")}
        assert sum(tasks.values()) >= counts["all"] - counts["of none"] + counts["of several tasks"]
        assert max(tasks.values()) <= counts["all"]


@pytest.mark.parametrize("name", PAPER)
def test_earlier_tasks_are_tested_again_and_have_not_changed(finished, name):
    for variant in ("ours", "paper"):
        seen: dict[str, float] = {}
        for line in records.read_lines(finished / f"{name}.jsonl"):
            if line["variant"] != variant:
                continue
            after = line["metrics"]["losses_after"]
            assert {task: after[task] for task in seen} == seen
            assert line["metrics"]["outputs_of_earlier_tasks"] == ("the same bits" if seen else "no earlier tasks")
            seen = after
        assert set(seen) >= {column.task for column in load_experiment(name).columns} - {"ensemble"}


def test_the_ensemble_is_compared_with_the_best_of_its_members(finished):
    for line in records.read_lines(finished / "exp1.jsonl"):
        metrics = line["metrics"]["tasks"]
        if "ensemble" not in metrics or line["variant"] != "paper":
            continue
        best = max(found["accuracy"] for name, found in metrics.items() if name != "ensemble")
        assert metrics["ensemble"]["above_best"] == pytest.approx(metrics["ensemble"]["accuracy"] - best)


def test_tasks_on_faces_share_their_convolutions(finished):
    line = next(line for line in records.read_lines(finished / "exp8.jsonl") if line["stage"] == "cifar")
    owned = line["metrics"]["owned_per_layer"]
    assert set(owned["conv1"]) == {"age", "gender", "ethnicity", "cifar"}
    assert {"heads.age.output", "heads.cifar.output"} <= set(owned)


def test_borrowed_controls_run_with_the_one_who_borrows(tiny_data, tmp_path):
    said: list[str] = []
    options = dict(data_dir=tiny_data, seeds=[0], variants=["ours"], smoke=True, progress=False, say=said.append)
    run(load_experiment("exp5"), tmp_path, **options)
    assert not (tmp_path / "exp3.jsonl").exists()
    run(load_experiment("exp5"), tmp_path, **{**options, "variants": ["control"]})
    assert [line["stage"] for line in records.read_lines(tmp_path / "exp3.jsonl")] == ["digits", "fashion"]
    assert [line["stage"] for line in records.read_lines(tmp_path / "exp5.jsonl")][-1] == "boston"


def test_controls_that_are_all_borrowed_can_be_asked_for(tiny_data, tmp_path):
    """Experiment 1 has no dense control of its own."""
    lines = run(load_experiment("exp1"), tmp_path, data_dir=tiny_data, seeds=[1], variants=["control"], smoke=True,
                progress=False, say=lambda line: None)  # fmt: skip
    assert [(line["experiment"], line["seed"], line["stage"]) for line in lines] == [("exp4", 1, "fashion")]
    with pytest.raises(
        ValueError, match=r"variants \(--variant\) of exp1 must be among ours, speed, paper, authors, control, got no"
    ):
        run(load_experiment("exp1"), tmp_path, variants=["no"])
    with pytest.raises(ValueError, match=r"variants \(--variant\) of transfer must be among .*, got paper"):
        load_experiment("transfer").units(variants=("paper",))


@pytest.mark.skipif(not os.environ.get("RSN2_DATA"), reason="RSN2_DATA is not set: the real data sets are needed")
def test_smoke_on_the_real_data(tmp_path):
    folders = {"mnist", "fashion_mnist", "cifar10", "boston_housing", "imdb", "utkface"}
    missing = folders - set(os.listdir(os.environ["RSN2_DATA"]))
    if missing:
        pytest.skip(f"RSN2_DATA has no {', '.join(sorted(missing))}")
    for name in PAPER:
        lines = run(load_experiment(name), tmp_path, seeds=[0], smoke=True, progress=False, say=lambda line: None)
        assert len(lines) >= 5
        for line in lines:
            rows = line["metrics"].get("rows", {})
            assert line["variant"] in UNTRAINED or sum(rows[line["stage"].split("+")[0]].values()) > 400
