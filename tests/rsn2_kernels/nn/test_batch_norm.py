from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from rsn2_kernels.nn import TaskBatchNorm1d, TaskBatchNorm2d
from rsn2_kernels.testing import assert_as_accurate

CASES = {  # dense layer, task layer, shape of the input
    "images": (nn.BatchNorm2d(6), TaskBatchNorm2d, (12, 6, 4, 3)),
    "rows": (nn.BatchNorm1d(5), TaskBatchNorm1d, (12, 5)),
    "sequences": (nn.BatchNorm1d(5, eps=1e-3), TaskBatchNorm1d, (12, 5, 7)),
    "cumulative_average": (nn.BatchNorm2d(3, momentum=None), TaskBatchNorm2d, (12, 3, 2, 2)),
    "no_affine": (nn.BatchNorm1d(5, affine=False), TaskBatchNorm1d, (12, 5)),
    "no_running_statistics": (nn.BatchNorm2d(3, track_running_stats=False), TaskBatchNorm2d, (12, 3, 2, 2)),
    "nothing_of_its_own": (nn.BatchNorm1d(4, affine=False, track_running_stats=False), TaskBatchNorm1d, (12, 4)),
    "float64": (nn.BatchNorm2d(3, dtype=torch.float64), TaskBatchNorm2d, (12, 3, 2, 2)),
}
SLOTS = torch.tensor([1, 0, 2, 0, 1, 1, 2, 2, 0, 1, 1, 0])


@pytest.fixture(params=CASES.values(), ids=CASES)
def case(request):
    """A dense layer that has seen data, the task layer made from it, inputs."""
    dense, task_class, shape = request.param
    dense, dtype = copy.deepcopy(dense), dense.weight.dtype if dense.affine else torch.float32
    for parameter in dense.parameters():
        nn.init.normal_(parameter)
    dense.train()(torch.randn(shape).to(dtype) * 2 + 1)
    return dense, task_class.from_dense(dense, num_slots=3), torch.randn(shape).to(dtype)


@pytest.mark.parametrize("training", [True, False])
def test_one_slot_is_the_dense_layer(case, training, same_rows):
    dense, layer, x = case
    dense.train(training), layer.train(training)
    x, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, expected = layer(x, 2), dense(other)
    same_rows(y, expected)
    y.square().sum().backward(), expected.square().sum().backward()
    same_rows(x.grad, other.grad)
    for name, parameter in dense.named_parameters():
        same_rows(getattr(layer, name)[2].grad, parameter.grad)
        assert torch.equal(getattr(layer, name)[0].grad, torch.zeros_like(parameter))
    after = layer.to_dense(2)
    assert type(after) is type(dense)
    assert list(after.state_dict()) == list(dense.state_dict())
    for tensor, expected in zip(after.state_dict().values(), dense.state_dict().values(), strict=True):
        same_rows(tensor, expected)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("frozen", [None, 1])
def test_mixed_batch_is_the_slots_one_by_one(case, training, frozen, same_rows):
    _, layer, x = case
    layer.train(training)
    if frozen is not None:
        layer.freeze(frozen)
    alone, x, other = copy.deepcopy(layer), x.clone().requires_grad_(), x.clone().requires_grad_()
    y = layer(x, SLOTS)
    y.square().sum().backward()
    for slot in range(3):
        rows = SLOTS == slot
        part = alone(other[rows], slot)
        same_rows(y[rows], part)
        part.square().sum().backward()
    torch.testing.assert_close(x.grad, other.grad)
    for parameter, twin in zip(layer.parameters(), alone.parameters(), strict=True):
        assert (parameter.grad is None) == (twin.grad is None)
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, twin.grad)
    for name, tensor in layer.state_dict().items():
        same_rows(tensor, alone.state_dict()[name])


@pytest.mark.parametrize("frozen", [None, 1])
def test_without_looking_at_the_slots_the_results_are_the_same(case, frozen):
    """What is traced, or runs where Python must not wait for a device."""
    _, layer, x = case
    if frozen is not None:
        layer.freeze(frozen)
    for slots in (SLOTS, torch.tensor(1)):
        alone, exact = copy.deepcopy(layer), copy.deepcopy(layer).double()
        traced = copy.deepcopy(layer)
        plain = alone(x, slots)
        if slots.dim() == 0 and (frozen is None or layer.running_mean is None):
            y = traced._one_traced(x, slots)
        else:
            y = traced._with_segments(x, slots.expand(len(x)))
        assert_as_accurate(y, plain, exact(x.double(), slots), factor=4)  # the sums have another order
        for name, tensor in traced.state_dict().items():
            torch.testing.assert_close(tensor, alone.state_dict()[name], msg=name)
            if frozen is not None and name.startswith(("running", "num_batches")):
                assert torch.equal(tensor[frozen], layer.state_dict()[name][frozen])


def test_a_frozen_slot_keeps_its_statistics_in_train_mode(same_rows):
    layer = TaskBatchNorm2d(3, num_slots=2).train()
    x = torch.randn(8, 3, 2, 2) * 3 + 1
    layer(x, 0)
    layer.freeze(0)
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    y = layer(x, 0)
    same_rows(y, layer.eval()(x, 0))
    assert not torch.allclose(y, nn.BatchNorm2d(3)(x))  # not those of the batch
    layer.train()(x, torch.tensor([0, 1] * 4))
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(layer.state_dict()[name][0], before[name][0])
    assert not torch.equal(layer.running_mean[1], before["running_mean"][1])
    layer.thaw(0)
    layer(x, 0)
    assert not torch.equal(layer.running_mean[0], before["running_mean"][0])


