"""How many tasks fit: permutations, the rule of success, and what a line holds."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

from rsn2.experiments import capacity, load_experiment, records
from rsn2.experiments.capacity import connected_weights, is_success, permutation, permuted, summary_name
from rsn2.experiments.running import run
from rsn2.experiments.tasks import flat_digits
from rsn2.report.results import as_markdown

OPTIONS = dict(seeds=[0], variants=["mnist-row", "fashion-random"], smoke=True, progress=False, say=lambda line: None)


@pytest.fixture
def few(monkeypatch):
    """The experiment with few tasks: the same units, only fewer."""
    ways = {suffix: (what, changes, (2, 4)) for suffix, (what, changes, _) in capacity.WAYS.items()}
    monkeypatch.setattr(capacity, "WAYS", ways)
    return load_experiment("capacity")


def test_a_line_holds_every_task(few, tiny_data, tmp_path):
    lines = run(few, tmp_path, data_dir=tiny_data, **OPTIONS)
    assert [(line["variant"], line["stage"]) for line in lines] == [
        (variant, stage) for variant in ("mnist-row", "fashion-random") for stage in ("T=2", "T=4")
    ]
    numel = 784 * 96 + 96 * 64 + 64 * 10
    for line in lines:
        metrics, number = line["metrics"], line["metrics"]["num_tasks"]
        assert line["stage"] == f"T={number}" and metrics["keep"] == 1 / number
        tasks = dict(metrics["tasks"])
        summary = tasks.pop(summary_name(number))
        assert list(tasks) == [f"task {task}" for task in range(number)]
        for found in tasks.values():
            assert 0 <= found["accuracy"] <= 1 and 0 <= found["validation"]["accuracy"] <= 1 and found["epochs"] == 1
            assert found["owned_weights"] == numel // number
            assert 0 < found["connected_weights"] <= found["owned_weights"]
        test = [found["accuracy"] for found in tasks.values()]
        validation = [found["validation"]["accuracy"] for found in tasks.values()]
        assert summary["accuracy"] == pytest.approx(sum(test) / number) and summary["worst"] == min(test)
        assert summary["validation"]["worst"] == min(validation)
        assert summary["is_success"] == (min(validation) >= line["settings"]["threshold"])
        # Nothing is left: equal shares use every weight, and none twice.
        assert metrics["owned_weights"] == numel and metrics["bytes"]["file"] > 0
        assert metrics["epochs"] == number and metrics["seconds_per_epoch"] > 0
        assert metrics["rows"] == {"train": 160, "validation": 40, "test": 50}
    text = as_markdown(few, lines)
    assert "T = 4, mean of the tasks, %" in text and "MNIST: the worst of T tasks" in text


def capacity_line(variant: str, number: int, worst: float, connected: int) -> dict[str, Any]:
    threshold = 0.9 if variant.startswith("mnist") else 0.8
    tasks = {"task 0": {"connected_weights": connected, "owned_weights": 200},
             "task 1": {"connected_weights": 200, "owned_weights": 200},
             summary_name(number): {"validation": {"worst": worst}, "is_success": worst >= threshold}}  # fmt: skip
    return {"variant": variant, "metrics": {"num_tasks": number, "tasks": tasks}}


def test_figures_say_which_number_of_tasks_was_reached():
    """13 is beyond the first miss, so that it does not count."""
    lines = [capacity_line("mnist", *found) for found in ((4, 0.95, 150), (8, 0.5, 100), (13, 0.91, 100))]
    lines += [capacity_line("mnist-random", 64, 0.92, 20), capacity_line("fashion", 2, 0.7, 190)]
    worst, connected, fashion, _ = capacity.figures(lines)
    assert "largest gradients of every layer: 4 reached, 8 not; weights at random: 64 reached, the largest tried" in (
        worst.caption
    )
    assert worst.series[0].points == ((4.0, (95.0,)), (8.0, (50.0,)), (13.0, (91.0,)))
    assert connected.series[0].points[:2] == ((4.0, (75.0,)), (8.0, (50.0,)))
    assert "no T reached, 2 not" in fashion.caption and "authors count 17" in fashion.caption
    assert capacity.figures([]) == []


def test_an_interrupted_unit_goes_on_with_the_task_it_was_in(few, tiny_data, tmp_path, monkeypatch):
    options = OPTIONS | {"variants": ["mnist"]}
    (_, whole) = run(few, tmp_path / "whole", data_dir=tiny_data, **options)
    real, calls = capacity.fit, []

    def interrupted(net, name, *args, **kwargs):
        calls.append(name)
        if len(calls) == 5:  # two of T=2, then the third of T=4
            raise KeyboardInterrupt
        return real(net, name, *args, **kwargs)

    monkeypatch.setattr(capacity, "fit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(few, tmp_path / "cut", data_dir=tiny_data, **options)
    assert len(records.read_lines(records.file_of(tmp_path / "cut", "capacity"))) == 1
    (_, resumed) = run(few, tmp_path / "cut", data_dir=tiny_data, **options)
    assert calls[5:] == ["task 2", "task 3"] and resumed["resumed"]
    assert resumed["metrics"]["tasks"] == whole["metrics"]["tasks"]
    assert list((tmp_path / "cut" / "checkpoints").iterdir()) == []


def test_a_change_of_an_earlier_task_is_an_error(few, tiny_data, tmp_path, monkeypatch):
    real = capacity.fit

    def spoils(net, name, *args, **kwargs):
        history = real(net, name, *args, **kwargs)
        if name == "task 1":
            with torch.no_grad():
                net.trunk.output.bias[0].add_(1.0)
        return history

    monkeypatch.setattr(capacity, "fit", spoils)
    with pytest.raises(RuntimeError, match="outputs of task 0 changed"):
        run(few, tmp_path, data_dir=tiny_data, **OPTIONS)


@pytest.mark.parametrize("task", [0, 1, 63])
@pytest.mark.parametrize("seed", [0, 1])
def test_permutations_are_permutations(seed, task):
    assert torch.equal(permutation(seed, task).sort().values, torch.arange(784))


def test_permutations_are_fixed_by_the_seed_and_differ():
    assert torch.equal(permutation(0, 0), torch.arange(784)) and torch.equal(permutation(5, 0), torch.arange(784))
    assert torch.equal(permutation(3, 2), permutation(3, 2))
    orders = [permutation(seed, task) for seed in (0, 1) for task in (1, 2)]
    assert all(not torch.equal(a, b) for i, a in enumerate(orders) for b in orders[:i])
    # The stream is NumPy's frozen one: these numbers are the same everywhere.
    assert permutation(0, 1)[:4].tolist() == [135, 59, 758, 393]


def test_all_parts_of_a_task_have_one_order(tiny_data):
    data = flat_digits().load(tiny_data)
    shuffled, order = permuted(data, 0, 1), permutation(0, 1)
    for part, split in data.splits().items():
        assert torch.equal(shuffled.splits()[part].x, split.x.reshape(len(split), 784)[:, order])
        assert torch.equal(shuffled.splits()[part].y, split.y)


@pytest.mark.parametrize(("accuracies", "verdict"), [([0.9, 0.95], True), ([0.8999, 1.0], False), ([0.91], True)])
def test_the_worst_task_decides(accuracies, verdict):
    assert is_success(accuracies, 0.9) is verdict


def test_connected_weights():
    first = torch.tensor([[1, 1], [0, 0], [1, 0]], dtype=torch.bool)  # unit 1 has no inputs
    second = torch.tensor([[1, 1, 0]], dtype=torch.bool)  # unit 2 is not used
    assert connected_weights([first, second]) == 3  # both inputs of unit 0, and its output
    assert connected_weights([torch.ones(3, 2, dtype=torch.bool), torch.ones(1, 3, dtype=torch.bool)]) == 9


def test_every_number_of_tasks_has_a_column():
    experiment = load_experiment("capacity")
    stages = {stage for variant in experiment.variants.values() for stage in variant.stages}
    assert {f"T={column.task.removeprefix('all ')}" for column in experiment.columns} == stages


@pytest.mark.skipif(not os.environ.get("RSN2_DATA"), reason="RSN2_DATA is not set: no real MNIST and Fashion-MNIST")
def test_smoke_on_the_real_data(few, tmp_path):
    lines = run(few, tmp_path, **(OPTIONS | {"variants": ["mnist"]}))
    assert len(lines) == 2
