"""The references against the layers of PyTorch with masked dense weights, row by row and by autograd."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from rsn2_kernels import reference
from rsn2_kernels.formats import empty_positions, unpack
from rsn2_kernels.testing import CONV_SHAPES, LINEAR_SHAPES

# In float64, so that only rounding, not the order of sums, can hide a mistake.
linear_shapes = pytest.mark.parametrize("shape", LINEAR_SHAPES)
conv_shapes = pytest.mark.parametrize("shape", CONV_SHAPES)


def dense_weights(problem) -> torch.Tensor:
    """What every slot reads, ``[T, O, K]``."""
    stores = [problem.weight] if problem.frozen is None else [problem.weight, problem.frozen]
    return sum(
        torch.stack([unpack(store.values, store.positions, slot) for slot in range(store.shape[0])]) for store in stores
    )


def masks_of(problem) -> torch.Tensor:
    """Where the slots own weights, ``[T, O, K]``."""
    ones = torch.ones_like(problem.weight.values)
    return torch.stack([unpack(ones, problem.weight.positions, slot) for slot in range(problem.weight.shape[0])]) > 0


def layer(problem, x, weight, bias):
    """One row at a time through the layer that its slot's dense weight makes."""
    rows = []
    slots = problem.slots.expand(len(x)).tolist()
    for row, slot in zip(x, slots, strict=True):
        own = None if bias is None else bias[slot]
        if problem.window:
            kernel_size, stride, (top, bottom, left, right), dilation = problem.window
            kernel = torch.zeros(problem.weight.shape[1], len(row), *kernel_size, dtype=x.dtype)
            for p in range(kernel_size[0]):
                for q in range(kernel_size[1]):
                    first = (p * kernel_size[1] + q) * len(row)
                    kernel[:, :, p, q] = weight[slot][:, first : first + len(row)]
            padded = F.pad(row[None], (left, right, top, bottom))
            rows.append(F.conv2d(padded, kernel, own, stride, 0, dilation)[0])
        else:
            rows.append(F.linear(row, weight[slot], own))
    y = torch.stack(rows) if rows else problem.grad_y.new_zeros(problem.grad_y.shape) + 0 * x.sum() + 0 * weight.sum()
    return y.relu() if problem.activation == "relu" else y


def check_forward(problem):
    ours = problem.forward(reference)
    theirs = layer(problem, problem.x, dense_weights(problem), problem.bias)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def check_gradients(problem):
    x, weight = problem.x.clone().requires_grad_(), dense_weights(problem).requires_grad_()
    bias = problem.bias.clone().requires_grad_()
    y = layer(problem, x, weight, bias)
    grad_x, grad_weight, grad_bias = torch.autograd.grad(y, (x, weight, bias), problem.grad_y, materialize_grads=True)
    torch.testing.assert_close(problem.grad_input(reference), grad_x, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(problem.grad_bias(reference), grad_bias, rtol=1e-12, atol=1e-12)
    ours = problem.grad_values(reference).split(problem.num_owned)
    for slot, mask in enumerate(masks_of(problem)):
        dense = unpack(problem.grad_values(reference), problem.weight.positions, slot)
        torch.testing.assert_close(dense, grad_weight[slot] * mask, rtol=1e-12, atol=1e-12)
        assert len(ours[slot]) == mask.sum()


@linear_shapes
@pytest.mark.parametrize("activation", ["none", "relu"])
def test_linear_forward(make_linear, make_frozen, shape, activation):
    problem = replace(make_linear(shape, dtype=torch.float64), activation=activation)
    check_forward(problem)
    check_forward(replace(problem, bias=None))
    check_forward(replace(problem, slots=torch.tensor(0)))
    check_forward(replace(problem, frozen=make_frozen(problem)))


@linear_shapes
def test_linear_gradients(make_linear, make_frozen, shape):
    problem = make_linear(shape, dtype=torch.float64)
    check_gradients(problem)
    check_gradients(replace(problem, slots=torch.tensor(0)))
    check_gradients(replace(problem, frozen=make_frozen(problem)))


@conv_shapes
@pytest.mark.parametrize("activation", ["none", "relu"])
def test_conv2d_forward(make_conv, make_frozen, shape, activation):
    problem = replace(make_conv(shape, dtype=torch.float64), activation=activation)
    check_forward(problem)
    check_forward(replace(problem, bias=None))
    check_forward(replace(problem, slots=torch.tensor(0)))
    check_forward(replace(problem, frozen=make_frozen(problem)))


@conv_shapes
def test_conv2d_gradients(make_conv, make_frozen, shape):
    problem = make_conv(shape, dtype=torch.float64)
    check_gradients(problem)
    check_gradients(replace(problem, slots=torch.tensor(0)))
    check_gradients(replace(problem, frozen=make_frozen(problem)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("value_dtype", [None, torch.float32], ids=["same", "float32_values"])
def test_16_bit_sums_are_float32(make_problem, dtype, value_dtype):
    problem = make_problem(9, 3, dtype=dtype, value_dtype=value_dtype)
    wide = replace(problem, x=problem.x.float(), grad_y=problem.grad_y.float(), bias=problem.bias.float())
    wide = wide.with_values(problem.weight.values.float())
    for result, out in (("forward", dtype), ("grad_input", dtype), ("grad_values", value_dtype or dtype)):
        ours = problem.get(result, reference)
        assert ours.dtype == out
        assert torch.equal(ours, wide.get(result, reference).to(out))
    assert problem.grad_bias(reference).dtype == torch.float32
    assert torch.equal(problem.grad_bias(reference), wide.grad_bias(reference))


def test_index_is_empty():
    positions = empty_positions(2, 3, 9)
    for index in (reference.task_linear_index(positions), reference.task_conv2d_index(positions, [3, 3])):
        assert index.dtype == torch.int32 and index.shape == (0,)
