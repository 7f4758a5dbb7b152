"""Deferred initialisation: layers on the meta device, and conversions that a layer cannot make."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from rsn2_kernels.nn import TaskConv2d, TaskLinear

MAKERS = {
    "linear": lambda **given: TaskLinear(9, 7, num_slots=3, **given),
    "stored_base": lambda **given: TaskLinear.from_dense(nn.Linear(9, 7, **given), num_slots=3),
    "conv": lambda **given: TaskConv2d(3, 4, 3, num_slots=3, **given),
}
INPUTS = {"linear": (4, 9), "stored_base": (4, 9), "conv": (4, 3, 5, 5)}


@pytest.fixture(params=MAKERS)
def kind(request):
    return request.param


@pytest.fixture
def source(kind, draw):
    layer = MAKERS[kind]()
    for slot in range(3):
        layer.claim(slot, draw(layer, 0.2))
    layer.freeze(0)
    layer.read(1, [0])
    layer.slot_map = torch.tensor([2, 1, 0])
    return layer


def check_same(layer, source, kind):
    x, state = torch.randn(INPUTS[kind]), source.state_dict()
    assert [*layer.state_dict()] == [*state]
    assert all(torch.equal(tensor, state[name]) for name, tensor in layer.state_dict().items())
    for slot in range(3):
        assert torch.equal(layer(x, slot), source(x, slot))
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    before = layer(x, 1)
    for _ in range(2):
        optimizer.zero_grad()
        layer(x, torch.tensor([0, 1, 2, 1])).square().sum().backward()
        optimizer.step()
    assert not torch.equal(layer(x, 1), before) and torch.equal(layer(x, 0), source(x, 0))
    assert layer.values[0].grad is None
    twin = copy.deepcopy(layer)
    layer.claim(2, layer.free(), optimizer=optimizer)
    twin.claim(2, twin.free())
    assert torch.equal(layer.values[2], twin.values[2])


@pytest.mark.parametrize("made", ["on_meta", "moved_to_meta"])
@pytest.mark.parametrize("way", ["assign", "to_empty"])
def test_a_layer_without_memory_is_loaded(kind, source, made, way):
    layer = MAKERS[kind](device="meta") if made == "on_meta" else copy.deepcopy(source).to("meta")
    assert all(parameter.is_meta for parameter in layer.parameters())
    model = nn.Sequential(layer)
    state = nn.Sequential(source).state_dict()
    if way == "assign":
        with pytest.raises(RuntimeError, match="the layer is on the meta device, where nothing can be copied to"):
            model.load_state_dict(state)
        model.load_state_dict(state, assign=True)
    else:
        model.to_empty(device=source.values[0].device)
        model.load_state_dict(state)
    check_same(layer, source, kind)


def test_what_a_layer_without_memory_still_knows(kind, source):
    y = source(torch.randn(INPUTS[kind]), 1)
    layer = copy.deepcopy(source).to("meta")
    for slot in range(3):
        assert (
            torch.equal(layer.mask(slot), source.mask(slot)) and layer.values[slot].shape == source.values[slot].shape
        )
    assert layer.is_frozen(0) and layer.reads(1) == (0,)
    assert layer(torch.randn(INPUTS[kind], device="meta"), 1).shape == y.shape
    for change in (lambda: layer.claim(1, layer.free()), lambda: layer.release(1)):
        with pytest.raises(RuntimeError, match=": the layer is on the meta device, where it has no values"):
            change()
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
        layer.to(source.values[0].device)
    assert all(parameter.is_meta for parameter in layer.parameters())
    state = {name: tensor.clone() for name, tensor in source.state_dict().items()}
    with pytest.raises(RuntimeError, match="values, bias.* have no numbers to be loaded, being on the meta device"):
        source.load_state_dict(layer.state_dict())
    assert all(torch.equal(tensor, state[name]) for name, tensor in source.state_dict().items())


def test_to_empty_leaves_who_owns_what(kind, source):
    layer = copy.deepcopy(source)
    layer.to_empty(device=source.values[0].device)
    assert torch.equal(layer.positions, source.positions) and torch.equal(layer.slot_map, source.slot_map)
    layer.load_state_dict(source.state_dict())
    check_same(layer, source, kind)


def test_type_changes_the_weights_alone(kind, source):
    layer = copy.deepcopy(source).type(torch.float64)
    assert layer.values[0].dtype == layer.flat_values.dtype == torch.float64
    assert layer.positions.dtype == layer.slot_map.dtype == torch.int64 and layer.index.dtype == torch.int32
    x = torch.randn(INPUTS[kind])
    torch.testing.assert_close(layer(x.double(), 1), source(x, 1).double(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.int32, torch.complex64])
def test_a_refused_conversion_changes_nothing(kind, source, dtype):
    x = torch.randn(INPUTS[kind])
    y, state = source(x, 1), {name: tensor.clone() for name, tensor in source.state_dict().items()}
    with pytest.raises(TypeError, match=f"the weights must stay real numbers, got {dtype}"):
        source.type(dtype)
    assert all(torch.equal(tensor, state[name]) for name, tensor in source.state_dict().items())
    assert torch.equal(source(x, 1), y) and not source.values[0].requires_grad
