from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rsn2_kernels import CapacityError
from rsn2_kernels.formats import validate
from rsn2_kernels.nn import TaskConv2d, TaskLayer, TaskLinear, active
from rsn2_kernels.testing import seeded

LAYERS = {
    "linear": (lambda **given: TaskLinear(9, 7, **given), (5, 9)),
    "several_tiles": (lambda **given: TaskLinear(300, 20, **given), (5, 300)),
    "conv": (lambda **given: TaskConv2d(4, 6, 3, padding=1, **given), (5, 4, 5, 5)),
    "grouped_conv": (lambda **given: TaskConv2d(4, 6, (3, 2), groups=2, **given), (5, 4, 5, 5)),
}


@pytest.fixture(params=LAYERS.values(), ids=LAYERS)
def layer_and_input(request):
    make, shape = request.param
    return make(num_slots=3), torch.randn(shape)


def check_invariants(layer: TaskLayer) -> None:
    """Disjoint, views, and what the packed format demands."""
    validate(layer.flat_values, layer.positions)
    counts = torch.zeros(layer.weight_shape, dtype=torch.int64)
    address = layer.flat_values.data_ptr()
    for slot, value in enumerate(layer.values):
        counts += layer.mask(slot)
        assert int(layer.mask(slot).sum()) == value.numel() == len(layer.owned(slot))
        assert value.numel() == 0 or value.data_ptr() == address
        address += value.numel() * value.element_size()
        if layer.bias is not None:
            assert layer.bias[slot].data_ptr() == layer.flat_bias[slot].data_ptr()
    assert int(counts.max()) <= 1
    assert torch.equal(layer.free(), counts == 0)


@given(data=st.data(), kind=st.sampled_from(sorted(LAYERS)))
@settings(max_examples=25)
def test_claims_and_releases_are_disjoint_exact_and_keep_values(data, kind):
    layer = LAYERS[kind][0](num_slots=3)
    generator = seeded(data.draw(st.integers(0, 1000)))
    truth = torch.full((layer.numel,), torch.nan)  # the value of every owned weight
    owner = torch.full((layer.numel,), -1)
    base = layer.base.at(torch.arange(layer.numel), torch.float32)
    for _ in range(data.draw(st.integers(1, 6))):
        slot = data.draw(st.integers(0, 2))
        draw = torch.rand(layer.numel, generator=generator) < data.draw(st.sampled_from([0.0, 0.01, 0.2, 1.0]))
        if data.draw(st.booleans()):
            mask = draw & (owner == -1)
            layer.claim(slot, mask.reshape(layer.weight_shape))
            truth[mask], owner[mask] = base[mask], slot
        else:
            mask = draw & (owner == slot)
            layer.release(slot, mask.reshape(layer.weight_shape))
            truth[mask], owner[mask] = torch.nan, -1
        with torch.no_grad():  # as training does
            layer.values[slot].add_(1)
        truth[owner == slot] += 1
        check_invariants(layer)
        for other in range(3):
            assert torch.equal(layer.mask(other).flatten(), owner == other)
            assert torch.equal(layer.values[other].detach(), truth[layer.owned(other)])


def test_a_layer_computes_what_its_dense_form_does(layer_and_input, draw):
    layer, x = layer_and_input
    for slot in range(3):
        layer.claim(slot, draw(layer, 0.3))
    slots = torch.tensor([0, 2, 1, 1, 2])
    y = layer(x, slots)
    for slot in range(3):
        torch.testing.assert_close(y[slots == slot], layer.to_dense(slot)(x[slots == slot]), rtol=1e-4, atol=1e-5)


def test_starting_values(layer_and_input, draw):
    layer, _ = layer_and_input
    mask = draw(layer, 0.2)
    layer.claim(0, mask, gain=2.0)
    base = layer.base.at(layer.owned(0), torch.float64)
    assert torch.equal(layer.values[0].detach(), (base * 2).float())
    other = draw(layer, 0.2)
    values = torch.randn(layer.weight_shape)
    layer.claim(1, other, values=values)
    assert torch.equal(layer.values[1].detach(), values.flatten()[layer.owned(1)])
    extra = draw(layer, 0.1)
    layer.claim(1, extra)  # besides what it owns
    assert torch.equal(layer.mask(1), other | extra)
    assert torch.equal(layer.to_dense(1).weight[other], values[other])


