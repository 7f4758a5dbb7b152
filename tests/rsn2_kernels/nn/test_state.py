from __future__ import annotations

import copy

import pytest
import torch

from rsn2_kernels.formats import SeededBase
from rsn2_kernels.nn import TaskBatchNorm1d, TaskConv1d, TaskConv2d, TaskLinear

MAKERS = {
    "linear": lambda num_slots, **given: TaskLinear(9, 7, num_slots=num_slots, **given),
    "no_bias": lambda num_slots, **given: TaskLinear(9, 7, bias=False, num_slots=num_slots, **given),
    "normal_base": lambda num_slots, **given: TaskLinear(
        9, 7, num_slots=num_slots, base=SeededBase(5, "normal", 0.1), **given
    ),
    "stored_base": lambda num_slots, **given: TaskLinear.from_dense(torch.nn.Linear(9, 7), num_slots=num_slots),
    "conv": lambda num_slots, **given: TaskConv2d(3, 4, 3, num_slots=num_slots, **given),
}


@pytest.fixture(params=MAKERS)
def make(request):
    return MAKERS[request.param]


@pytest.mark.parametrize("before", [0, 1, 3, 5])
def test_it_loads_into_a_layer_with_other_slots_and_counts(make, before, draw):
    layer, other = make(3), make(before)
    for slot in range(3):
        layer.claim(slot, draw(layer, 0.1 * (slot + 1)))
    for slot in range(before):
        other.claim(slot, draw(other, 0.15))
        other.freeze(slot)
    layer.freeze(2)
    layer.slot_map = torch.tensor([2, 0, 0, 1])
    kept = other.values[0] if before else None
    state = layer.state_dict()
    other.load_state_dict(state)
    assert other.num_slots == 3 and (kept is None or other.values[0] is kept)
    again = other.state_dict()
    assert list(again) == list(state) and all(torch.equal(again[name], state[name]) for name in state)
    assert [other.is_frozen(slot) for slot in range(3)] == [False, False, True]
    for twin in (layer, other):  # claims to come start from the same values
        twin.claim(1, layer.free() if twin is layer else other.free())
    assert torch.equal(layer.values[1], other.values[1])
    assert not other.is_frozen(other.add_slot())
    with torch.no_grad():
        other.values[0].zero_()
    assert not torch.equal(layer.values[0], other.values[0])  # a copy


def test_one_tensor_of_every_kind(draw):
    layer = TaskLinear(9, 7, num_slots=2)
    layer.claim(0, draw(layer, 0.5))
    state = layer.state_dict()
    assert set(state) == {"values", "positions", "frozen", "bias", "base_seed"}
    assert state["values"].shape == (31,) and state["bias"].shape == (2, 7)
    assert set(layer.state_dict(prefix="a.")) == {f"a.{name}" for name in state}


