"""The masked dense network is the task's network, and only then its steps are timed."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import rsn2
from rsn2.experiments import load_experiment, speed
from rsn2.experiments.running import run


def layers() -> nn.Sequential:
    return nn.Sequential(nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.fixture
def net() -> rsn2.MultitaskNetwork:
    """A stem, a trunk and a head, of which two tasks have claimed a part."""
    found = rsn2.MultitaskNetwork(nn.Sequential(nn.Linear(9, 8), nn.ReLU()))
    for task in ("first", "second"):
        found.add_task(task, stem=nn.Sequential(nn.Linear(12, 9), nn.ReLU()), head=nn.Linear(8, 3), prune_stem=True,
                       prune_head=True)  # fmt: skip
        rsn2.claim(found, task, [(torch.randn(20, 12), torch.arange(20) % 3)], F.cross_entropy, 0.4)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return found


def test_the_masked_network_gives_the_same_outputs(net):
    x = torch.randn(7, 12)
    for task in ("first", "second"):
        dense = layers()
        speed.mask_like(dense, net, task)
        torch.testing.assert_close(dense(x), net(x, task=task), atol=1e-5, rtol=1e-5)
        dense(x).sum().backward()
        weights = dense[2].parametrizations.weight.original
        assert bool((weights.grad[~net.trunk_layers()["0"].mask(net.task_number(task))] == 0).all())


def test_another_network_is_refused(net):
    with pytest.raises(ValueError, match="mask_like: the layers of first must be those of the dense network"):
        speed.mask_like(nn.Sequential(nn.Linear(12, 9), nn.Linear(9, 8)), net, "first")


def test_times_and_ratios(net, monkeypatch):
    monkeypatch.setattr(speed, "REPEATS", 2)
    x, y = torch.randn(30, 12), torch.arange(30) % 3
    found = speed.time_of_steps(net, "second", layers, F.cross_entropy, x, y)
    assert found["rows"] == 30 and found["loss"] == pytest.approx(found["loss_of_masked_dense"], rel=1e-4)
    for name in ("masked_dense", "dense"):
        assert found[f"{name}_over_ours"] == pytest.approx(found[f"{name}_ms"] / found["ours_ms"])


def test_nothing_is_timed_when_the_losses_differ(net, monkeypatch):
    monkeypatch.setattr(speed, "mask_like", lambda dense, net, task: None)
    monkeypatch.setattr(speed, "time_in_turns", lambda *args, **kwargs: pytest.fail("timed"))
    with pytest.raises(RuntimeError, match="the loss of first is .*, with masked dense layers"):
        speed.time_of_steps(net, "first", layers, F.cross_entropy, torch.randn(30, 12), torch.arange(30) % 3)


@pytest.mark.parametrize("name", ["exp1", "exp5", "exp6", "exp7", "exp8"])
def test_every_kind_of_network_can_be_timed(name, tiny_data, tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "REPEATS", 1)
    (line,) = run(load_experiment(name), tmp_path, data_dir=tiny_data, seeds=[0, 1], variants=["speed"], smoke=True,
                  progress=False, say=lambda line: None)  # fmt: skip
    tasks = {task for stage in load_experiment(name).variants["ours"].stages for task in stage.split("+")}
    assert set(line["metrics"]["speed"]) == ({"subnetwork 1"} if name == "exp1" else tasks)