def test_other_slots_are_not_read():
    layer = TaskBatchNorm2d(3, num_slots=3).train()
    poisoned = copy.deepcopy(layer)
    with torch.no_grad():
        for row in (*poisoned.parameters_of(1), poisoned.running_mean[1], poisoned.running_var[1]):
            row.fill_(torch.nan)
    x, slots = torch.randn(6, 3, 2, 2), torch.tensor([0, 2, 2, 0, 0, 2])
    for training in (True, False):
        assert torch.equal(layer.train(training)(x, slots), poisoned.train(training)(x, slots))
        assert torch.equal(layer(x, 2), poisoned(x, 2))


def test_slots_that_are_absent_and_batches_that_are_empty():
    layer = TaskBatchNorm1d(4, num_slots=3)
    layer(torch.randn(6, 4), torch.tensor([0, 0, 0, 2, 2, 2])).sum().backward()
    assert layer.num_batches_tracked.tolist() == [1, 0, 1]
    assert torch.equal(layer.weight[1].grad, torch.zeros(4))
    for training in (True, False):
        assert layer.train(training)(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)).shape == (0, 4)
    assert layer.num_batches_tracked.tolist() == [1, 0, 1]


@pytest.mark.cpu_only(reason="a GPU is not waited for to count the rows")
def test_one_value_of_a_slot_is_an_error_as_it_is_alone():
    layer = TaskBatchNorm1d(4, num_slots=2).train()
    before = layer.running_mean.clone()
    with pytest.raises(ValueError, match="more than one value per channel of each slot in training, got one of slot 1"):
        layer(torch.randn(3, 4), torch.tensor([0, 1, 0]))
    assert torch.equal(layer.running_mean, before) and layer.num_batches_tracked.tolist() == [0, 0]
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        layer(torch.randn(1, 4), 1)
    assert layer.num_batches_tracked.tolist() == [0, 0]


def test_a_new_slot_starts_as_the_dense_layer_did(case):
    dense, layer, x = case
    layer.train()(x, 0)
    assert layer.add_slot() == 3
    fresh = layer.to_dense(3)
    for name, tensor in dense.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], tensor)


@pytest.mark.parametrize(
    ("x", "slots", "error", "message"),
    [
        (
            torch.zeros(2, 4, 3, 3),
            0,
            ValueError,
            r"TaskBatchNorm2d: x must be float \[B, 3, \*, \*\], got .* \[2, 4, 3, 3\]",
        ),
        (torch.zeros(2, 3), 0, ValueError, r"x must be float \[B, 3, \*, \*\]"),
        (torch.zeros(2, 3, 1, 1, dtype=torch.int64), 0, ValueError, "x must be float .* got torch.int64"),
        (torch.zeros(2, 3, 1, 1), torch.tensor([0, 1, 0]), ValueError, r"slots must have shape \[\] or \[2\]"),
        (torch.zeros(2, 3, 1, 1), torch.tensor([0, 1], dtype=torch.int32), ValueError, "slots must be int64"),
        (torch.zeros(2, 3, 1, 1), 2, IndexError, r"slot must be in 0\.\.1, got 2"),
        (torch.zeros(2, 3, 1, 1), None, RuntimeError, "no slot given and none active"),
    ],
)
def test_bad_input(x, slots, error, message):
    layer = TaskBatchNorm2d(3, num_slots=2)
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    with pytest.raises(error, match=message):
        layer(x, slots)
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())


@pytest.mark.cpu_only(reason="a GPU is not waited for to look at numbers: they give NaN")
@pytest.mark.parametrize(("slots", "got"), [(torch.tensor([0, 2]), 2), (torch.tensor(-1), -1)], ids=["mixed", "one"])
def test_slot_out_of_range(slots, got):
    layer = TaskBatchNorm2d(3, num_slots=2)
    with pytest.raises(IndexError, match=rf"slots must be in 0\.\.1, got {got}"):
        layer(torch.zeros(2, 3, 1, 1), slots)
    assert layer.num_batches_tracked.tolist() == [0, 0]


def test_a_compiled_layer_sees_what_is_frozen_afterwards():
    layer = TaskBatchNorm1d(3, affine=False, num_slots=2).train()
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    x, mixed = torch.randn(6, 3), torch.tensor([0, 1, 0, 1, 0, 1])
    for slots in (mixed, torch.tensor(0)):
        compiled(x, slots)
    layer.freeze(0)
    before = layer.running_mean.clone()
    for slots in (mixed, torch.tensor(0)):
        y = compiled(x, slots)
    torch.testing.assert_close(y, copy.deepcopy(layer).eval()(x, 0))
    assert torch.equal(layer.running_mean[0], before[0]) and not torch.equal(layer.running_mean[1], before[1])
    assert layer.num_batches_tracked.tolist() == [2, 2]
    layer.thaw(0)
    compiled(x, mixed)
    assert not torch.equal(layer.running_mean[0], before[0])
