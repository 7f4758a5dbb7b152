"""The measure of accuracy accepts what is right and nothing else."""

from __future__ import annotations

import pytest
import torch

from rsn2_kernels.formats import validate
from rsn2_kernels.testing import (
    CONV_SHAPES,
    LINEAR_SHAPES,
    assert_as_accurate,
    conv_sample,
    linear_sample,
    random_masks,
)

EXACT = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
PLAIN = EXACT.float() + torch.tensor([0, 1e-5, -2e-5])


def test_accepts_what_is_as_close_as_plain():
    assert_as_accurate(EXACT.float(), PLAIN, EXACT)
    assert_as_accurate(EXACT.float() + 3.9e-5, PLAIN, EXACT)
    assert_as_accurate(EXACT.float() + 5e-5, PLAIN, EXACT, factor=3)


def test_accepts_one_rounding_where_plain_is_exact():
    rounding = 2 * torch.finfo(torch.float32).eps
    assert_as_accurate(EXACT.float() + rounding, EXACT.float(), EXACT)
    with pytest.raises(AssertionError, match="exceeds 2.0 x plain PyTorch's"):
        assert_as_accurate(EXACT.float() + 3 * rounding, EXACT.float(), EXACT)


@pytest.mark.parametrize("wrong", [4.2e-5, 1.0, torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_refuses_one_wrong_element(wrong, place):
    ours = EXACT.float()
    ours[place] += wrong
    with pytest.raises(AssertionError, match="error .* exceeds"):
        assert_as_accurate(ours, PLAIN, EXACT)


def test_refuses_another_shape_or_dtype():
    with pytest.raises(AssertionError, match=r"want torch.float32 \[3\], got torch.float64 \[3\]"):
        assert_as_accurate(EXACT, PLAIN, EXACT)
    with pytest.raises(AssertionError, match=r"want torch.float32 \[3\], got torch.float32 \[1, 3\]"):
        assert_as_accurate(PLAIN[None], PLAIN, EXACT)


def test_empty_results():
    empty = torch.zeros(0, 3)
    assert_as_accurate(empty, empty, empty.double())
    with pytest.raises(AssertionError, match="want"):
        assert_as_accurate(empty.t(), empty, empty.double())


@pytest.mark.parametrize("density", [0.01, 0.1, 0.25])
def test_random_masks_are_disjoint_and_as_dense_as_asked(density):
    masks = random_masks(4, 200, 500, density, torch.Generator().manual_seed(0))
    assert masks.shape == (4, 200, 500) and masks.dtype == torch.bool
    assert masks.sum(0).max() == 1
    for mask in masks:
        assert mask.double().mean().item() == pytest.approx(density, rel=0.1)


@pytest.mark.parametrize("shape", LINEAR_SHAPES.values(), ids=LINEAR_SHAPES)
def test_linear_sample(shape):
    batch, num_inputs, num_outputs, num_slots = shape
    sample = linear_sample(*shape, dtype=torch.bfloat16, value_dtype=torch.float32)
    assert sample.x.shape == (batch, num_inputs) and sample.x.dtype == torch.bfloat16
    assert sample.weight.shape == (num_slots, num_outputs, num_inputs)
    assert sample.weight.values.dtype == sample.bias.dtype == torch.float32
    assert sample.slots.shape == (batch,) and sample.slots.dtype == torch.int64
    assert sample.bias.shape == (num_slots, num_outputs)
    validate(sample.weight.values, sample.weight.positions)
    again = linear_sample(*shape, dtype=torch.bfloat16, value_dtype=torch.float32)
    assert torch.equal(sample.x, again.x) and torch.equal(sample.weight.values, again.weight.values)


@pytest.mark.parametrize("shape", CONV_SHAPES.values(), ids=CONV_SHAPES)
def test_conv_sample(shape):
    batch, channels, num_outputs, num_slots, size, kernel_size, *_ = shape
    sample = conv_sample(batch, channels, num_outputs, num_slots, size, kernel_size)
    assert sample.x.shape == (batch, channels, *size)
    assert sample.weight.shape == (num_slots, num_outputs, channels * kernel_size[0] * kernel_size[1])
    validate(sample.weight.values, sample.weight.positions)


def test_one_row_per_slot_is_one():
    sample = linear_sample(*LINEAR_SHAPES["one_row_per_slot"])
    assert sorted(sample.slots.tolist()) == list(range(7))
