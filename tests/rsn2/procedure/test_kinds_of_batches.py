"""Losses, targets and inputs of other kinds than a tensor of class numbers."""

from __future__ import annotations

import functools
from collections import namedtuple

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import rsn2
from rsn2.procedure.labels import explained
from rsn2.procedure.loaders import joined, move, num_rows
from rsn2_kernels.testing import seeded

X = torch.randn(36, 6, generator=seeded(0))
Y = (X[:, 0] > 0).long()


def network(head: nn.Module | None = None, stem: nn.Module | None = None) -> rsn2.MultitaskNetwork:
    torch.manual_seed(3)
    net = rsn2.MultitaskNetwork(nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4)))
    net.add_task("a", head=head, stem=stem)
    return net


def learn(net: rsn2.MultitaskNetwork, data, loss_fn, **how) -> rsn2.History:
    rsn2.claim(net, "a", data, loss_fn, 0.3)
    return rsn2.fit(net, "a", data, data, loss_fn, **({"max_epochs": 2, "progress": False} | how))


@pytest.mark.parametrize(
    ("loss_fn", "head", "y"),
    [
        (lambda o, y: F.binary_cross_entropy_with_logits(o.squeeze(1), y.float()), nn.Linear(4, 1), Y),
        (functools.partial(F.cross_entropy, ignore_index=255), nn.Linear(4, 2), torch.where(Y == 1, 255, Y)),
        (lambda o, y: F.cross_entropy(o, y, ignore_index=255), nn.Linear(4, 2), torch.where(Y == 1, 255, Y)),
        (lambda o, y: F.poisson_nll_loss(o.squeeze(1), y.float()), nn.Linear(4, 1), 3 * Y),
        (lambda o, y: torch.pdist(o).mul(torch.pdist(y[:, None].float())).mean(), None, 7 * Y),
    ],
    ids=["binary", "partial", "ignoring", "counts", "embedding"],
)
def test_whole_numbers_need_not_be_classes(loss_fn, head, y):
    assert len(learn(network(head), [(X, y)], loss_fn).epochs) == 2


@pytest.mark.parametrize(
    "loss_fn",
    [
        F.cross_entropy,
        nn.CrossEntropyLoss(),
        functools.partial(F.cross_entropy, label_smoothing=0.1),
        lambda o, y: F.cross_entropy(o, y),
    ],  # fmt: skip
)
def test_classes_outside_of_the_head_are_named(loss_fn):
    with pytest.raises(ValueError, match="labels must be in 0..1, since the head has 2 outputs, got 4 .*task 'a'"):
        with explained("fit", loss_fn, torch.zeros(3, 2), torch.tensor([0, 4, 1]), "task 'a'"):
            loss_fn(torch.zeros(3, 2), torch.tensor([0, 4, 1]))


def test_other_failures_of_a_loss_stay_what_they_are():
    with pytest.raises(RuntimeError, match="something else"):
        with explained("fit", lambda o, y: None, torch.zeros(3, 2), torch.tensor([0, 1, 1]), ""):
            raise RuntimeError("something else")


def _masked(output, y):
    target, mask = (y["y"], y["mask"]) if isinstance(y, dict) else y
    return (F.cross_entropy(output, target, reduction="none") * mask).mean()


@pytest.mark.parametrize("kind", [lambda y, m: (y, m), lambda y, m: [y, m], lambda y, m: {"y": y, "mask": m}])
def test_every_batch_counts_by_its_rows(kind):
    """With 32 and 4 rows, the last four must not weigh as much as the others."""
    parts = [slice(0, 32), slice(32, 36)]
    plain = [(X[part], Y[part]) for part in parts]
    masked = [(X[part], kind(Y[part], torch.ones(len(Y[part])))) for part in parts]
    one, two = network(), network()
    for net, data, loss_fn in ((one, plain, F.cross_entropy), (two, masked, _masked)):
        net.history = learn(net, data, loss_fn, optimizer=lambda p: torch.optim.SGD(p, lr=0.0))
    for name, (layer, slot) in one.task_layers("a").items():
        assert torch.equal(layer.owned(slot), two.task_layers("a")[name][0].owned(slot))
    for epoch, other in zip(one.history.epochs, two.history.epochs, strict=True):
        assert epoch["val_loss"]["a"] == pytest.approx(other["val_loss"]["a"], rel=1e-6)
        assert epoch["loss"]["a"] == pytest.approx(other["loss"]["a"], rel=1e-6)


