"""Tasks, their slots, stems and heads; the four ways to call a network; that finished tasks never change."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

import rsn2
from rsn2_kernels.nn import TaskLinear

Same = Callable[[Tensor, Tensor], None]


def small_trunk() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 12), nn.ReLU()
    )


def own_everything(net: rsn2.MultitaskNetwork, task: str, num_parts: int = 4) -> None:
    """Give a task every ``num_parts``-th weight of each of its layers, without any score."""
    number = net.task_number(task)
    for layer, slot in net.task_layers(task).values():
        if layer.values[slot].numel() == 0:
            mask = (torch.arange(layer.numel) % num_parts == number % num_parts).reshape(layer.weight_shape)
            layer.claim(slot, mask & layer.free())


@pytest.fixture
def net() -> rsn2.MultitaskNetwork:
    """Three tasks: two on the trunk's own inputs, one with a stem, heads of other widths."""
    torch.manual_seed(0)
    network = rsn2.MultitaskNetwork(small_trunk())
    network.add_task("a", head=nn.Linear(12, 3))
    network.add_task("b", head=nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 1)))
    network.add_task("c", stem=nn.Sequential(nn.Linear(5, 32), nn.BatchNorm1d(32), nn.Unflatten(1, (2, 4, 4))))
    for task in network.tasks:
        own_everything(network, task)
    return network.eval()


def images(rows: int) -> Tensor:
    return torch.randn(rows, 2, 4, 4)


def test_tasks_have_names_numbers_and_slots(net: rsn2.MultitaskNetwork) -> None:
    assert net.tasks == ["a", "b", "c"]
    assert [net.task_number(task) for task in ("a", "b", "c", 2)] == [0, 1, 2, 2]
    assert net.slot_of("b", "4") == 1
    assert net.owned_weights() == {"0": {"a": 18, "b": 18, "c": 18}, "4": {"a": 192, "b": 192, "c": 192}}


def test_outputs_have_the_widths_of_the_heads(net: rsn2.MultitaskNetwork) -> None:
    outputs = net({"a": images(3), "b": images(2), "c": torch.randn(4, 5)})
    assert {name: list(y.shape) for name, y in outputs.items()} == {"a": [3, 3], "b": [2, 1], "c": [4, 12]}


def test_a_mixed_batch_has_the_bits_of_the_tasks_alone(
    net: rsn2.MultitaskNetwork, cpu_level: str, same_rows: Same
) -> None:
    inputs = {"a": images(7), "c": torch.randn(5, 5), "b": images(1)}
    mixed = net(inputs)
    assert list(mixed) == ["a", "c", "b"]
    for task, x in inputs.items():
        same_rows(mixed[task], net(x, task=task))


def test_rows_of_several_tasks(net: rsn2.MultitaskNetwork, same_rows: Same) -> None:
    x, ids = images(9), torch.tensor([1, 0, 1, 1, 0, 0, 1, 0, 1])
    outputs = net(x, task=ids)
    assert list(outputs) == ["a", "b"]
    for task, (rows, y) in outputs.items():
        assert rows.tolist() == (ids == net.task_number(task)).nonzero().flatten().tolist()
        same_rows(y, net(x[rows], task=task))


def test_no_rows_at_all(net: rsn2.MultitaskNetwork) -> None:
    assert net(images(0), task=torch.zeros(0, dtype=torch.int64)) == {}
    assert net({"a": images(0), "b": images(2)})["a"].shape == (0, 3)


def test_several_tasks_on_one_input(net: rsn2.MultitaskNetwork, same_rows: Same) -> None:
    x = images(6)
    outputs = net(x, task=["b", "a"])
    assert list(outputs) == ["b", "a"]
    for task, y in outputs.items():
        same_rows(y, net(x, task=task))


def test_a_compiled_trunk_serves_all_tasks_with_one_compilation(net: rsn2.MultitaskNetwork) -> None:
    x = images(6)
    expected = {task: net(x, task=task) for task in ("a", "b")}
    counts = CompileCounter()
    net.trunk = torch.compile(net.trunk, backend=counts, fullgraph=True)
    for task in ("a", "b", "a"):
        torch.testing.assert_close(net(x, task=task), expected[task])
    assert counts.frame_count == 1
    assert net.owned_weights()["4"]["a"] == 192


@pytest.mark.parametrize("tasks", [["a"], ["a", "b"], ["a", "b", "c"]], ids="".join)
def test_a_compiled_network_is_not_compiled_for_every_batch(net: rsn2.MultitaskNetwork, tasks: list[str]) -> None:
    counts, counted = CompileCounter(), []
    compiled = torch.compile(net, backend=counts, fullgraph=True)
    for _ in range(4):
        inputs = {task: torch.randn(4, 5) if task == "c" else images(3) for task in tasks}
        expected = net(inputs)
        for task, y in compiled(inputs).items():
            torch.testing.assert_close(y, expected[task])
        counted.append(counts.frame_count)
    assert counted == [counted[0]] * 4 and counted[0] > 0


