"""Weights that move while a task trains: how many, which, and what stays as it is."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import rsn2
from rsn2 import Reselection
from rsn2.data import TensorBatches
from rsn2.procedure.reselect import move_weights
from rsn2.procedure.run import Run
from rsn2.procedure.score import gradients
from rsn2_kernels.testing import seeded

KEEP = 0.3


@pytest.fixture(autouse=True)
def _one_thread(set_num_threads) -> None:
    set_num_threads(1)


def batches(seed: int = 0, rows: int = 20, size: int = 8, *, shuffle: bool = True) -> TensorBatches:
    x = torch.randn(rows, 6, generator=seeded(seed))
    return TensorBatches(x, (x[:, 0] > 0).long(), size, shuffle=shuffle)


def network(*tasks: str, trunk: nn.Module | None = None) -> rsn2.MultitaskNetwork:
    torch.manual_seed(3)
    default = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 8))
    net = rsn2.MultitaskNetwork(trunk or default)
    for task in tasks:
        net.add_task(task, head=nn.Linear(8, 2))
        rsn2.claim(net, task, batches(), cross_entropy, KEEP)
    return net


def train(net: rsn2.MultitaskNetwork, tasks: Any, reselect: Reselection | None, **options: Any) -> rsn2.History:
    names = [tasks] if isinstance(tasks, str) else tasks
    data = {name: (batches(number + 1), batches(number + 9, shuffle=False)) for number, name in enumerate(names)}
    settings: dict[str, Any] = {"max_epochs": 4, "early_stopping": None, "progress": False}
    return rsn2.fit(net, names, {t: d[0] for t, d in data.items()}, {t: d[1] for t, d in data.items()}, cross_entropy,
                    reselect=reselect, **settings | options)  # fmt: skip


def owned(net: rsn2.MultitaskNetwork, task: str) -> dict[str, set[int]]:
    return {name: set(layer.owned(slot).tolist()) for name, (layer, slot) in net.task_layers(task).items()}


def values_by_place(net: rsn2.MultitaskNetwork, task: str) -> dict[str, dict[int, float]]:
    return {
        name: dict(zip(layer.owned(slot).tolist(), layer.values[slot].tolist(), strict=True))
        for name, (layer, slot) in net.task_layers(task).items()
    }


def bits(net: rsn2.MultitaskNetwork) -> dict[str, bytes]:
    return {key: tensor.contiguous().cpu().numpy().tobytes() for key, tensor in net.state_dict().items()}


def test_the_share_falls_as_a_cosine() -> None:
    plan = Reselection(until=100, every=10, fraction=0.4)
    assert plan.share(0) == 0.4 and plan.share(50) == pytest.approx(0.2) and plan.share(100) == 0
    assert [step for step in range(1, 130) if plan.is_due(step)] == list(range(10, 100, 10))


@pytest.mark.parametrize("regrow", ["gradient", "random"])
def test_one_change(regrow) -> None:
    """The smallest go, the free weights with the largest gradient come, at zero; all others keep place and value."""
    net = network("a", "b")
    net.freeze("a")
    x, y = next(iter(batches(1)))
    before, other, free = values_by_place(net, "b"), bits_of_task(net, "a"), free_places(net)
    found = expected_gradient(net, "b", (x, y))
    moved = move_weights(net, {"b": (x, y)}, {"b": cross_entropy}, 0.25, regrow=regrow)
    after = values_by_place(net, "b")
    for name, values in before.items():
        k = math.floor(0.25 * len(values))
        assert moved == {"b": {n: math.floor(0.25 * len(v)) for n, v in before.items()}} and k > 0
        gone = set(sorted(values, key=lambda place: abs(values[place]))[:k])
        new = set(after[name]) - set(values)
        assert set(values) - set(after[name]) == gone and len(new) == k and new <= free[name]
        if regrow == "gradient":
            ranked = sorted(free[name], key=lambda place: -abs(found[name].flatten()[place].item()))
            assert new == set(ranked[:k])
        assert all(after[name][place] == 0 for place in new)
        assert all(after[name][place] == values[place] for place in set(values) - gone)
    assert bits_of_task(net, "a") == other


def bits_of_task(net: rsn2.MultitaskNetwork, task: str) -> list[Any]:
    return [values_by_place(net, task), [p.detach().clone().tolist() for p in net.parameters_of(task)]]


def free_places(net: rsn2.MultitaskNetwork) -> dict[str, set[int]]:
    return {n: set(layer.free().flatten().nonzero()[:, 0].tolist()) for n, layer in net.trunk_layers().items()}


def expected_gradient(net: rsn2.MultitaskNetwork, task: str, batch: Any) -> dict[str, torch.Tensor]:
    """With respect to the dense weights of ordinary layers that hold what the task owns."""
    layers = net.task_layers(task)
    dense = {name: layer.to_dense(slot) for name, (layer, slot) in layers.items()}
    hidden = dense["0"](batch[0]).relu()
    loss = cross_entropy(net.heads[net.task_number(task)](dense["3"](hidden)), batch[1])
    loss.backward()
    return {name: layer.weight.grad for name, layer in dense.items()}


def test_where_few_are_free_few_move() -> None:
    net = network("a", "b", "c")
    x, y = next(iter(batches(1)))
    numels = {name: layer.numel for name, layer in net.trunk_layers().items()}
    free = {name: len(places) for name, places in free_places(net).items()}
    assert free == {name: numel - 3 * int(KEEP * numel) for name, numel in numels.items()}
    moved = move_weights(net, {"c": (x, y)}, {"c": cross_entropy}, 0.9)
    assert moved["c"] == free
    net.add_task("d", head=nn.Linear(8, 2))
    rsn2.claim(net, "d", batches(), cross_entropy, lambda task, name, layer: free[name] / layer.numel)
    before = owned(net, "c")
    assert move_weights(net, {"c": (x, y)}, {"c": cross_entropy}, 0.9)["c"] == {"0": 0, "3": 0}
    assert owned(net, "c") == before


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD])
def test_moments_follow_their_weights(optimizer) -> None:
    net = network("a")
    made = optimizer(net.parameters_of("a"), lr=0.01, **({"momentum": 0.9} if optimizer is torch.optim.SGD else {}))
    x, y = next(iter(batches(1)))
    for _ in range(3):
        made.zero_grad()
        cross_entropy(net(x, task="a"), y).backward()
        made.step()

    def moments() -> dict[str, dict[tuple[str, int], float]]:
        return {
            name: {
                (key, place): number
                for key, tensor in made.state[layer.values[slot]].items()
                if tensor.dim() == 1
                for place, number in zip(layer.owned(slot).tolist(), tensor.tolist(), strict=True)
            }
            for name, (layer, slot) in net.task_layers("a").items()
        }

    before, had = moments(), owned(net, "a")
    move_weights(net, {"a": (x, y)}, {"a": cross_entropy}, 0.3, optimizer=made)
    after, has = moments(), owned(net, "a")
    assert any(number != 0 for number in before["0"].values())
    for name, of_layer in after.items():
        assert len(of_layer) == len(before[name]) and has[name] != had[name]
        for (key, place), number in of_layer.items():
            assert number == (before[name][key, place] if place in had[name] else 0)


def test_a_live_optimizer_must_be_passed() -> None:
    net = network("a")
    made = torch.optim.Adam(net.parameters_of("a"))
    x, y = next(iter(batches(1)))
    cross_entropy(net(x, task="a"), y).backward()
    made.step()
    before = owned(net, "a")
    with pytest.raises(RuntimeError, match="a live Adam keeps state"):
        move_weights(net, {"a": (x, y)}, {"a": cross_entropy}, 0.3)
    assert owned(net, "a") == before


@pytest.mark.parametrize("tasks", [["b"], ["b", "c"]], ids=["alone", "together"])
def test_while_training(tasks, monkeypatch) -> None:
    """Counts and disjointness after every step, the finished task's bits at the end, and that weights did move."""
    net = network("a", *tasks)
    train(net, "a", None)
    finished, counts = bits_of_task(net, "a"), {task: sizes(net, task) for task in tasks}
    first = {task: owned(net, task) for task in tasks}
    seen: list[dict[str, dict[str, set[int]]]] = []
    step = Run._train_step

    def watched(self: Run) -> None:
        step(self)
        held = {task: owned(net, task) for task in ("a", *tasks)}
        for name in held["a"]:
            sets = [held[task][name] for task in held]
            assert sum(map(len, sets)) == len(set().union(*sets))
        assert {task: sizes(net, task) for task in tasks} == counts
        seen.append({task: held[task] for task in tasks})

    monkeypatch.setattr(Run, "_train_step", watched)
    train(net, tasks, Reselection(until=9, every=2, fraction=0.5))
    assert len(seen) == 12
    changes = [number for number in range(1, 12) if seen[number] != seen[number - 1]]
    assert changes == [1, 3, 5]  # after step 8 the share is so small that nothing moves
    for task in tasks:
        assert seen[0][task] == first[task] and all(seen[-1][task][n] != first[task][n] for n in first[task])
    assert bits_of_task(net, "a") == finished


