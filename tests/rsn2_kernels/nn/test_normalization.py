from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from rsn2_kernels.nn import TaskBatchNorm2d, TaskGroupNorm, TaskLayerNorm

CASES = {  # dense layer, task layer, shape of the input
    "layer_norm": (nn.LayerNorm(6), TaskLayerNorm, (8, 3, 6)),
    "layer_norm_of_rows": (nn.LayerNorm(7), TaskLayerNorm, (8, 7)),
    "layer_norm_of_images": (nn.LayerNorm((3, 4, 5), eps=1e-3), TaskLayerNorm, (8, 3, 4, 5)),
    "layer_norm_without_bias": (nn.LayerNorm(6, bias=False), TaskLayerNorm, (8, 3, 6)),
    "layer_norm_of_nothing": (nn.LayerNorm(6, elementwise_affine=False), TaskLayerNorm, (8, 3, 6)),
    "group_norm": (nn.GroupNorm(3, 6), TaskGroupNorm, (8, 6, 4, 5)),
    "group_norm_of_rows": (nn.GroupNorm(2, 6), TaskGroupNorm, (8, 6)),
    "instance_norm_like": (nn.GroupNorm(6, 6), TaskGroupNorm, (8, 6, 9)),
    "group_norm_of_nothing": (nn.GroupNorm(3, 6, affine=False), TaskGroupNorm, (8, 6, 4)),
}
SLOTS = torch.tensor([1, 0, 2, 0, 1, 1, 2, 2])


@pytest.fixture(params=CASES.values(), ids=CASES)
def case(request):
    dense, task_class, shape = copy.deepcopy(request.param)
    for parameter in dense.parameters():
        nn.init.normal_(parameter)
    layer = task_class.from_dense(dense, num_slots=3)
    for parameter in layer.parameters_of(1):
        nn.init.normal_(parameter)
    return dense, layer, torch.randn(shape)


def test_one_slot_is_the_dense_layer(case):
    dense, layer, x = case
    x, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, expected = layer(x, 2), dense(other)
    assert torch.equal(y, expected)
    y.square().sum().backward(), expected.square().sum().backward()
    assert torch.equal(x.grad, other.grad)
    for name, parameter in dense.named_parameters():
        assert torch.equal(getattr(layer, name)[2].grad, parameter.grad)
        assert torch.equal(getattr(layer, name)[1].grad, torch.zeros_like(parameter))
    after = layer.to_dense(2)
    assert type(after) is type(dense) and torch.equal(after(x), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mixed_batch_is_the_slots_one_by_one(case, dtype, same_rows):
    _, layer, x = case
    layer = layer.to(dtype)
    layer.freeze(2)
    alone = copy.deepcopy(layer)
    x = x.to(dtype).requires_grad_()
    other = x.detach().clone().requires_grad_()
    y = layer(x, SLOTS)
    y.square().sum().backward()
    for slot in range(3):
        part = alone(other[slot == SLOTS], slot)
        same_rows(y[slot == SLOTS], part)
        part.square().sum().backward()
    torch.testing.assert_close(x.grad, other.grad, rtol=1e-4, atol=1e-5)
    for parameter, twin in zip(layer.parameters(), alone.parameters(), strict=True):
        assert (parameter.grad is None) == (twin.grad is None)
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, twin.grad, rtol=1e-4, atol=1e-5)


def test_gradients_are_right(case):
    _, layer, x = case
    layer, x = layer.double(), x.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: layer(x, SLOTS), (x,))
    trained = list(layer.parameters())
    if trained:
        y = layer(x, SLOTS)
        direction = [torch.randn_like(parameter) for parameter in trained]
        slope = sum(
            (g * d).sum() for g, d in zip(torch.autograd.grad(y.square().sum(), trained), direction, strict=True)
        )
        with torch.no_grad():
            sides = []
            for step in (1e-6, -2e-6):
                for parameter, d in zip(trained, direction, strict=True):
                    parameter.add_(d, alpha=step)
                sides.append(layer(x, SLOTS).square().sum())
        assert slope.item() == pytest.approx((sides[0] - sides[1]).item() / 2e-6, rel=1e-5)


def test_empty_batches(case):
    _, layer, x = case
    y = layer(x[:0], torch.zeros(0, dtype=torch.int64))
    assert y.shape == x[:0].shape


def test_parameters_stay_views_and_the_same_objects(case):
    _, layer, x = case
    parameters = list(layer.parameters())
    layer.double().float()
    layer.add_slot()
    layer.load_state_dict(copy.deepcopy(layer).state_dict())
    assert all(
        now is then
        for now, then in zip(layer.parameters_of(1), [p for p in parameters if p is not None][1::3], strict=True)
    )
    for duplicate in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        before = duplicate(x, 1)
        with torch.no_grad():
            for parameter in duplicate.parameters_of(1):
                parameter.mul_(2)
        if parameters:
            torch.testing.assert_close(duplicate(x, 1), 2 * before)
            assert not torch.equal(duplicate(x, SLOTS)[SLOTS == 1], before[SLOTS == 1])


