"""The training loop: what it computes, what it leaves alone, how it ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

import rsn2
from rsn2.data import TensorBatches
from rsn2.metrics import accuracy
from rsn2_kernels.testing import seeded

TASKS = ("a", "b")


def batches(seed: int = 0, rows: int = 20, size: int = 8, *, numbers: bool = False) -> TensorBatches:
    generator = seeded(seed)
    x = torch.randn(rows, 6, generator=generator)
    y = x[:, :1] * 2 if numbers else (x[:, 0] > 0).long()
    return TensorBatches(x, y, size, shuffle=True)


def network(*tasks: str) -> rsn2.MultitaskNetwork:
    torch.manual_seed(3)
    net = rsn2.MultitaskNetwork(nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8)))
    for task in tasks or TASKS:
        net.add_task(task, head=nn.Linear(8, 2))
        rsn2.claim(net, task, batches(), cross_entropy, 0.3)
    return net


def bytes_of(net: rsn2.MultitaskNetwork, task: str) -> list[bytes]:
    number = net.task_number(task)
    norm = net.trunk_layers()["1"]
    tensors = [*net.parameters_of(task), norm.running_mean[number], norm.running_var[number]]
    return [tensor.detach().contiguous().cpu().numpy().tobytes() for tensor in tensors]


QUIET = {"progress": False, "early_stopping": None}


def test_one_task_trains_as_torch_would() -> None:
    """The same steps written out, with the same optimizer."""
    net, other = network("a"), network("a")
    rsn2.fit(net, "a", batches(1), batches(2), cross_entropy, max_epochs=3, **QUIET)
    optimizer = torch.optim.Adam(other.parameters_of("a"), lr=1e-3, eps=1e-7)
    data = batches(1)
    for _ in range(3):
        for x, y in data:
            optimizer.zero_grad()
            cross_entropy(other(x, task="a"), y).backward()
            optimizer.step()
    assert bytes_of(net, "a") == bytes_of(other, "a")


def test_tasks_together_learn_what_they_learn_alone(device: torch.device) -> None:
    """Disjoint weights, one sum of losses: neither task can feel the other.

    On a GPU the sums of a mixed batch have another order. Adam would make much of it: in front of a normalisation a
    bias has no gradient but roundings.
    """
    how, tolerance = QUIET, {"rtol": 1e-6, "atol": 1e-7}
    if device.type == "cuda":
        how, tolerance = {**QUIET, "optimizer": lambda params: torch.optim.SGD(params, lr=0.1)}, {}
    together, alone = network(), network()
    for net in (together, alone):  # units without inputs shall not stand where roundings decide about their ReLU
        nn.init.constant_(net.trunk_layers()["1"].flat_bias, 0.1)
    data = {"a": (batches(1), batches(2)), "b": (batches(3), batches(4))}
    rsn2.fit(together, TASKS, {t: d[0] for t, d in data.items()}, {t: d[1] for t, d in data.items()}, cross_entropy,
             max_epochs=3, **how)  # fmt: skip
    for task in TASKS:
        rsn2.fit(alone, task, batches({"a": 1, "b": 3}[task]), data[task][1], cross_entropy, max_epochs=3, **how)
    for task in TASKS:
        for one, two in zip(together.parameters_of(task), alone.parameters_of(task), strict=True):
            torch.testing.assert_close(one, two, **tolerance)


def test_the_shorter_loader_goes_round() -> None:
    seen: dict[str, list[int]] = {"a": [], "b": []}

    def remember(task: str) -> Callable[[Tensor, Tensor], Tensor]:
        def loss_fn(output: Tensor, y: Tensor) -> Tensor:
            if output.requires_grad:
                seen[task].append(len(y))
            return cross_entropy(output, y)

        return loss_fn

    train = {"a": batches(1, rows=34, size=8), "b": batches(2, rows=11, size=4)}
    val = {"a": batches(3), "b": batches(4)}
    losses = {task: remember(task) for task in TASKS}
    history = rsn2.fit(network(), TASKS, train, val, losses, max_epochs=2, **QUIET)
    assert seen == {"a": [8, 8, 8, 8, 2] * 2, "b": [4, 4, 3, 4, 4, 3, 4, 4, 3, 4]}
    assert [record["epoch"] for record in history.epochs] == [1, 2]


def test_a_task_can_say_what_an_epoch_is() -> None:
    train = {"a": batches(1, rows=34, size=8), "b": batches(2, rows=11, size=4)}
    seen: list[int] = []

    def remember(output: Tensor, y: Tensor) -> Tensor:
        if output.requires_grad:
            seen.append(len(y))
        return cross_entropy(output, y)

    losses = {"a": remember, "b": cross_entropy}
    rsn2.fit(network(), TASKS, train, train, losses, max_epochs=2, epoch_of="b", **QUIET)
    assert seen == [8, 8, 8, 8, 2, 8], "two epochs of three steps; the longer loader goes on in the second"


def test_history_has_means_over_rows_and_metrics() -> None:
    net = network("a")
    val = batches(5, rows=11, size=4)
    history = rsn2.fit(net, "a", batches(1), val, cross_entropy, max_epochs=2, metrics={"accuracy": accuracy}, **QUIET)
    net.eval()
    output = net(val.x, task="a")
    last = history.epochs[-1]
    assert last["val_loss"]["a"] == pytest.approx(float(cross_entropy(output, val.y)), rel=1e-6)
    assert last["val_metrics"] == {"a": {"accuracy": accuracy(output, val.y)}}
    assert history.best_epoch == 2 and not history.stopped_early
    by_task = rsn2.fit(net, "a", batches(1), val, cross_entropy, max_epochs=1, thaw=True,
                       metrics={"a": {"accuracy": accuracy}}, **QUIET)  # fmt: skip
    assert list(by_task.epochs[0]["val_metrics"]["a"]) == ["accuracy"]


def test_early_stopping_watches_the_sum_and_restores_the_best_epoch() -> None:
    """Validation losses are dictated: the sum is best in epoch 2, although each task alone is best in another."""
    dictated = {"a": [1.0, 0.2, 0.1, 0.5, 0.6], "b": [1.0, 0.2, 0.9, 0.1, 0.6]}
    kept: list[list[bytes]] = []
    net = network()

    def loss(task: str) -> Callable[[Tensor, Tensor], Tensor]:
        def loss_fn(output: Tensor, y: Tensor) -> Tensor:
            if output.requires_grad:
                return cross_entropy(output, y)
            epoch = len(kept)
            if task == "b":
                kept.append(bytes_of(net, "a") + bytes_of(net, "b"))
            return torch.tensor(dictated[task][epoch])

        return loss_fn

    train, val = {t: batches(1) for t in TASKS}, {t: batches(2, size=99) for t in TASKS}
    history = rsn2.fit(net, TASKS, train, val, {t: loss(t) for t in TASKS}, progress=False,
                       early_stopping=rsn2.EarlyStopping(patience=2, min_delta=0.01))  # fmt: skip
    assert len(history.epochs) == 4 and history.stopped_early and history.best_epoch == 2
    assert bytes_of(net, "a") + bytes_of(net, "b") == kept[1] != kept[3]


def test_the_last_weights_stay_when_the_best_are_not_wanted() -> None:
    stopping = rsn2.EarlyStopping(patience=1, min_delta=100.0, restore_best=False)
    net, other = network("a"), network("a")
    history = rsn2.fit(net, "a", batches(1), batches(2), cross_entropy, early_stopping=stopping, progress=False)
    assert len(history.epochs) == 2 and history.stopped_early
    rsn2.fit(other, "a", batches(1), batches(2), cross_entropy, max_epochs=2, **QUIET)
    assert bytes_of(net, "a") == bytes_of(other, "a")


def test_tasks_are_finished_afterwards_and_need_thaw() -> None:
    net = network("a")
    rsn2.fit(net, "a", batches(1), batches(2), cross_entropy, max_epochs=1, **QUIET)
    assert net.is_finished("a") and all(not p.requires_grad and p.grad is None for p in net.parameters_of("a"))
    before = bytes_of(net, "a")
    with pytest.raises(ValueError, match="task 'a' is finished; thaw=True trains it again"):
        rsn2.fit(net, "a", batches(1), batches(2), cross_entropy, max_epochs=1, **QUIET)
    assert bytes_of(net, "a") == before
    rsn2.fit(net, "a", batches(1), batches(2), cross_entropy, max_epochs=1, thaw=True, **QUIET)
    assert bytes_of(net, "a") != before and net.is_finished("a")


def test_nothing_but_the_task_changes_with_an_optimizer_over_everything() -> None:
    """Finished tasks, and those that have claimed but not trained yet, under weight decay and momentum."""
    net = network("done", "a", "waiting")
    rsn2.fit(net, "done", batches(5), batches(6), cross_entropy, max_epochs=2, **QUIET)
    before = {task: bytes_of(net, task) for task in ("done", "waiting", "a")}
    x = torch.randn(4, 6)
    outputs = net.eval()(x, task="done")

    def everything(params: list[nn.Parameter]) -> torch.optim.Optimizer:
        assert {id(p) for p in params} == {id(p) for p in net.parameters_of("a")}
        return torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)

    rsn2.fit(net, "a", batches(1), batches(2), cross_entropy, optimizer=everything, max_epochs=2, **QUIET)
    assert bytes_of(net, "done") == before["done"] and bytes_of(net, "waiting") == before["waiting"]
    assert bytes_of(net, "a") != before["a"]
    torch.testing.assert_close(net(x, task="done"), outputs, rtol=0, atol=0)
    assert all(p.requires_grad for p in net.parameters_of("waiting")), "it can train afterwards"


def test_an_optimizer_that_calls_the_loss_itself() -> None:
    net = network("a")
    history = rsn2.fit(net, "a", [(batches(1).x, batches(1).y)], batches(2), cross_entropy, max_epochs=4,
                       optimizer=lambda params: torch.optim.LBFGS(params, lr=0.2), **QUIET)  # fmt: skip
    losses = [record["loss"]["a"] for record in history.epochs]
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0]


def test_the_seed_decides_and_global_random_numbers_are_left_alone() -> None:
    def trained(seed: int) -> list[bytes]:
        torch.manual_seed(3)
        net = rsn2.MultitaskNetwork(nn.Sequential(nn.Linear(6, 16), nn.Dropout(), nn.Linear(16, 2)))
        net.add_task("a")
        rsn2.claim(net, "a", batches(), cross_entropy, 0.3)
        torch.manual_seed(torch.seed())
        before = torch.get_rng_state()
        rsn2.fit(net, "a", batches(1), batches(2), cross_entropy, max_epochs=2, seed=seed, **QUIET)
        assert torch.equal(torch.get_rng_state(), before)
        return [p.detach().cpu().numpy().tobytes() for p in net.parameters_of("a")]

    assert trained(1) == trained(1) != trained(2)


def test_regression_beside_classes() -> None:
    net = network("a")
    net.add_task("number", stem=nn.Identity(), head=nn.Linear(8, 1))
    rsn2.claim(net, "number", batches(3, numbers=True), mse_loss, 0.3)
    tasks = ("a", "number")
    history = rsn2.fit(net, tasks, {"a": batches(1), "number": batches(3, numbers=True)},
                       {"a": batches(2), "number": batches(4, numbers=True)}, {"a": cross_entropy, "number": mse_loss},
                       optimizer=lambda params: torch.optim.Adam(params, lr=0.02), max_epochs=30, **QUIET)  # fmt: skip
    first, last = history.epochs[0]["loss"], history.epochs[-1]["loss"]
    assert all(last[task] < 0.7 * first[task] for task in tasks)


def bad_labels() -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(3, 6), torch.tensor([0, 1, 1])), (torch.randn(3, 6), torch.tensor([0, 4, 1]))]


class NoBatches(list):  # a loader whose length is wrong
    def __len__(self) -> int:
        return 1


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"tasks": "x"}, KeyError, "unknown task 'x'; there are 'a', 'new'"),
        ({"tasks": "new"}, ValueError, "task 'new' owns no weights in layer 0, 3; claim some first"),
        ({"tasks": []}, ValueError, "different names"),
        ({"train": []}, ValueError, "train of task 'a' is empty"),
        ({"train": NoBatches()}, ValueError, "train of task 'a' is empty"),
        ({"train": iter(batches())}, TypeError, "iterated again"),
        ({"train": {"a": batches(), "b": batches()}}, ValueError, r"must have the keys \['a'\], got \['a', 'b'\]"),
        ({"validation": []}, ValueError, "validation of task 'a' is empty"),
        ({"validation": NoBatches()}, ValueError, "validation of task 'a' is empty"),
        ({"validation": None}, ValueError, "early stopping needs validation"),
        ({"train": bad_labels()}, ValueError, "since the head has 2 outputs, got 4 .*'a', epoch 1, batch 1"),
        ({"validation": bad_labels()}, ValueError, "labels must be in 0..1"),
        ({"loss_fn": lambda out, y: cross_entropy(out, y, reduction="none")}, ValueError,
         r"must be a scalar tensor, got torch.float32 \[8\] \(task 'a', epoch 1, batch 0\)"),
        ({"loss_fn": lambda out, y: out.sum() / 0}, ValueError, r"finite, got -?inf \(task 'a', epoch 1, batch 0\)"),
        ({"epoch_of": "new"}, ValueError, "epoch_of must be one of a, got 'new'"),
        ({"max_epochs": 0}, ValueError, "max_epochs must be an int of at least 1, got 0"),
        ({"checkpoint_every": 0}, ValueError, "checkpoint_every must be an int of at least 1"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(change: dict[str, Any], error: type[Exception], message: str) -> None:
    net = network("a")
    net.add_task("new", head=nn.Linear(8, 2))
    before = bytes_of(net, "new")
    arguments: dict[str, Any] = {
        "tasks": "a", "train": batches(1), "validation": batches(2), "loss_fn": cross_entropy, "max_epochs": 1,
        "progress": False, **change,
    }  # fmt: skip
    with pytest.raises(error, match=message):
        rsn2.fit(net, **arguments)
    assert not net.is_finished("a") and bytes_of(net, "new") == before
    assert all(p.requires_grad for p in net.parameters_of("new")), "put back after an error, too"


def test_labels_that_the_loss_ignores_are_no_mistake() -> None:
    data = [(torch.randn(4, 6), torch.tensor([0, -100, 1, 1]))]
    rsn2.fit(network("a"), "a", data, data, cross_entropy, max_epochs=1, **QUIET)
    data = [(torch.randn(4, 6), torch.tensor([0, 9, 1, 1]))]
    rsn2.fit(network("a"), "a", data, data, nn.CrossEntropyLoss(ignore_index=9), max_epochs=1, **QUIET)