def sizes(net: rsn2.MultitaskNetwork, task: str) -> dict[str, int]:
    return {name: len(places) for name, places in owned(net, task).items()}


@pytest.mark.parametrize("regrow", ["gradient", "random"])
@pytest.mark.parametrize("killed_after", [1, 2, 5, 6])
def test_a_resumed_run_ends_with_the_same_bits(regrow, killed_after, tmp_path, monkeypatch) -> None:
    plan = Reselection(until=8, every=2, fraction=0.5, regrow=regrow)
    stopping = rsn2.EarlyStopping(patience=2, min_delta=0.0)
    options = {"early_stopping": stopping, "checkpoint": tmp_path / "state", "checkpoint_every": 1, "seed": 5}
    whole = network("a", "b")
    history = train(whole, ["a", "b"], plan, **options | {"checkpoint": None})
    step, done = Run._train_step, []

    def interrupted(self: Run) -> None:
        if len(done) == killed_after:
            raise KeyboardInterrupt
        done.append(None)
        step(self)

    monkeypatch.setattr(Run, "_train_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(network("a", "b"), ["a", "b"], plan, **options)
    monkeypatch.undo()
    resumed = network("a", "b")
    again = train(resumed, ["a", "b"], plan, **options)
    assert bits(resumed) == bits(whole)
    assert [e["val_loss"] for e in again.epochs] == [e["val_loss"] for e in history.epochs]
    assert bits(whole) != bits(network_trained_without())


def network_trained_without() -> rsn2.MultitaskNetwork:
    net = network("a", "b")
    train(net, ["a", "b"], None, seed=5)
    return net


def test_the_checkpoint_belongs_to_its_settings(tmp_path) -> None:
    train(network("a"), "a", Reselection(until=8, every=2), checkpoint=tmp_path / "state")
    with pytest.raises(ValueError, match="belongs to another run: reselect"):
        train(network("a"), "a", Reselection(until=8, every=3), checkpoint=tmp_path / "state")
    with pytest.raises(ValueError, match="belongs to another run: reselect"):
        train(network("a"), "a", None, checkpoint=tmp_path / "state")


def test_early_stopping_waits_until_ownership_is_final() -> None:
    """No epoch is better than another by 100, so that the first that counts is the best."""
    stopping = rsn2.EarlyStopping(patience=2, min_delta=100)
    for until, first in ((3, 1), (4, 2), (6, 2), (7, 3)):  # three steps an epoch
        history = train(network("a"), "a", Reselection(until=until, every=1), early_stopping=stopping, max_epochs=9)
        assert (history.best_epoch, len(history.epochs), history.stopped_early) == (first, first + 2, True)


def test_a_shared_slot_goes_by_the_sum_of_its_tasks() -> None:
    torch.manual_seed(3)
    net = rsn2.MultitaskNetwork(nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 8)))
    net.add_task("a", head=nn.Linear(8, 2))
    net.add_task("b", head=nn.Linear(8, 2), share={"0": "a"})
    data = {"a": next(iter(batches(1))), "b": next(iter(batches(2)))}
    rsn2.claim(net, ["a", "b"], {task: [pair] for task, pair in data.items()}, cross_entropy, KEEP)
    free = free_places(net)["0"]
    total = sum(expected_gradient(net, task, data[task])["0"] for task in data).flatten()
    before = owned(net, "a")["0"]
    moved = move_weights(net, data, dict.fromkeys(data, cross_entropy), 0.3)
    k = math.floor(0.3 * len(before))
    assert set(moved["a"]) == {"0", "3"} and set(moved["b"]) == {"3"} and moved["a"]["0"] == k
    assert owned(net, "a")["0"] - before == set(sorted(free, key=lambda place: -abs(total[place].item()))[:k])