def test_state_dict_holds_one_tensor_of_every_kind():
    layer = TaskBatchNorm2d(3, num_slots=2)
    layer.freeze(1)
    state = layer.state_dict()
    assert {name: list(tensor.shape) for name, tensor in state.items()} == {
        "weight": [2, 3], "bias": [2, 3], "running_mean": [2, 3], "running_var": [2, 3], "num_batches_tracked": [2],
        "base_weight": [3], "base_bias": [3], "base_running_mean": [3], "base_running_var": [3],
        "base_num_batches_tracked": [], "frozen": [2],
    }  # fmt: skip


@pytest.mark.parametrize("before", [1, 2, 4])
def test_state_dict_into_other_numbers_of_slots(before):
    layer = TaskBatchNorm2d(3, num_slots=2)
    layer(torch.randn(4, 3, 2, 2), 0)
    layer.freeze(0)
    layer.slot_map = torch.tensor([1, 0])
    other = TaskBatchNorm2d(3, num_slots=before)
    for slot in range(before):
        other.freeze(slot)
    optimizer_sees = other.weight[0]
    other.load_state_dict(layer.state_dict())
    assert other.num_slots == 2 and other.weight[0] is optimizer_sees
    assert [other.is_frozen(slot) for slot in range(2)] == [True, False]
    x = torch.randn(4, 3, 2, 2)
    for slot in range(2):
        assert torch.equal(other.eval()(x, slot), layer.eval()(x, slot))
    assert other.slot_map.tolist() == [1, 0]
    assert not other.is_frozen(other.add_slot())


def test_loading_what_does_not_fit_changes_nothing():
    layer, names = TaskLayerNorm(4, num_slots=2), TaskLayerNorm(4, num_slots=["a", "b"])
    good = TaskLayerNorm(4, num_slots=3).state_dict()
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    bad = {
        "weight must be \\[3, 4\\], got \\[3, 5\\]": {**good, "weight": torch.zeros(3, 5)},
        "frozen must be bool": {**good, "frozen": torch.zeros(3)},
        "slot_map must be int64": {**good, "slot_map": torch.zeros(2)},
        'Missing key.*"bias"': {name: tensor for name, tensor in good.items() if name != "bias"},
        'Unexpected key.*"more"': {**before, "more": torch.zeros(1)},
    }
    for message, state in bad.items():
        with pytest.raises(RuntimeError, match=message):
            layer.load_state_dict(state)
        assert layer.num_slots == 2
        assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())
    with pytest.raises(RuntimeError, match=r"has slots \['a', 'b'\], the state 3 slots"):
        names.load_state_dict(good)


def test_assigning_takes_the_dtype_of_the_state():
    layer = TaskLayerNorm(4, num_slots=2)
    state = TaskLayerNorm(4, num_slots=3, dtype=torch.float64).state_dict()
    layer.load_state_dict(state, assign=True)
    assert layer.weight[2].dtype == torch.float64 and layer(torch.randn(2, 4).double(), 2).dtype == torch.float64


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TaskLayerNorm(4, num_slots=2)(torch.zeros(2, 5), 0),
         r"TaskLayerNorm: x must have shape .*4.*, got \[2, 5\]"),
        (lambda: TaskLayerNorm(4, num_slots=2)(torch.zeros(4), torch.tensor([0, 1, 0, 1])),
         "must have a batch dimension"),
        (lambda: TaskLayerNorm(4, num_slots=2)(torch.zeros(2, 4, dtype=torch.int32), 0),
         "must be a float tensor, got torch.int32"),
        (lambda: TaskLayerNorm(4, num_slots=2)(torch.zeros(2, 4), torch.tensor([True, False])), "slots must be int64"),
        (lambda: TaskLayerNorm(4, num_slots=-1), "num_slots must be a number >= 0 or different names, got -1"),
        (lambda: TaskLayerNorm(4, num_slots=["a", "a"]), "num_slots must be a number >= 0 or different names"),
        (lambda: TaskGroupNorm(4, 6, num_slots=1), "num_groups must divide num_channels 6, got 4"),
        (lambda: TaskGroupNorm(3, 6, num_slots=1)(torch.zeros(2, 5), 0),
         r"x must have shape \[B, 6, \.\.\.\], got \[2, 5\]"),
        (lambda: TaskGroupNorm(3, 6, num_slots=1)(torch.zeros(2, 6), torch.tensor([[0], [0]])),
         r"slots must have shape"),
    ],
)  # fmt: skip
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
