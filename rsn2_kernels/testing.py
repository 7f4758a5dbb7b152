"""Named shapes, sample inputs and the one measure of accuracy, for tests and benchmarks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rsn2_kernels.formats import PackedWeight, pack
from rsn2_kernels.ops import task_conv2d_index, task_linear_index

LINEAR_SHAPES = {  # B, I, O, T: why the shape is there is its name
    "smallest": (1, 1, 1, 1),
    "one_task": (4, 8, 3, 1),
    "divides_nothing": (5, 33, 17, 3),
    "empty_batch": (0, 8, 4, 2),
    "one_row_per_slot": (7, 40, 21, 7),
    "several_tiles": (130, 613, 97, 4),
}

CONV_SHAPES = {  # B, C, O, T, (H, W), (P, Q), stride, padding [top, bottom, left, right], dilation
    "smallest": (1, 1, 1, 1, (1, 1), (1, 1), (1, 1), (0, 0, 0, 0), (1, 1)),
    "three_by_three": (6, 5, 7, 3, (9, 10), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    "strided": (3, 4, 6, 2, (11, 8), (3, 2), (2, 3), (1, 0, 2, 1), (1, 1)),
    "dilated": (3, 3, 5, 2, (12, 9), (3, 3), (1, 2), (2, 2, 2, 2), (2, 1)),
    "even_kernel_same": (2, 3, 4, 2, (7, 6), (4, 2), (1, 1), (1, 2, 0, 1), (1, 1)),
    "one_by_one": (4, 20, 9, 2, (5, 5), (1, 1), (1, 1), (0, 0, 0, 0), (1, 1)),
    "kernel_fills_image": (2, 2, 3, 2, (3, 4), (5, 6), (1, 1), (1, 1, 1, 1), (1, 1)),
    "empty_batch": (0, 3, 4, 2, (5, 5), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    "many_channels": (3, 70, 40, 3, (8, 19), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
}

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def seeded(seed: int) -> torch.Generator:
    """A generator on torch's default device, where the numbers drawn from it are to be."""
    return torch.Generator(torch.get_default_device()).manual_seed(seed)


def random_masks(num_slots: int, num_rows: int, num_columns: int, density: float, generator: torch.Generator) -> Tensor:
    """Disjoint bool masks ``[T, O, K]``: a weight belongs to some slot with probability ``T * density``, at most 1."""
    draw = torch.rand(num_rows, num_columns, generator=generator)
    owner = (draw / density).long()
    return torch.stack([owner == slot for slot in range(num_slots)])


def random_slots(batch: int, num_slots: int, generator: torch.Generator) -> Tensor:
    """The slot of each row: any, but every slot once where there are as many rows as slots."""
    if batch == num_slots:
        return torch.randperm(num_slots, generator=generator)
    return torch.randint(0, num_slots, (batch,), generator=generator)


class Sample(NamedTuple):
    """Arguments of a forward operator."""

    x: Tensor
    weight: PackedWeight
    slots: Tensor
    bias: Tensor


def linear_sample(
    batch: int,
    num_inputs: int,
    num_outputs: int,
    num_slots: int,
    *,
    density: float | None = None,
    dtype: torch.dtype = torch.float32,
    value_dtype: torch.dtype | None = None,
    seed: int = 0,
) -> Sample:
    """Inputs of ``task_linear``: a mixed batch and packed weights with their index."""
    generator = seeded(seed)
    density = density or min(0.3, 1 / num_slots)
    weight = torch.randn(num_outputs, num_inputs, generator=generator).to(value_dtype or dtype)
    packed = pack(weight, random_masks(num_slots, num_outputs, num_inputs, density, generator))
    return Sample(
        torch.randn(batch, num_inputs, generator=generator).to(dtype),
        packed._replace(index=task_linear_index(packed.positions)),
        random_slots(batch, num_slots, generator),
        torch.randn(num_slots, num_outputs, generator=generator).to(value_dtype or dtype),
    )


def conv_sample(
    batch: int,
    channels: int,
    num_outputs: int,
    num_slots: int,
    size: tuple[int, int],
    kernel_size: tuple[int, int],
    *,
    density: float | None = None,
    dtype: torch.dtype = torch.float32,
    value_dtype: torch.dtype | None = None,
    seed: int = 0,
) -> Sample:
    """Inputs of ``task_conv2d``."""
    generator = seeded(seed)
    density = density or min(0.3, 1 / num_slots)
    num_columns = channels * kernel_size[0] * kernel_size[1]
    weight = torch.randn(num_outputs, num_columns, generator=generator).to(value_dtype or dtype)
    packed = pack(weight, random_masks(num_slots, num_outputs, num_columns, density, generator))
    return Sample(
        torch.randn(batch, channels, *size, generator=generator).to(dtype),
        packed._replace(index=task_conv2d_index(packed.positions, kernel_size)),
        random_slots(batch, num_slots, generator),
        torch.randn(num_slots, num_outputs, generator=generator).to(value_dtype or dtype),
    )


def assert_as_accurate(ours: Tensor, plain: Tensor, exact: Tensor, factor: float = 2.0) -> None:
    """``ours`` is about as close to the float64 answer ``exact`` as plain PyTorch in the same dtype is.

    The largest error may be ``factor`` times that of ``plain``, but is never asked to be below one rounding of the
    largest result, which either may owe to chance.

    Raises:
        AssertionError: shape or dtype differ, a value is not finite, or the error is larger.
    """
    if ours.shape != plain.shape or ours.dtype != plain.dtype:
        raise AssertionError(f"want {plain.dtype} {list(plain.shape)}, got {ours.dtype} {list(ours.shape)}")
    if ours.numel() == 0:
        return
    error = (ours.double() - exact).abs().max().item()
    allowed = factor * (plain.double() - exact).abs().max().item()
    rounding = torch.finfo(ours.dtype).eps * exact.abs().max().item()
    if not error <= max(allowed, rounding):  # also false for NaN
        raise AssertionError(
            f"error {error:.3g} exceeds {factor} x plain PyTorch's ({allowed:.3g}) and one rounding ({rounding:.3g})"
        )
