"""What torch and its users do with a module: average it, unfreeze it, copy it, train it in pieces."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn

from rsn2_kernels.nn import TaskConv2d, TaskLayer, TaskLinear


def trained(layer: TaskLayer, x: torch.Tensor, slot: int, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    layer(x, slot).square().sum().backward()
    optimizer.step()


# Averages of the weights.


@pytest.mark.parametrize("use_buffers", [False, True])
@pytest.mark.parametrize(
    "average",
    [{}, {"avg_fn": get_ema_avg_fn(0.9)}, {"multi_avg_fn": get_ema_multi_avg_fn(0.9)}],
    ids=["swa", "ema", "ema_multi"],
)
def test_an_average_is_that_of_the_parameters(claimed_layer_and_input, use_buffers, average):
    layer, x = claimed_layer_and_input
    layer.freeze(0)
    layer.read(1, [0])
    layer.slot_map = torch.tensor([2, 1, 0])
    averaged = AveragedModel(layer, use_buffers=use_buffers, **average)
    expected = None
    for count in range(3):
        with torch.no_grad():
            for parameter in layer.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter))
        averaged.update_parameters(layer)
        now = [parameter.detach().clone() for parameter in layer.parameters()]
        share = 0.1 if average else 1 / (count + 1)
        expected = now if expected is None else [a + (b - a) * share for a, b in zip(expected, now, strict=True)]
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        for parameter, value in zip(twin.parameters(), expected, strict=True):
            parameter.copy_(value)
    assert [*averaged.module.state_dict()] == [*twin.state_dict()]
    for (name, tensor), wanted in zip(averaged.module.state_dict().items(), twin.state_dict().values(), strict=True):
        torch.testing.assert_close(tensor, wanted, rtol=1e-5, atol=1e-6, msg=name)
    torch.testing.assert_close(averaged(x, 1), twin(x, 1), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(averaged(x, 1), layer(x, 1))


# Frozen slots.


@pytest.mark.parametrize("on", ["layer", "model", "list", "parameter"])
def test_only_thaw_lets_a_frozen_slot_train(claimed_layer_and_input, on):
    layer, x = claimed_layer_and_input
    layer.freeze(0)
    layer.read(1, [0])
    before, y = [p.detach().clone() for p in layer.parameters_of(0)], layer(x, 0)
    targets = {"layer": layer, "model": nn.Sequential(layer), "list": layer.values, "parameter": layer.values[0]}
    targets[on].requires_grad_(True)
    assert on != "layer" or [p.requires_grad for p in layer.values] == [False, True, True]
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, weight_decay=0.1)
    for slots in (torch.tensor([0, 1, 0, 1]), torch.tensor(0)):
        loss = layer(x.requires_grad_(), slots).square().sum()
        loss.backward()
        optimizer.step()
    assert layer.is_frozen(0) and all(parameter.grad is None for parameter in layer.parameters_of(0))
    assert all(map(torch.equal, layer.parameters_of(0), before)) and torch.equal(layer(x, 0), y)
    layer.read(1, [])
    layer.thaw(0)
    layer(x, 0).sum().backward()
    assert layer.values[0].grad is not None


def test_frozen_slots_of_loaded_layers_and_copies(claimed_layer_and_input):
    layer, x = claimed_layer_and_input
    layer.freeze(1)
    loaded = copy.deepcopy(layer)
    layer.thaw(1)
    other = copy.deepcopy(layer)
    other.load_state_dict(loaded.state_dict())
    for twin in (loaded, other):
        nn.Sequential(twin).requires_grad_(True)
        twin(x, 1).sum().backward()
        assert twin.values[1].grad is None and twin.values[0].grad is not None
    other.load_state_dict(layer.state_dict())
    other(x, 1).sum().backward()
    assert other.values[1].grad is not None


# Graphs that are older than a change.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("change", ["claim", "release", "load", "load_fewer"])
def test_a_graph_of_before_does_not_hinder_one_of_after(claimed_layer_and_input, draw, change, dtype):
    layer, x = claimed_layer_and_input
    layer, x = layer.to(dtype), x.to(dtype)
    other = copy.deepcopy(layer)
    other.claim(0, draw(other, 0.1))
    if change == "load_fewer":
        other.release(0, other.mask(0))
    seen = []
    layer.values[0].register_hook(seen.append)
    loss, unused = layer(x, 0).sum(), layer(x, 0).sum()
    loss.backward()
    if change == "claim":
        layer.claim(0, draw(layer, 0.1))
    elif change == "release":
        layer.release(0, layer.mask(0) & (torch.rand(layer.weight_shape) < 0.5))
    else:
        layer.load_state_dict(other.state_dict())
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        unused.backward()
    layer(x, 0).sum().backward()
    assert layer.bias[0].grad is not None and len(seen) == (1 if change == "load_fewer" else 2)
    if change != "load_fewer":
        assert layer.values[0].grad.shape == layer.values[0].shape and layer.values[0].grad.dtype == dtype


# Inference mode.


@pytest.mark.parametrize(
    "change", ["claim", "claim_places", "release", "read", "add_slot", "load", "load_assign", "make"]
)
def test_changes_in_inference_mode_leave_a_layer_that_trains(claimed_layer_and_input, draw, change):
    layer, x = claimed_layer_and_input
    layer.freeze(1)
    with torch.inference_mode():
        if change == "claim":
            layer.claim(0, draw(layer, 0.1), values=torch.randn(layer.weight_shape))
        elif change == "claim_places":
            places = layer.free().flatten().nonzero().squeeze(1)[:3]
            layer.claim_places({0: (places, torch.randn(3))})
        elif change == "release":
            layer.release(0, layer.mask(0) & (torch.rand(layer.weight_shape) < 0.5))
        elif change == "read":
            layer.read(0, [1])
        elif change == "add_slot":
            layer.add_slot()
        elif change == "make":
            layer = type(layer).from_dense(layer.to_dense(0), num_slots=1)
            layer.claim(0, layer.free())
        else:
            state = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
            layer.load_state_dict(state, assign=change == "load_assign")
    optimizer = torch.optim.Adam(layer.parameters())
    for _ in range(2):
        trained(layer, x, 0, optimizer)
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


# Transformations of functions.


@pytest.mark.parametrize("of", ["x", "parameters"])
@pytest.mark.parametrize("transform", ["grad", "vjp", "jacrev"])
def test_functional_derivatives_are_refused_clearly(claimed_layer_and_input, transform, of):
    layer, x = claimed_layer_and_input
    given = {name: parameter.detach() for name, parameter in layer.named_parameters()}

    def of_x(x: torch.Tensor) -> torch.Tensor:
        return layer(x, 0).sum()

    def of_parameters(given: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.func.functional_call(layer, given, (x, 0)).sum()

    function, argument = (of_x, x) if of == "x" else (of_parameters, given)
    with pytest.raises(NotImplementedError, match="task_.*: torch.func.grad, vjp and jacrev are not implemented"):
        if transform == "vjp":
            torch.func.vjp(function, argument)
        else:
            getattr(torch.func, transform)(function)(argument)
    layer(x, 0).sum().backward()


def test_a_compiled_layer_follows_changes(claimed_layer_and_input, draw):
    layer, x = claimed_layer_and_input
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")

    def check(slots: torch.Tensor) -> None:
        torch.testing.assert_close(compiled(x, slots), layer(x, slots), rtol=1e-5, atol=1e-6)

    slots = torch.tensor([0, 1, 0, 2])
    compiled(x, slots).sum().backward()
    check(slots)
    layer.claim(0, draw(layer, 0.1))
    check(slots)
    compiled(x, slots).sum().backward()
    assert layer.values[0].grad.shape == layer.values[0].shape
    with torch.no_grad():
        layer.values[0].mul_(2)
    check(slots)
    layer.freeze(0)
    layer.read(1, [0])
    check(slots)
    nn.Sequential(layer).requires_grad_(True)
    compiled(x, slots).sum().backward()
    assert layer.values[0].grad is None and layer.values[1].grad is not None


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_the_dense_layer_has_what_the_slot_reads(kind):
    torch.manual_seed(0)
    layer = TaskLinear(8, 4, num_slots=2) if kind == "linear" else TaskConv2d(2, 4, 3, num_slots=2)
    mask = torch.rand(layer.weight_shape) < 0.5
    layer.claim(0, mask)
    layer.freeze(0)
    layer.read(1, [0])
    layer.claim(1, ~mask)
    x = torch.randn(3, 8) if kind == "linear" else torch.randn(3, 2, 5, 5)
    assert bool((layer.dense_weight(1) != 0).all()) and bool((layer.dense_weight(0) != 0).eq(mask).all())
    for slot in (0, 1):
        torch.testing.assert_close(layer.to_dense(slot)(x), layer(x, slot))