def test_refused_claims_change_nothing(layer_and_input, draw):
    layer, _ = layer_and_input
    mine = draw(layer, 0.4)
    layer.claim(0, mine)
    layer.claim(2, draw(layer, 0.1))
    layer.freeze(2)
    free = layer.free()
    overlap = free.clone()
    overlap |= mine & (torch.rand(layer.weight_shape) < 0.5)
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    nothing = torch.zeros(layer.weight_shape, dtype=torch.bool)
    for call, error, message in (
        (
            lambda: layer.claim(1, mine),
            CapacityError,
            f"{int(mine.sum())} of its {int(mine.sum())} are taken by slot 0",
        ),
        (lambda: layer.claim(1, overlap), CapacityError, f"{int(free.sum())} of {layer.numel} are free"),
        (lambda: layer.claim(1, free.float()), ValueError, "mask must be bool .* got torch.float32"),
        (lambda: layer.claim(1, free.flatten()), ValueError, "mask must be bool"),
        (lambda: layer.claim(1, free.tolist()), TypeError, "mask must be a bool tensor .* got list"),
        (lambda: layer.claim(1, None), TypeError, "mask must be a bool tensor .* got NoneType"),
        (lambda: layer.claim(3, free), IndexError, r"slot must be in 0\.\.2, got 3"),
        (lambda: TaskLinear(2, 2, num_slots=0).claim(0, free), IndexError, "which has none .* got 0"),
        (lambda: layer.claim("a", free), KeyError, "unknown slot 'a'; there are 0..2"),
        (lambda: layer.claim(True, free), TypeError, r"slot must be an int or a name .*, got bool"),
        (lambda: layer.claim(2, free), ValueError, "slot 2 is frozen; thaw it first"),
        (lambda: layer.claim(1, free, values=torch.zeros(3)), ValueError, "values must be float"),
        (
            lambda: layer.claim(1, free, values=torch.full(layer.weight_shape, torch.nan)),
            ValueError,
            "values must be finite",
        ),
        (lambda: layer.claim(1, free, gain=float("inf")), ValueError, "values must be finite"),
        (lambda: layer.release(1, mine), ValueError, "mask must name weights of slot 1"),
        (lambda: layer.release(2), ValueError, "slot 2 is frozen"),
        (lambda: layer.release(0, nothing.int()), ValueError, "mask must be bool"),
        (lambda: layer.add_slot("a"), ValueError, "the slots have no names, got 'a'"),
    ):
        with pytest.raises(error, match=message):
            call()
        assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())
    layer.claim(1, nothing)  # nothing is not too much
    check_invariants(layer)


def test_claims_around_a_backward_pass(layer_and_input, draw):
    layer, x = layer_and_input
    layer.claim(0, draw(layer, 0.3))
    y = layer(x.requires_grad_(), 0)
    layer.claim(1, draw(layer, 0.3))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
    for call in (lambda: layer.claim(2, layer.free()), lambda: layer.release(1)):
        y = layer(x, 0)
        y.register_hook(lambda gradient, call=call: call())
        with pytest.raises(RuntimeError, match="cannot change owners while a backward pass is running"):
            y.sum().backward()
    layer(x, 0).sum().backward()
    assert layer.values[2].numel() == 0


def test_absent_slots_get_zeros_and_frozen_ones_nothing(layer_and_input, draw):
    layer, x = layer_and_input
    for slot in range(3):
        layer.claim(slot, draw(layer, 0.2))
    layer.freeze(2)
    layer(x, torch.tensor([1, 2, 1, 2, 1])).sum().backward()
    for absent, trained in zip(layer.parameters_of(0), layer.parameters_of(1), strict=True):
        assert torch.equal(absent.grad, torch.zeros_like(absent)) and trained.grad.abs().sum() > 0
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in layer.parameters_of(2))
    assert layer.is_frozen(2)
    layer.thaw(2)
    layer(x, 2).sum().backward()
    assert layer.values[2].grad.abs().sum() > 0


def test_reading_earlier_slots(layer_and_input, draw, same_rows):
    layer, x = layer_and_input
    for slot in range(3):
        layer.claim(slot, draw(layer, 0.2))
    with pytest.raises(ValueError, match="slot 0 must be another, frozen slot to be read"):
        layer.read(1, [0])
    layer.freeze(0)
    with pytest.raises(ValueError, match="slot 1 must be another, frozen slot"):
        layer.read(1, [0, 1])
    before, expected = layer(x, 0), layer.to_dense(1)
    layer.read(1, [0])
    layer.read(2, [0, 0])
    assert [layer.reads(slot) for slot in range(3)] == [(), (0,), (0,)]
    with torch.no_grad():
        expected.weight += layer.to_dense(0).weight
    assert torch.equal(layer.to_dense(1).weight, expected.weight)
    y = layer(x, 1)
    torch.testing.assert_close(y, expected(x), rtol=1e-4, atol=1e-5)
    assert torch.equal(layer(x, 0), before)
    y.square().sum().backward()
    assert layer.values[0].grad is None and layer.values[1].grad.abs().sum() > 0
    slots = torch.tensor([0, 1, 2, 1, 0])
    mixed = layer(x, slots)
    for slot in range(3):
        same_rows(mixed[slots == slot], layer(x[slots == slot], slot))
    with pytest.raises(ValueError, match="slot 0 is read by slot 1, 2, so that it must stay frozen"):
        layer.thaw(0)
    layer.freeze(1)
    with pytest.raises(ValueError, match="slot 1 is frozen, so that what it reads cannot change"):
        layer.read(1, [])
    y = layer(x, 1)

    # Nothing of it is lost on the way.
    assert layer.add_slot() == 3
    layer.claim(3, draw(layer, 0.1))
    fresh = one_like(layer)
    fresh.load_state_dict(layer.state_dict())
    for same in (layer, copy.deepcopy(layer), fresh):
        assert torch.equal(same(x, 1), y)
        with pytest.raises(ValueError, match="must stay frozen"):
            same.thaw(0)
    torch.testing.assert_close(copy.deepcopy(layer).double()(x.double(), 1), y.double(), rtol=1e-4, atol=1e-5)
    layer.read(2, [])
    layer.thaw(1)
    layer.read(1, [])
    layer.thaw(0)
    assert layer.frozen_values is None