def test_what_does_not_fit_changes_nothing(draw):
    layer, names = TaskLinear(9, 7, num_slots=2), TaskLinear(9, 7, num_slots=["a", "b"])
    layer.claim(0, draw(layer, 0.2))
    good = TaskLinear(9, 7, num_slots=3).state_dict()
    full = copy.deepcopy(layer).state_dict()
    broken = full["positions"].clone()
    broken[-1] ^= 1
    bad = {
        r"weight must be \[7, 9\], got \[7, 8\]": TaskLinear(8, 7, num_slots=3).state_dict(),
        r"bias must be float \[3, 7\], got torch.float32 \[2, 7\]": {**good, "bias": torch.zeros(2, 7)},
        r"bias must be float \[3, 7\], got torch.int64": {**good, "bias": torch.zeros(3, 7, dtype=torch.int64)},
        r"base_bias must be \[7\], got \[6\]": {**good, "base_bias": torch.zeros(6)},
        r"base_seed must be int64 .* got tensor\(\[1, 9": {**good, "base_seed": torch.tensor([1, 9, 0])},
        r"base_seed must be int64 .* got tensor\(\[1\]": {**good, "base_seed": torch.tensor([1])},
        r"frozen must be bool \[3\]": {**good, "frozen": torch.zeros(2, dtype=torch.bool)},
        "frozen must be bool ": {**good, "frozen": torch.zeros(3)},
        "slot_map must be int64": {**good, "slot_map": torch.zeros(2)},
        "reads must name pairs of a slot and another, frozen one": {**good, "reads": torch.tensor([[0, 1]])},
        r"reads must be int64 \[n, 2\]": {**good, "reads": torch.tensor([0, 1])},
        "slot 0: ": {**full, "positions": broken},
        "values must be a 1-D float tensor": {**good, "values": torch.zeros(0, dtype=torch.int64)},
        'Missing key.*"positions"': {name: tensor for name, tensor in good.items() if name != "positions"},
        'Unexpected key.*"weight"': {**full, "weight": torch.zeros(7, 9)},
    }
    for message, state in bad.items():
        with pytest.raises(RuntimeError, match=message):
            layer.load_state_dict(state)
        assert layer.num_slots == 2
        assert all(torch.equal(tensor, full[name]) for name, tensor in layer.state_dict().items())
    with pytest.raises(RuntimeError, match=r"has slots \['a', 'b'\], the state 3 slots"):
        names.load_state_dict(good)


@pytest.mark.parametrize("assign", [False, True])
def test_a_bias_of_other_strides_is_loaded(assign):
    layer, other = TaskLinear(9, 7, num_slots=2), TaskLinear(9, 7, num_slots=2)
    state = layer.state_dict()
    state["bias"] = state["bias"].t().contiguous().t()
    other.load_state_dict(state, assign=assign)
    assert torch.equal(other.flat_bias, layer.flat_bias) and other.flat_bias.is_contiguous()
    assert other.bias[1].data_ptr() == other.flat_bias[1].data_ptr()


@pytest.mark.parametrize("assign", [False, True])
def test_dtype_of_a_loaded_layer(make, assign, draw):
    layer, other = make(2).double(), make(2)
    layer.claim(1, draw(layer, 0.4))
    other.load_state_dict(layer.state_dict(), assign=assign)
    wanted = torch.float64 if assign else torch.float32
    assert other.values[1].dtype == other.flat_values.dtype == wanted
    assert other.values[1].data_ptr() == other.flat_values.data_ptr() and len(other.values[1]) == len(layer.values[1])
    assert not assign or torch.equal(other.values[1], layer.values[1])


def test_a_loaded_layer_refuses_the_graph_of_before(draw):
    layer = TaskLinear(9, 7, num_slots=2)
    layer.claim(0, draw(layer, 0.2))
    y = layer(torch.randn(2, 9), 0)
    layer.load_state_dict(TaskLinear(9, 7, num_slots=2).state_dict())
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_one_dimensional_convolutions_too(draw):
    layer, other = TaskConv1d(3, 4, 5, num_slots=2), TaskConv1d(3, 4, 5, num_slots=1)
    layer.claim(1, draw(layer, 0.4))
    other.load_state_dict(layer.state_dict())
    x = torch.randn(2, 3, 9)
    assert torch.equal(layer(x, 1), other(x, 1))


@pytest.mark.parametrize(
    "make_named", [lambda slots: TaskLinear(3, 2, num_slots=slots), lambda slots: TaskBatchNorm1d(3, num_slots=slots)]
)
def test_slots_of_other_names_or_in_another_order_are_refused(make_named, tmp_path):
    torch.save(make_named(["a", "b"]).state_dict(), tmp_path / "state")
    state = torch.load(tmp_path / "state", weights_only=True)
    for fitting in (["a", "b"], 2, 1):  # a layer without names has numbers alone
        make_named(fitting).load_state_dict(state)
    for names in (["b", "a"], ["a", "c"]):
        other = make_named(names)
        with pytest.raises(RuntimeError, match=r"has slots \['.', '.'\], the state \['a', 'b'\]"):
            other.load_state_dict(state)
    other.load_state_dict(dict(state))  # without its metadata a state knows numbers alone