def test_a_compiled_network_knows_when_two_tasks_have_one_input(net: rsn2.MultitaskNetwork) -> None:
    compiled = torch.compile(net, backend="eager")
    for _ in range(2):
        x, other = images(3), images(3)
        for inputs in ({"a": x, "b": other}, {"a": x, "b": x}, {"a": other, "b": other}):
            expected = net(inputs)
            for task, y in compiled(inputs).items():
                torch.testing.assert_close(y, expected[task])


def test_finished_tasks_stay_the_same_to_the_last_bit(net: rsn2.MultitaskNetwork) -> None:
    """One optimizer over everything, with all that moves weights without a gradient."""
    inputs = {"a": images(6), "b": images(6), "c": torch.randn(6, 5)}
    net.train()
    optimizers = [
        torch.optim.AdamW(net.parameters(), lr=0.05, weight_decay=0.3),
        torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.1),
    ]

    def step(tasks: list[str]) -> None:
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=False)
            outputs = net({task: inputs[task] for task in tasks})
            sum(y.square().sum() for y in outputs.values()).backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()

    for _ in range(3):
        step(["a", "b", "c"])  # momentum and moments for all tasks
    for task in ("c", "a"):
        net.freeze(task)
    net.add_task("d", head=nn.Linear(12, 2))
    own_everything(net, "d")
    inputs["d"] = images(4)
    optimizers[0].add_param_group({"params": net.parameters_of("d")})

    def everything_of(task: str) -> list[bytes]:
        number = net.task_number(task)
        tensors = list(net.parameters_of(task)) + [*net.stems[number].buffers(), *net.heads[number].buffers()]
        norm = net.trunk_layers()["1"]
        tensors += [norm.running_mean[number], norm.running_var[number], norm.num_batches_tracked[number]]
        return [t.detach().contiguous().cpu().numpy().tobytes() for t in tensors]

    before = {task: everything_of(task) for task in ("a", "b", "c")}
    outputs = {task: net.eval()(inputs[task], task=task) for task in ("a", "c")}
    net.train()
    for tasks in (["b"], ["b", "d"], ["a", "b", "c", "d"]):
        for _ in range(3):
            step(tasks)
    net.eval()
    for task in ("a", "c"):
        assert everything_of(task) == before[task]
        torch.testing.assert_close(net(inputs[task], task=task), outputs[task], rtol=0, atol=0)
        assert all(p.grad is None and not p.requires_grad for p in net.parameters_of(task))
    assert everything_of("b") != before["b"], "the optimizers must have trained"


def test_freeze_and_thaw(net: rsn2.MultitaskNetwork) -> None:
    net.heads[1][0].weight.requires_grad_(False)  # the user's own choice survives
    net.freeze("b")
    net.freeze("b")
    assert net.is_finished("b") and not net.is_finished("a")
    assert not any(p.requires_grad for p in net.parameters_of("b"))
    net.train()
    assert not net.heads[1].training and net.heads[0].training
    net.thaw("b")
    assert net.heads[1].training and not net.heads[1][0].weight.requires_grad
    assert all(p.requires_grad for p in net.parameters_of("b") if p is not net.heads[1][0].weight)


def test_pruned_stems_and_heads_become_task_layers() -> None:
    net = rsn2.MultitaskNetwork(nn.Sequential(nn.Linear(8, 6)))
    net.add_task("a", stem=nn.Linear(3, 8), head=nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 2)),
                 prune_stem=True, prune_head=True)  # fmt: skip
    assert list(net.task_layers("a")) == ["0", "stems.a.0", "heads.a.0", "heads.a.2"]
    own_everything(net, "a", num_parts=2)
    net({"a": torch.randn(4, 3)})["a"].sum().backward()
    assert all(p.grad is not None for p in net.parameters_of("a"))
    net.freeze("a")
    assert not any(p.requires_grad for p in net.parameters())


def test_layers_that_are_not_converted_are_frozen_for_all() -> None:
    trunk = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 6))
    net = rsn2.MultitaskNetwork(trunk, where=lambda name, module: name == "2")
    net.add_task("a")
    own_everything(net, "a", num_parts=1)
    before = trunk[1].running_mean.clone()
    net.train()
    net({"a": torch.randn(9, 4) + 5})["a"].sum().backward()
    torch.testing.assert_close(trunk[1].running_mean, before, rtol=0, atol=0)
    assert trunk[0].weight.grad is None and not trunk[0].weight.requires_grad