def one_like(layer: TaskLayer) -> TaskLayer:
    """One of the same shape without anything in it."""
    if isinstance(layer, TaskLinear):
        return TaskLinear(layer.in_features, layer.out_features, num_slots=1)
    return TaskConv2d(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,
        padding=layer.padding,
        groups=layer.groups,
        num_slots=1,
    )


def test_names_and_added_slots(draw):
    layer = TaskLinear(6, 5, num_slots=["a", "b"])
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    layer.claim("b", draw(layer, 0.3))
    x = torch.randn(2, 6)
    assert torch.equal(layer(x, "b"), layer(x, 1))
    first = layer.values[1]
    assert layer.add_slot("c") == 2 and layer.values[1] is first
    with pytest.raises(ValueError, match="there is a slot 'c' already"):
        layer.add_slot("c")
    with pytest.raises(ValueError, match="the slots have names, got None"):
        layer.add_slot()
    with pytest.raises(KeyError, match=r"unknown slot 'z'; there are \['a', 'b', 'c'\]"):
        layer(x, "z")
    layer.claim("c", draw(layer, 0.3))
    layer(x, "b").sum().backward()
    before = layer.values[1].detach().clone()
    optimizer.step()
    assert not torch.equal(layer.values[1], before)
    check_invariants(layer)


def test_a_slot_map_turns_active_tasks_into_slots(draw):
    layer = TaskLinear(6, 5, num_slots=2)
    layer.claim(0, draw(layer, 0.3))
    layer.claim(1, draw(layer, 0.3))
    layer.slot_map = torch.tensor([1, 0, 1])
    x = torch.randn(3, 6)
    with active(2):
        assert torch.equal(layer(x), layer(x, 1))
    with active(torch.tensor([0, 1, 2])):
        assert torch.equal(layer(x), layer(x, torch.tensor([1, 0, 1])))


@pytest.mark.cpu_only(reason="a GPU is not waited for to look at numbers")
@pytest.mark.parametrize(("wrong", "got"), [(torch.tensor([0, 1, 3]), 3), (torch.tensor(-1), -1)], ids=["mixed", "one"])
def test_active_tasks_that_a_slot_map_lacks(wrong, got):
    layer = TaskLinear(6, 5, num_slots=2)
    layer.slot_map = torch.tensor([1, 0, 1])
    with active(wrong), pytest.raises(IndexError, match=rf"active tasks must be in 0\.\.2, got {got}"):
        layer(torch.randn(3, 6))


@pytest.mark.parametrize("mixed", [False, True])
def test_a_probe_stands_in_for_every_slot(layer_and_input, draw, mixed):
    layer, x = layer_and_input
    layer.claim(0, draw(layer, 0.5))
    layer.claim(1, draw(layer, 0.5))
    slots = torch.tensor([0, 1, 2, 1, 0]) if mixed else torch.tensor(1)
    probe = (layer.to_dense(0).weight + layer.to_dense(1).weight).detach().requires_grad_()
    layer.probe = probe
    y = layer(x, slots)
    for slot in range(3):
        dense = layer.to_dense(slot)
        with torch.no_grad():
            dense.weight.copy_(probe)
        rows = (slots == slot).expand(5)
        torch.testing.assert_close(y[rows], dense(x[rows]), rtol=1e-4, atol=1e-5)
    y.square().sum().backward()
    assert probe.grad.shape == layer.weight_shape and all(parameter.grad is None for parameter in layer.parameters())
    for wrong, error in ((torch.tensor(3), IndexError), (torch.tensor([0, 1]), ValueError), (slots.int(), ValueError)):
        with pytest.raises(error, match="slots must"):
            layer(x, wrong)
    layer.probe = None
    assert layer(x, 1).grad_fn is not None


def test_a_parameter_that_was_given_other_memory_is_noticed(layer_and_input, draw):
    layer, x = layer_and_input
    layer.claim(0, draw(layer, 0.3))
    vector = torch.nn.utils.parameters_to_vector(layer.parameters())
    torch.nn.utils.vector_to_parameters(vector.detach() * 2, layer.parameters())
    for enabled in (True, False):
        with (
            torch.set_grad_enabled(enabled),
            pytest.raises(RuntimeError, match="slot 0 does not view the layer's memory"),
        ):
            layer(x, 0)
