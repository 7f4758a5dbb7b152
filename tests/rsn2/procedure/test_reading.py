"""What a task reads of others: the sum it computes, what stays as it is, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import rsn2
from rsn2.procedure.score import Scored
from rsn2_kernels.testing import seeded

X = torch.randn(24, 6, generator=seeded(0))
Y = (X[:, 0] > 0).long()
DATA = [(X[:12], Y[:12]), (X[12:], Y[12:])]


@pytest.fixture(autouse=True)
def _one_thread(set_num_threads) -> None:
    set_num_threads(1)


def network(*claimed: str, start: str = "base") -> rsn2.MultitaskNetwork:
    torch.manual_seed(3)
    net = rsn2.MultitaskNetwork(nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2)))
    for task in ("a", "b", "c"):
        net.add_task(task)
    for task in claimed:
        rsn2.claim(net, task, DATA, cross_entropy, 0.2, start=start)
    return net


def fit(net: rsn2.MultitaskNetwork, task: str) -> None:
    rsn2.fit(net, task, DATA, None, cross_entropy, max_epochs=3, early_stopping=None, progress=False)


def outputs(net: rsn2.MultitaskNetwork, task: str) -> bytes:
    with torch.no_grad():
        return net(X, task=task).cpu().numpy().tobytes()


def dense(net: rsn2.MultitaskNetwork, slots: dict[str, list[int]], own: int) -> torch.Tensor:
    """The same with ordinary matrices: the sum of the weights of some slots, the bias of one."""
    x = X
    for name, layer in net.trunk_layers().items():
        weight = torch.zeros(layer.numel)
        for slot in slots[name]:
            weight[layer.owned(slot)] = layer.values[slot].detach()
        x = nn.functional.linear(x if name == "0" else x.relu(), weight.reshape(layer.weight_shape), layer.bias[own])
    return x


def test_it_computes_with_both_and_changes_its_own() -> None:
    net, without = network("a", "b", "c"), network("a", "b", "c")
    for same in (net, without):
        fit(same, "a")
        fit(same, "b")
    before = {task: outputs(net, task) for task in "ab"}
    rsn2.read_weights(net, "c", ["a", "b"])
    every = dict.fromkeys(net.trunk_layers(), [0, 1, 2])
    torch.testing.assert_close(net(X, task="c"), dense(net, every, 2))
    fit(net, "c")
    fit(without, "c")
    torch.testing.assert_close(net(X, task="c"), dense(net, every, 2))
    assert {task: outputs(net, task) for task in "ab"} == before
    assert outputs(net, "c") != outputs(without, "c")


def test_only_some_layers() -> None:
    net = network("a", "b")
    net.freeze("a")
    rsn2.read_weights(net, "b", "a", layers="0")
    torch.testing.assert_close(net(X, task="b"), dense(net, {"0": [0, 1], "2": [1]}, 1))
    rsn2.read_weights(net, "b", [], layers=["0", "2"])
    torch.testing.assert_close(net(X, task="b"), dense(net, {"0": [1], "2": [1]}, 1))


def test_a_claim_is_scored_with_what_is_read() -> None:
    """The weight that stands in has the base's values where weights are free and the other's where they are read."""
    net = network("a", "b")
    fit(net, "a")
    rsn2.read_weights(net, "c", "a", layers="0")
    seen: dict[str, torch.Tensor] = {}

    def remember(scored: Scored) -> torch.Tensor:
        seen[scored.layer_name] = scored.weight.clone()
        return scored.gradient.abs()

    expected = {name: layer.base.weight.clone() * layer.free() for name, layer in net.trunk_layers().items()}
    expected["0"] += net.trunk_layers()["0"].to_dense(0).weight.detach()
    rsn2.claim(net, "c", DATA, cross_entropy, 0.2, score=remember)
    assert all(torch.equal(seen[name], weight) for name, weight in expected.items())
    layer = net.trunk_layers()["0"]
    assert int(layer.mask(2).sum()) == int(0.2 * layer.numel) and not bool((layer.mask(2) & layer.mask(0)).any())


def test_it_is_kept_in_files(tmp_path) -> None:
    net = network("a", "b")
    fit(net, "a")
    rsn2.read_weights(net, "b", "a")
    fit(net, "b")
    net.save(tmp_path / "net.safetensors")
    again = rsn2.load(tmp_path / "net.safetensors", device=X.device)
    assert outputs(again, "b") == outputs(net, "b")
    assert [layer.reads(1) for layer in again.trunk_layers().values()] == [(0,), (0,)]


def test_what_is_read_stays_finished() -> None:
    net = network("a", "b")
    fit(net, "a")
    rsn2.read_weights(net, "b", "a")
    with pytest.raises(ValueError, match="is read by slot .*, so that it must stay frozen"):
        net.thaw("a")


def test_a_slot_that_both_use_is_not_read() -> None:
    torch.manual_seed(3)
    net = rsn2.MultitaskNetwork(nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2)))
    net.add_task("a")
    net.add_task("b", share={"0": "a"})
    rsn2.claim(net, ["a", "b"], dict.fromkeys("ab", DATA), cross_entropy, 0.3)
    fit(net, "a")
    rsn2.read_weights(net, "b", "a")
    first, last = net.trunk_layers().values()
    assert first.reads(0) == () and last.reads(1) == (0,)


def test_what_is_refused() -> None:
    net = network("a", "b")
    with pytest.raises(ValueError, match="task 'a' must be finished to be read"):
        rsn2.read_weights(net, "b", "a")
    net.freeze("a")
    for wrong, error, message in (
        ({"task": "d", "of": "a"}, KeyError, "unknown task 'd'"),
        ({"task": "b", "of": ["a", "d"]}, KeyError, "unknown task 'd'"),
        ({"task": "b", "of": ["a", "c"]}, ValueError, "task 'c' must be finished"),
        ({"task": "a", "of": []}, ValueError, "task 'a' is finished"),
        ({"task": "b", "of": "a", "layers": ["0", "conv*"]}, ValueError, r"pattern 'conv\*' matches no layer"),
    ):
        with pytest.raises(error, match=message):
            rsn2.read_weights(net, **wrong)
        assert all(layer.reads(1) == () for layer in net.trunk_layers().values())
