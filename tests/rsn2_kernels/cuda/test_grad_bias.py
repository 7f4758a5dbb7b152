"""task_grad_bias on the emulator: images of any layout; matrices are in test_task_linear_grad.py too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rsn2_kernels import reference
from rsn2_kernels.testing import DTYPES, assert_as_accurate

SIZES = {  # B, O, H, W
    "smallest": (1, 1, 1, 1),
    "divides_nothing": (37, 33, 3, 5),
    "more_pixels_than_lanes": (9, 5, 11, 13),
    "many_rows": (700, 3, 1, 2),
    "many_columns": (5, 300, 1, 1),
    "no_pixels": (4, 3, 0, 5),
    "no_rows": (0, 3, 2, 2),
    "no_columns": (4, 0, 2, 2),
}
LAYOUTS = ("contiguous", "channels_last", "rows_last", "cut_out", "repeated")


def laid_out(tensor: Tensor, layout: str) -> Tensor:
    if layout == "contiguous":
        return tensor.contiguous()
    if layout == "channels_last":
        return tensor.to(memory_format=torch.channels_last)
    if layout == "rows_last":
        return tensor.permute(1, 3, 2, 0).contiguous().permute(3, 0, 2, 1)
    if layout == "repeated":
        return tensor[:1, :, :1].expand(tensor.shape) if len(tensor) and tensor.shape[2] else tensor
    size = [count + more for count, more in zip(tensor.shape, (1, 2, 1, 2), strict=True)]
    wide = torch.full(size, torch.nan, dtype=tensor.dtype)
    wide[1:, 1:-1, :-1, 1:-1] = tensor
    return wide[1:, 1:-1, :-1, 1:-1]


def check(emulated: Any, grad_y: Tensor, slots: Tensor, wanted: list[int]) -> None:
    """As accurate as plain PyTorch; in float64, where sums of short numbers are exact, the exact sum."""
    ours = emulated.task_grad_bias(grad_y, slots, wanted)
    plain = reference.task_grad_bias(grad_y, slots, wanted)
    if grad_y.dtype == torch.float64:
        assert torch.equal(ours, plain)
    else:
        assert_as_accurate(ours, plain, reference.task_grad_bias(grad_y.double(), slots, wanted))


def sample(size: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """grad_y of numbers of 16 bits after the point, and slots of which some are out of range."""
    generator = torch.Generator().manual_seed(3)
    grad_y = ((torch.randn(size, generator=generator) * 2**16).round() / 2**16).to(dtype)
    return grad_y, torch.randint(-1, 5, size[:1], generator=generator)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_matches_reference(emulated, size, layout, dtype):
    grad_y, slots = sample(size, dtype)
    grad_y = laid_out(grad_y, layout)
    check(emulated, grad_y, slots, [0, 1, 2, 3])
    check(emulated, grad_y, torch.tensor(2), [2, 0])


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_same_bits_in_every_order_of_threads(emulated, layout):
    grad_y, slots = sample((300, 5, 7, 6), torch.float32)
    grad_y = laid_out(grad_y, layout)
    results = []
    for order in (0, 1, 2, 3):
        emulated.set_order(order)
        results.append(emulated.task_grad_bias(grad_y, slots, [1, 3]))
    emulated.set_order(0)
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.parametrize("size", [(20000, 1), (3, 1, 300, 700)], ids=["rows", "pixels"])
def test_the_error_of_a_sum_does_not_grow_with_its_length(emulated, size):
    """Equal numbers, whose roundings all go one way: in one chain of additions a warp's sum is off by 100 and more."""
    grad_y = torch.full(size, 0.7)
    exact = reference.task_grad_bias(grad_y.double(), torch.tensor(0), [0])
    ours = emulated.task_grad_bias(grad_y, torch.tensor(0), [0])
    assert ((ours - exact).abs() / exact).max() < 16 * torch.finfo(torch.float32).eps


def test_more_slots_than_a_launch_takes(emulated):
    grad_y, slots = sample((200, 40, 1, 1), torch.float64)
    check(emulated, grad_y.flatten(1), slots * 17, list(reversed(range(131))))


@pytest.mark.parametrize("wanted", [[], [1]])
def test_other_rows_change_nothing(emulated, wanted):
    grad_y, slots = sample((40, 6, 3, 4), torch.float32)
    other = grad_y.clone()
    other[slots != 1] = torch.nan
    result = emulated.task_grad_bias(grad_y, slots, wanted)
    assert result.shape == (len(wanted), 6)
    assert torch.equal(emulated.task_grad_bias(other, slots, wanted), result)


def test_shapes_and_dtypes_refused(emulated):
    with pytest.raises(ValueError, match=r"grad_y must have shape \[B, O\] or \[B, O, H, W\], got 3 dimensions"):
        emulated.task_grad_bias(torch.zeros(2, 3, 4), torch.tensor(0), [0])
    with pytest.raises(ValueError, match="slots must have shape"):
        emulated.task_grad_bias(torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64), [0])
    with pytest.raises(ValueError, match="slots must be int64"):
        emulated.task_grad_bias(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int32), [0])
    with pytest.raises(ValueError, match="grad_y must be float32"):
        emulated.task_grad_bias(torch.zeros(2, 3, dtype=torch.int32), torch.tensor(0), [0])