def test_a_convolution_and_weights_that_are_read() -> None:
    """The gradient is taken where the task computes: with the frozen weights that it reads."""
    torch.manual_seed(3)
    net = rsn2.MultitaskNetwork(nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6, 2)))
    x, y = torch.randn(8, 2, 3, 3), torch.arange(8) % 2
    for task in ("a", "b"):
        net.add_task(task)
        rsn2.claim(net, task, [(x, y)], cross_entropy, KEEP)
    net.freeze("a")
    layer = net.trunk_layers()["0"]
    layer.read(1, [0])
    probe = {"0": layer.to_dense(1).weight.detach()}
    exact = gradients(net, "b", [(x, y)], cross_entropy, probe)["0"].flatten()
    free, before = free_places(net)["0"], owned(net, "b")["0"]
    k = move_weights(net, {"b": (x, y)}, {"b": cross_entropy}, 0.3)["b"]["0"]
    assert k == math.floor(0.3 * len(before)) > 0
    assert owned(net, "b")["0"] - before == set(sorted(free, key=lambda place: -abs(exact[place].item()))[:k])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"until": 0}, "until must be an int of at least 1, got 0"),
        ({"until": 5, "every": True}, "every must be an int of at least 1, got True"),
        ({"until": 5, "fraction": 1.0}, r"fraction must be in \(0, 1\), got 1.0"),
        ({"until": 5, "regrow": "magnitude"}, "regrow must be one of gradient, random, got 'magnitude'"),
    ],
)
def test_wrong_settings(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        Reselection(**arguments)


def test_a_loss_that_is_not_finite_changes_nothing() -> None:
    net = network("a")
    x, y = next(iter(batches(1)))
    before = bits(net)
    with pytest.raises(ValueError, match="fit: the loss must be finite, got nan"):
        move_weights(net, {"a": (x, y)}, {"a": lambda outputs, y: cross_entropy(outputs, y) * float("nan")}, 0.3)
    assert bits(net) == before


def test_it_must_end_before_training_does() -> None:
    with pytest.raises(ValueError, match="must end within the 4 epochs of 3 steps, but until is 13"):
        train(network("a"), "a", Reselection(until=13))
