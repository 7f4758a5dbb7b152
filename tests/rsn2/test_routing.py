"""Tasks that share slots: what they have in common is computed, trained and frozen once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import rsn2


def own_everything(net: rsn2.MultitaskNetwork, task: str) -> None:
    """Give a task every fourth weight of each of its layers, without any score."""
    number = net.task_number(task)
    for layer, slot in net.task_layers(task).values():
        if layer.values[slot].numel() == 0:
            layer.claim(slot, (torch.arange(layer.numel) % 4 == number).reshape(layer.weight_shape))


def images(rows: int) -> Tensor:
    return torch.randn(rows, 2, 4, 4)


class CountsRows(nn.Module):
    """Passes its input on and remembers how many rows came."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.rows.append(len(x))
        return x


def faces(seen: tuple[CountsRows, CountsRows], wrap: Callable[[nn.Module], nn.Module]) -> rsn2.MultitaskNetwork:
    """The shape of Experiment 8: three tasks share the convolution's slot, all have linear slots of their own."""
    torch.manual_seed(1)
    features = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), seen[0])
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(16, 10), seen[1])
    trunk = nn.Sequential()
    trunk.add_module("features", features)
    trunk.add_module("classifier", classifier)
    network = rsn2.MultitaskNetwork(wrap(trunk))
    network.add_task("age", head=nn.Linear(10, 4))
    for task in ("gender", "race"):
        network.add_task(task, head=nn.Linear(10, 2), share={"*features.*": "age"})
    network.add_task("objects", head=nn.Linear(10, 5))
    for task in network.tasks:
        own_everything(network, task)
    return network.eval()


class Whole(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


@pytest.mark.parametrize("wrap", [lambda trunk: trunk, Whole], ids=["sequential", "opaque"])
def test_what_tasks_have_in_common_is_computed_once(
    wrap: Callable[[nn.Module], nn.Module], same_rows: Callable[[Tensor, Tensor], None]
) -> None:
    seen = CountsRows(), CountsRows()
    net = faces(seen, wrap)
    x = images(3)
    alone = {task: net(x, task=task) for task in net.tasks}
    for counter in seen:
        counter.rows.clear()
    outputs = net(x, task=["age", "gender", "objects", "race"])
    for task, y in outputs.items():
        same_rows(y, alone[task])
    assert seen[1].rows == [12]
    assert seen[0].rows == ([6] if wrap is not Whole else [12])


def test_tasks_with_all_slots_in_common_share_the_whole_pass() -> None:
    counter = CountsRows()
    net = rsn2.MultitaskNetwork(Whole(nn.Sequential(nn.Linear(4, 6), counter)))
    net.add_task("a", head=nn.Linear(6, 2))
    net.add_task("twin", head=nn.Linear(6, 3), share={"*": "a"})
    own_everything(net, "a")
    x = torch.randn(5, 4)
    outputs = net({"a": x, "twin": x})
    assert counter.rows == [5]
    torch.testing.assert_close(outputs["twin"], net(x, task="twin"), rtol=0, atol=0)


def test_sharing_maps_tasks_to_slots() -> None:
    net = faces((CountsRows(), CountsRows()), lambda trunk: trunk)
    assert [net.slot_of(task, "features.0") for task in net.tasks] == [0, 0, 0, 1]
    assert [net.slot_of(task, "classifier.1") for task in net.tasks] == [0, 1, 2, 3]
    assert net.owned_weights()["features.0"] == {"age": 18, "gender": 18, "race": 18, "objects": 18}
    assert int(net.trunk_layers()["features.0"].free().sum()) == 72 - 2 * 18


def test_a_slot_of_a_finished_task_is_frozen_for_all_who_share_it() -> None:
    net = faces((CountsRows(), CountsRows()), lambda trunk: trunk)
    conv = net.trunk_layers()["features.0"]
    shared = conv.parameters_of(0)
    assert all(any(p is q for q in net.parameters_of("gender")) for p in shared)
    net.freeze("age")
    assert not any(p.requires_grad for p in shared)
    assert not any(p is q for q in net.parameters_of("gender") for p in shared)
    net.freeze("race")
    net.thaw("age")
    assert not any(p.requires_grad for p in shared), "race is finished and uses this slot"
    net.thaw("race")
    assert all(p.requires_grad for p in shared)


def test_gradients_of_what_is_computed_once_are_summed_over_the_tasks() -> None:
    net = faces((CountsRows(), CountsRows()), lambda trunk: trunk)
    x = images(5)
    sum(y.square().sum() for y in net(x, task=["age", "gender", "race"]).values()).backward()
    together = [None if p.grad is None else p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    for task in ("age", "gender", "race"):
        net(x, task=task).square().sum().backward()
    for one, parameter in zip(together, net.parameters(), strict=True):
        assert (one is None) == (parameter.grad is None)
        if one is not None:
            torch.testing.assert_close(one, parameter.grad)


def test_a_relu_is_computed_with_the_layer_before_it_unless_somebody_watches(
    same_rows: Callable[[Tensor, Tensor], None],
) -> None:
    """Same bits, forward and backward; hooks see what they would have seen, and one ReLU may serve several layers."""
    torch.manual_seed(2)
    relu = nn.ReLU()
    inner = nn.Sequential(nn.Linear(36, 20), relu, nn.Linear(20, 12))
    net = rsn2.MultitaskNetwork(nn.Sequential(nn.Conv2d(2, 4, 2), relu, nn.Flatten(), inner, relu))
    for task in ("a", "b"):
        net.add_task(task)
        own_everything(net, task)
    x = images(5)

    def run() -> list[Tensor]:
        net.zero_grad()
        y = net(x, task="a")
        y.square().sum().backward()
        return [y, *(p.grad.clone() for p in net.parameters() if p.grad is not None)]

    plain = run()
    for watched, calls in ((relu, 3), (net.trunk[0], 1), (net.trunk[3][0], 1), (net.trunk[3], 1)):
        seen: list[Tensor] = []
        handle = watched.register_forward_hook(lambda module, args, y, seen=seen: seen.append(y.detach().clone()))
        watched_run = run()
        handle.remove()
        assert all(map(torch.equal, watched_run, plain))
        assert len(seen) == calls and bool((seen[0] < 0).any()) == (watched is not relu)
    called: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.ReLU, "forward", lambda module, y: called.append(len(y)) or y.relu())
        assert torch.equal(net(x, task="a"), plain[0])
    assert called == [5]  # the one after the inner sequence; two were computed with their layers
    both = net(x, task=["a", "b"])
    same_rows(both["a"], plain[0])
    same_rows(both["b"], net(x, task="b"))
