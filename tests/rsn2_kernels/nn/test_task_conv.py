from __future__ import annotations

import pytest
import torch
from torch import nn

from rsn2_kernels.nn import TaskConv1d, TaskConv2d
from rsn2_kernels.testing import assert_as_accurate

CASES = {  # dense layer, shape of the input
    "plain": (lambda: nn.Conv2d(3, 4, 3), (5, 3, 7, 6)),
    "strided_padded": (lambda: nn.Conv2d(3, 4, (3, 2), (2, 1), (1, 2)), (5, 3, 7, 6)),
    "dilated_same": (lambda: nn.Conv2d(3, 4, (4, 3), padding="same", dilation=2), (5, 3, 9, 8)),
    "valid": (lambda: nn.Conv2d(3, 4, 3, padding="valid", bias=False), (5, 3, 7, 6)),
    "groups": (lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2), (5, 4, 7, 6)),
    "depthwise": (lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4), (5, 4, 7, 6)),
    "reflect": (lambda: nn.Conv2d(3, 4, 3, padding=(1, 2), padding_mode="reflect"), (5, 3, 7, 6)),
    "circular": (lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), (5, 3, 7, 6)),
    "replicate_same": (lambda: nn.Conv2d(3, 4, (2, 3), padding="same", padding_mode="replicate"), (5, 3, 7, 6)),
    "one_dimension": (lambda: nn.Conv1d(3, 4, 3, 2, 1), (5, 3, 9)),
    "one_dimension_circular": (lambda: nn.Conv1d(4, 6, 3, padding=2, groups=2, padding_mode="circular"), (5, 4, 9)),
    "one_dimension_same": (lambda: nn.Conv1d(3, 4, 4, padding="same", dilation=2), (5, 3, 9)),
}


@pytest.fixture(params=CASES.values(), ids=CASES)
def case(request):
    make, shape = request.param
    dense = make()
    task_class = TaskConv1d if isinstance(dense, nn.Conv1d) else TaskConv2d
    return dense, task_class.from_dense(dense, num_slots=3), torch.randn(shape)


def test_a_slot_that_owns_everything_is_the_dense_layer(case):
    dense, layer, x = case
    layer.claim(1, layer.free())
    x, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, expected = layer(x, 1), dense(other)
    y.square().sum().backward(), expected.square().sum().backward()
    torch.testing.assert_close(x.grad, other.grad, rtol=1e-4, atol=1e-4)
    weight = layer.to_dense(1)
    assert type(weight) is type(dense) and torch.equal(weight.weight, dense.weight)
    gradient = torch.zeros(layer.numel)
    gradient[layer.owned(1)] = layer.values[1].grad
    torch.testing.assert_close(gradient.reshape(layer.weight_shape), dense.weight.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer(x[0], 1), y[0], rtol=1e-5, atol=1e-5)  # without a batch
    assert_as_accurate(y, expected, dense.double()(x.double()), factor=4)  # sums in another order


def test_mixed_batches_and_channels_last(case, draw):
    _, layer, x = case
    for slot in range(3):
        layer.claim(slot, draw(layer, 0.3))
    slots = torch.tensor([2, 0, 1, 1, 0])
    y = layer(x, slots)
    for slot in range(3):
        torch.testing.assert_close(y[slots == slot], layer.to_dense(slot)(x[slots == slot]), rtol=1e-4, atol=1e-5)
    if x.dim() == 4:
        last = layer(x.to(memory_format=torch.channels_last), slots)
        torch.testing.assert_close(last, y, rtol=1e-4, atol=1e-5)
        if layer.padding_mode == "zeros":
            assert last.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TaskConv2d(3, 4, 3, num_slots=1)(torch.zeros(2, 5, 7, 7), 0), "x must"),
        (lambda: TaskConv2d(3, 4, 3, num_slots=1)(torch.zeros(2, 7), 0),
         r"TaskConv2d: x must have 4 dimensions, got \[2, 7\]"),
        (lambda: TaskConv2d(3, 4, 3, num_slots=1)(torch.zeros(2, 3, 7, 7), torch.tensor([0])), "slots must have shape"),
        (lambda: TaskConv2d(3, 4, 3, padding_mode="mirror", num_slots=1),
         "padding_mode must be one of .* got 'mirror'"),
        (lambda: TaskConv2d(3, 4, 3, groups=2, num_slots=1),
         "groups must divide in_channels 3 and out_channels 4, got 2"),
        (lambda: TaskConv2d(3, 4, (3, 3, 3), num_slots=1),
         r"kernel_size must be a number or 2 numbers, got \(3, 3, 3\)"),
    ],
)  # fmt: skip
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