def test_a_trunk_may_have_task_layers_already() -> None:
    trunk = nn.Sequential(TaskLinear(4, 3, num_slots=0))
    net = rsn2.MultitaskNetwork(trunk)
    net.add_task("a")
    assert net.trunk[0] is trunk[0] and trunk[0].slot_names == ["a"]
    assert isinstance(rsn2.MultitaskNetwork(nn.Linear(3, 2)).trunk[0], TaskLinear)


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["deepcopy", "pickle"]
)
def test_a_copy_computes_the_same_and_trains_apart(
    net: rsn2.MultitaskNetwork, duplicate: Callable[..., nn.Module]
) -> None:
    net.freeze("a")
    x = images(3)
    expected = net(x, task="b")
    other = duplicate(net)
    torch.testing.assert_close(other(x, task="b"), expected, rtol=0, atol=0)
    with torch.no_grad():
        for parameter in other.parameters_of("b"):
            parameter.zero_()
    torch.testing.assert_close(net(x, task="b"), expected, rtol=0, atol=0)
    other.thaw("a")
    assert net.is_finished("a") and all(p.requires_grad for p in other.parameters_of("a"))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda n: n(images(2)), ValueError, r"no task given: net\(x, task=...\) or .*; there are 'a', 'b', 'c'"),
        (lambda n: n({}), ValueError, "no task given"),
        (lambda n: n(images(2), task="x"), KeyError, "unknown task 'x'; there are 'a', 'b', 'c'"),
        (lambda n: n(images(2), task=7), KeyError, "unknown task 7; there are 'a', 'b', 'c'"),
        (lambda n: n(images(2), task=1.5), TypeError, "task must be a name or a number, got float"),
        (lambda n: n({"a": images(2)}, task="a"), ValueError, "exclude each other"),
        (lambda n: n(images(2), task=torch.tensor([0])), ValueError, r"int64 \[2\], one number per row, got .*\[1\]"),
        (lambda n: n(images(2), task=torch.tensor([0, 1], dtype=torch.int32)), ValueError, "got torch.int32"),
        (lambda n: n(images(2), task=torch.tensor([0, 3])), IndexError, r"0..2, got \[3\]; there are 'a'"),
        (lambda n: n(images(2), task=torch.tensor([0, -1])), IndexError, r"got \[-1\]"),
        (lambda n: n({"a": images(2), "b": images(2).double()}), ValueError, "task 'b' torch.float64"),
        (lambda n: n({"a": images(2), "b": torch.randn(2, 2, 5, 4)}), ValueError, "give tasks of other shapes a stem"),
        (lambda n: n([1, 2], task="a"), ValueError, "must be a tensor of rows, got list from task 'a'"),
        (lambda n: n.add_task("a"), ValueError, "there is a task 'a' already; there are 'a', 'b', 'c'"),
        (lambda n: n.add_task(""), ValueError, "name must be a text"),
        (lambda n: n.add_task("d", head=lambda x: x), TypeError, "head must be a torch.nn.Module"),
        (lambda n: n.add_task("d", prune_head=True), ValueError, "prune_head needs a head with a linear"),
        (lambda n: n.add_task("d", head=nn.ReLU(), prune_head=True), ValueError, "needs a head with a linear"),
        (lambda n: n.add_task("d", share={"zz*": "a"}), ValueError, "'zz\\*' matches no layer; there are 0, 1, 4"),
        (lambda n: n.add_task("d", share={"0": "x"}), KeyError, "unknown task 'x'; there are 'a'"),
        (lambda n: n.add_task("d", share={"0": "a", "*": "b"}), ValueError, "gives layer 0 to two tasks"),
        (lambda n: n.slot_of("a", "9"), KeyError, "unknown layer '9'; there are 0, 1, 4"),
    ],
)  # fmt: skip
def test_wrong_calls_say_what_is_wrong_and_change_nothing(
    net: rsn2.MultitaskNetwork, call: Callable[..., object], error: type[Exception], message: str
) -> None:
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(error, match=message):
        call(net)
    assert net.tasks == ["a", "b", "c"]
    after = net.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[key], before[key]) for key in before)


def test_trunks_that_cannot_be_shared() -> None:
    with pytest.raises(ValueError, match="no linear or convolutional layer"):
        rsn2.MultitaskNetwork(nn.Sequential(nn.ReLU()))
    assert isinstance(rsn2.MultitaskNetwork(TaskLinear(3, 2, num_slots=0)).trunk[0], TaskLinear)
    with pytest.raises(ValueError, match="must not have slots yet, but 0 have"):
        rsn2.MultitaskNetwork(nn.Sequential(TaskLinear(2, 2, num_slots=1)))
    net = rsn2.MultitaskNetwork(nn.Sequential(nn.Linear(2, 2), nn.Flatten(0)))
    with pytest.raises(ValueError, match="no tasks yet"):
        net(torch.randn(2, 2))
    net.add_task("a")
    with pytest.raises(ValueError, match="must give a tensor of 3 rows, as it got, but gave"):
        net(torch.randn(3, 2), task="a")
    with pytest.raises(TypeError, match="trunk must be a module, got NoneType"):
        rsn2.MultitaskNetwork(None)


def test_the_public_names() -> None:
    assert all(hasattr(rsn2, name) for name in dir(rsn2))
    assert rsn2.metrics.accuracy(torch.tensor([1.0]), torch.tensor([1])) == 1.0
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        rsn2.nothing  # noqa: B018