def test_metrics_get_all_parts():
    def kept(output, y):
        assert len(output) == len(y[0]) == len(y[1]) == 36
        return y[1].mean()

    data = [(X[:32], (Y[:32], torch.ones(32))), (X[32:], (Y[32:], torch.zeros(4)))]
    history = learn(network(), data, _masked, metrics={"kept": kept})
    assert history.epochs[0]["val_metrics"]["a"]["kept"] == pytest.approx(32 / 36)


def test_a_stem_may_take_a_dict():
    class Two(nn.Module):
        def forward(self, x):
            return x["left"] + x["right"]

    data = [({"left": X, "right": X}, Y)]
    net = network(stem=Two())
    assert len(learn(net, data, F.cross_entropy).epochs) == 2
    assert net({"a": data[0][0]})["a"].shape == (36, 4)


def test_parts_of_batches():
    Pair = namedtuple("Pair", "y mask")
    pair = Pair(Y, torch.ones(36))
    moved = move({"a": [pair, "text"]}, torch.device("meta"))
    assert moved["a"][0].y.device.type == "meta" and isinstance(moved["a"][0], Pair) and moved["a"][1] == "text"
    assert num_rows(pair) == num_rows({"a": [pair]}) == num_rows(Y) == 36
    assert len(joined([pair, pair]).mask) == 72 and len(joined([{"a": (Y,)}] * 3)["a"][0]) == 108
    with pytest.raises(TypeError, match="metrics need tensors, or tuples, lists or dicts of them, got str"):
        joined(["text"])


def test_gradients_can_be_clipped():
    norms = []

    class Watched(torch.optim.SGD):
        def step(self, closure):
            loss = closure()
            grads = [p.grad for group in self.param_groups for p in group["params"]]
            norms.append(torch.cat([g.flatten() for g in grads]).norm().item())
            super().step(lambda: loss)

    learn(network(), [(X, Y)], F.cross_entropy, optimizer=lambda p: Watched(p, lr=0.1), max_grad_norm=1e-3)
    assert norms == pytest.approx([1e-3] * 2, rel=1e-3)


def test_an_optimizer_that_ignores_the_closure_is_refused():
    class Deaf(torch.optim.SGD):
        def step(self, closure=None):
            return None

    with pytest.raises(ValueError, match="optimizer must call the closure that step is given, Deaf does not"):
        learn(network(), [(X, Y)], F.cross_entropy, optimizer=lambda p: Deaf(p, lr=0.1))


def test_the_plateau_of_the_validation_loss():
    made = []

    def scheduler(optimizer):
        made.append(optimizer)
        return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=0, eps=0)

    how = {"scheduler": scheduler, "optimizer": lambda p: torch.optim.SGD(p, lr=1e-30), "max_epochs": 3}
    learn(network(), [(X, Y)], F.cross_entropy, **how)  # nothing gets better
    assert made[0].param_groups[0]["lr"] == 0.25e-30
    for change in ({"schedule_by": "step"}, {"early_stopping": None, "validation": None}):
        net = network()
        rsn2.claim(net, "a", [(X, Y)], F.cross_entropy, 0.3)
        arguments = {"validation": [(X, Y)]} | how | change
        with pytest.raises(ValueError, match="ReduceLROnPlateau needs validation, and schedule_by='epoch'"):
            rsn2.fit(net, "a", [(X, Y)], loss_fn=F.cross_entropy, progress=False, **arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"schedule_by": "day"}, "schedule_by must be 'epoch' or 'step', got 'day'"),
     ({"max_grad_norm": 0.0}, "max_grad_norm must be above 0, got 0.0"),
     ({"metrics": {"b": {"x": lambda o, y: 0}}}, r"metrics must have keys of \['a'\], got \['b'\]")],
)  # fmt: skip
def test_what_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        learn(network(), [(X, Y)], F.cross_entropy, **change)


def test_the_optimizer_of_a_finished_training_does_not_bind():
    made = []

    def kept(params):
        made.append(torch.optim.Adam(params))
        return made[-1]

    net = network()
    learn(net, [(X, Y)], F.cross_entropy, optimizer=kept)
    net.thaw("a")
    for layer, slot in net.task_layers("a").values():
        layer.release(slot)
    assert not any(count["a"] for count in net.owned_weights().values())


def test_a_task_by_its_number():
    net = network()
    rsn2.claim(net, 0, [(X, Y)], F.cross_entropy, 0.3)
    rsn2.fit(net, 0, [(X, Y)], [(X, Y)], F.cross_entropy, max_epochs=1, progress=False)
    assert net.is_finished("a")
