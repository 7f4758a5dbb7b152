"""A finished task stays as it is, whatever is done to the network and by whichever way."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parametrizations

import rsn2
from rsn2_kernels.testing import seeded

X = torch.randn(24, 6, generator=seeded(0))
Y = (X[:, 0] > 0).long()
DATA = [(X[:12], Y[:12]), (X[12:], Y[12:])]


def network(trunk: nn.Module | None = None, where=None) -> rsn2.MultitaskNetwork:
    torch.manual_seed(3)
    trunk = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 8)) if trunk is None else trunk
    net = rsn2.MultitaskNetwork(trunk, where=where)
    for task in "abc":
        net.add_task(task, head=nn.Sequential(nn.Linear(8, 2), nn.BatchNorm1d(2)))
    return net


def learn(net: rsn2.MultitaskNetwork, *tasks: str, **how) -> None:
    for task in tasks:
        if not net.is_finished(task):
            rsn2.claim(net, task, DATA, cross_entropy, 0.2)
        rsn2.fit(net, task, DATA, DATA, cross_entropy, **({"max_epochs": 2, "progress": False} | how))


def outputs(net: rsn2.MultitaskNetwork, task: str) -> torch.Tensor:
    with torch.no_grad():
        return net.eval()(X, task=task)


def test_a_state_dict_knows_who_is_finished():
    net, other = network(), network()
    learn(net, "a", "b")
    other.load_state_dict(net.state_dict())
    assert [other.is_finished(task) for task in "abc"] == [True, True, False]
    before = outputs(other, "a")
    assert torch.equal(before, outputs(net, "a"))
    other.train()(X, task="a")  # its normalisation must not take part
    assert torch.equal(outputs(other, "a"), before)
    with pytest.raises(ValueError, match="task 'a' is finished"):
        learn(other, "a")
    other.load_state_dict(network().state_dict())
    assert not any(map(other.is_finished, "abc"))
    assert all(p.requires_grad for task in "abc" for p in other.parameters_of(task))


def test_a_state_dict_of_other_tasks_is_refused():
    net, state = network(), network().state_dict()
    other = rsn2.MultitaskNetwork(nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 8)))
    for task in "bca":
        other.add_task(task, head=nn.Sequential(nn.Linear(8, 2), nn.BatchNorm1d(2)))
    with pytest.raises(RuntimeError, match=r"tasks must be \['b', 'c', 'a'\], .*, got \['a', 'b', 'c'\]"):
        other.load_state_dict(state)
    for key in ("finished", "tasks"):
        with pytest.raises(RuntimeError, match=f'Missing key.*"{key}"'):
            net.load_state_dict({name: tensor for name, tensor in state.items() if name != key})
    assert net.load_state_dict(state).missing_keys == []


def test_copies_know_who_is_finished():
    net = network()
    learn(net, "a")
    assert copy.deepcopy(net).is_finished("a")


def test_a_thaw_that_fails_changes_nothing():
    net = network()
    learn(net, "a")
    rsn2.read_weights(net, "b", "a", layers="2")
    learn(net, "b")
    with pytest.raises(ValueError, match="slot 'a' is read by slot 'b'"):
        net.thaw("a")
    assert net.is_finished("a") and all(layer.is_frozen(slot) for layer, slot in net.task_layers("a").values())
    before = outputs(net, "a")
    with pytest.raises(ValueError, match="is read by"):
        learn(net, "a", thaw=True)
    learn(net, "c", optimizer=lambda _: torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0.1))
    assert torch.equal(outputs(net, "a"), before)


def _negative_rate(params):
    return torch.optim.Adam(params, lr=-1)


def _not_a_scheduler(optimizer):
    raise RuntimeError("no scheduler")


@pytest.mark.parametrize("how", [{"optimizer": _negative_rate}, {"scheduler": _not_a_scheduler}])
def test_a_training_that_cannot_begin_leaves_a_task_finished(how):
    net = network()
    learn(net, "a")
    before = outputs(net, "a")
    with pytest.raises((ValueError, RuntimeError)):
        learn(net, "a", thaw=True, **how)
    assert net.is_finished("a") and torch.equal(outputs(net, "a"), before)


class RunningNorm(nn.Module):
    """One that nobody knows how to convert."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(16))

    def forward(self, x):
        if self.training:
            with torch.no_grad():
                self.mean.mul_(0.9).add_(0.1 * x.mean(0))
        return x - self.mean


@pytest.mark.parametrize("trunk", [
    lambda: nn.Sequential(nn.Linear(6, 16), RunningNorm(), nn.Linear(16, 8)),
    lambda: nn.Sequential(nn.Linear(6, 16), parametrizations.spectral_norm(nn.Linear(16, 16)), nn.Linear(16, 8)),
], ids=["running mean", "spectral norm"])  # fmt: skip
def test_what_the_trunk_remembers_stays(trunk):
    net = network(trunk(), where=lambda name, module: name in ("0", "2"))
    learn(net, "a")
    before = outputs(net, "a")
    learn(net, "b")
    assert torch.equal(outputs(net, "a"), before)


def test_dropout_inside_of_what_remembers_stays_on():
    class Block(RunningNorm):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def forward(self, x):
            return self.drop(super().forward(x))

    net = network(nn.Sequential(nn.Linear(6, 16), Block(), nn.Linear(16, 8))).train()
    assert net.trunk[1].drop.training and not net.trunk[1].training


def test_a_head_that_works_in_place_is_alone_with_its_input():
    torch.manual_seed(3)
    net = rsn2.MultitaskNetwork(nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 8)))
    net.add_task("a", head=nn.Sequential(nn.ReLU(inplace=True), nn.Linear(8, 2)))
    net.add_task("b", head=nn.Linear(8, 2), share={"*": "a"})
    net.add_task("c", share={"*": "a"})
    rsn2.claim(net, ["a", "b", "c"], dict.fromkeys("abc", DATA), cross_entropy, 0.3)
    alone = {task: net(X, task=task) for task in "abc"}
    together = net(X, task=["a", "b", "c"])
    for task in "abc":
        assert torch.equal(alone[task], together[task]), task


def test_parts_belong_to_one_task():
    net, head = network(), nn.Linear(8, 2)
    net.add_task("d", head=head)
    for part in ({"head": head}, {"stem": nn.Sequential(nn.Linear(6, 8), head)}, {"head": nn.Sequential(net.trunk[0])}):
        with pytest.raises(ValueError, match="stem and head must be of this task alone, but .* already; pass a copy"):
            net.add_task("e", **part)
    assert net.tasks == ["a", "b", "c", "d"] and "e" not in net.trunk[0].slot_names
    net.add_task("e", head=copy.deepcopy(head))


def test_each_task_is_given_once():
    net = network()
    with pytest.raises(ValueError, match=r"each task must be given once, got \['a', 0\]"):
        net({"a": X, 0: X})
