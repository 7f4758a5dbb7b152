"""Whole epochs: both networks compute the same, and the line is made of the processes' reports."""

from __future__ import annotations

import json

import pytest
import torch

import rsn2
from bench import e2e, epoch, run
from rsn2.data import TensorBatches
from rsn2.experiments.tasks import cross_entropy
from rsn2.experiments.training import DenseNetworks
from rsn2.models import fully_connected


def test_both_trainings_are_the_same(monkeypatch):
    def small(kind):
        torch.manual_seed(0)
        return fully_connected((20, 16, 16, 3), initialiser="normal_0.05").whole()

    def batches(kind, task, num_rows=None, *, shuffle):
        generator = torch.Generator().manual_seed(len(task))
        x, y = torch.randn(40, 20, generator=generator), torch.randint(0, 3, (40,), generator=generator)
        return TensorBatches(x, y, 8, shuffle=shuffle, seed=0)

    monkeypatch.setattr(epoch, "network_of", small)
    monkeypatch.setattr(epoch, "batches_of", batches)
    tasks = ["one", "another"]
    prepared = epoch.prepare("fully_connected", tasks, 0.3)
    ours = epoch.our_network("fully_connected", prepared)
    masked = DenseNetworks({t: epoch.masked_network("fully_connected", prepared["masks"], t) for t in tasks})
    losses = []
    for net in (ours, masked):
        train = {task: epoch.Short(batches("", task, shuffle=True), 3) for task in tasks}
        history = rsn2.fit(net, tasks, train, None, cross_entropy, max_epochs=2, early_stopping=None, progress=False)
        losses.append([value for record in history.epochs for value in record["loss"].values()])
    assert len(set(losses[0])) == 4
    e2e.check_losses(*losses)


@pytest.fixture
def processes(monkeypatch):
    """Reports instead of processes."""
    reports = {
        "ours": {"process_seconds": 2.0, "epoch_seconds": 1.0, "peak_bytes": 10, "peak_bytes_before": 5,
                 "mean_loss": 1.0, "losses": [2.0, 1.5]},
        e2e.MASKED: {"process_seconds": 8.0, "epoch_seconds": 7.0, "peak_bytes": 30, "peak_bytes_before": 4,
                     "mean_loss": 1.0, "losses": [2.0, 1.5]},
    }  # fmt: skip
    asked = []

    def run_process(network, how, prepared, num_steps):
        asked.append((how, num_steps))
        return reports[how]

    monkeypatch.setattr(e2e, "run_process", run_process)
    monkeypatch.setattr(epoch, "prepare", lambda kind, tasks, keep: {})
    return reports, asked


def test_line(processes):
    line = e2e.measure(e2e.NETWORKS["conv"], quick=False)
    steps = e2e.NETWORKS["conv"].num_steps
    assert processes[1] == [("ours", 3), (e2e.MASKED, 3), *[("ours", steps), (e2e.MASKED, steps)] * 3]
    assert line["ratio"] == {e2e.MASKED: 4.0} and line["ratio_epoch"] == 7.0
    assert line["peak_bytes"] == {"ours": 10, e2e.MASKED: 30}
    assert (line["steps"], line["steps_of_epoch"]) == (steps, 94)
    assert [goal["verdict"] for goal in line["goals"]] == ["reach"]
    assert "reach 4x" in run.row({"name": "epoch", **line}) and json.dumps(line)


def test_quick_is_not_judged(processes):
    assert e2e.measure(e2e.NETWORKS["conv"], quick=True)["goals"] == []


def test_other_losses_are_not_timed(processes):
    reports, asked = processes
    reports["ours"] |= {"losses": [2.0, 1.6]}
    line = e2e.measure(e2e.NETWORKS["conv"], quick=False)
    assert "losses differ" in line["wrong"]["ours"] and "ours_ms" not in line and len(asked) == 2
