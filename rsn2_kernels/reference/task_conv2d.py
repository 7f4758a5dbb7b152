"""What ``task_conv2d`` and its gradients mean, in plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_input, conv2d_weight

from rsn2_kernels.formats import coordinates, shape_of, value_starts
from rsn2_kernels.reference._common import activate, compute_dtype, dense_weight, empty_index, groups, num_slots_of


def output_size(
    size: tuple[int, int], kernel_size: list[int], stride: list[int], padding: list[int], dilation: list[int]
) -> tuple[int, int]:
    """Height and width of a convolution's output; ``padding`` is [top, bottom, left, right]."""
    height = (size[0] + padding[0] + padding[1] - dilation[0] * (kernel_size[0] - 1) - 1) // stride[0] + 1
    width = (size[1] + padding[2] + padding[3] - dilation[1] * (kernel_size[1] - 1) - 1) // stride[1] + 1
    return height, width


def as_kernel(weight: Tensor, kernel_size: list[int]) -> Tensor:
    """``[O, P * Q * C]`` with the input channel innermost -> ``[O, C, P, Q]``."""
    return weight.reshape(len(weight), *kernel_size, -1).permute(0, 3, 1, 2)


def _pad(x: Tensor, padding: list[int]) -> Tensor:
    top, bottom, left, right = padding
    return F.pad(x, (left, right, top, bottom))


def memory_format_of(x: Tensor) -> torch.memory_format:
    """channels_last inputs give channels_last outputs, as in ``F.conv2d``."""
    if x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last):
        return torch.contiguous_format
    return torch.channels_last


def task_conv2d(
    x: Tensor,  # [B, C, H, W]
    values: Tensor,
    positions: Tensor,
    index: Tensor,
    slots: Tensor,  # [] or [B] int64
    bias: Tensor | None,  # [T, O]
    frozen: list[Tensor],
    activation: str,
    out_channels: int,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],  # [top, bottom, left, right]
    dilation: list[int],
    weight_params: list[Tensor],
    weight_slots: list[int],
    bias_params: list[Tensor],
    bias_slots: list[int],
) -> Tensor:
    """Each image convolved with the kernel that its own slot owns, ``[B, O, H', W']`` (the paper's convolutions)."""
    dtype = compute_dtype(x, values)
    size = output_size((x.shape[2], x.shape[3]), kernel_size, stride, padding, dilation)
    y = x.new_zeros(len(x), out_channels, *size).to(memory_format=memory_format_of(x))
    for slot, rows in groups("task_conv2d", slots, num_slots_of(positions)):
        kernel = as_kernel(dense_weight(values, positions, frozen, slot, dtype), kernel_size)
        own = None if bias is None else bias[slot].to(dtype)
        y[rows] = F.conv2d(_pad(x[rows].to(dtype), padding), kernel, own, stride, 0, dilation).to(y.dtype)
    return activate(y, activation)


def task_conv2d_grad_input(
    grad_y: Tensor,  # [B, O, H', W']
    values: Tensor,
    positions: Tensor,
    index: Tensor,
    slots: Tensor,
    frozen: list[Tensor],
    input_size: list[int],  # [C, H, W]
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> Tensor:
    """The gradient of the input, ``[B, C, H, W]``."""
    dtype = compute_dtype(grad_y, values)
    channels, height, width = input_size
    top, bottom, left, right = padding
    padded = (height + top + bottom, width + left + right)
    grad_x = grad_y.new_zeros(len(grad_y), *input_size).to(memory_format=memory_format_of(grad_y))
    for slot, rows in groups("task_conv2d_grad_input", slots, num_slots_of(positions)):
        kernel = as_kernel(dense_weight(values, positions, frozen, slot, dtype), kernel_size)
        own = grad_y[rows].to(dtype)
        whole = conv2d_input((len(own), channels, *padded), kernel, own, stride, 0, dilation)
        grad_x[rows] = whole[:, :, top : top + height, left : left + width].to(grad_x.dtype)
    return grad_x


def task_conv2d_grad_values(
    x: Tensor,  # [B, C, H, W]
    grad_y: Tensor,  # [B, O, H', W']
    values: Tensor,
    positions: Tensor,
    index: Tensor,
    slots: Tensor,
    wanted: list[int],
    num_owned: list[int],
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> Tensor:
    """The dense gradient of each wanted slot's kernel, sampled at the positions it owns; flat, slot after slot."""
    dtype = compute_dtype(x, values)
    starts = value_starts(positions)
    num_slots, num_rows, num_columns = shape_of(positions)
    rows_of = dict(groups("task_conv2d_grad_values", slots, num_slots))
    grads = [values.new_zeros(0)]
    for slot in wanted:
        if slot not in rows_of or len(x) == 0:
            grads.append(values.new_zeros(starts[slot + 1] - starts[slot]))
            continue
        rows = rows_of[slot]
        shape = (num_rows, x.shape[1], *kernel_size)
        dense = conv2d_weight(_pad(x[rows].to(dtype), padding), shape, grad_y[rows].to(dtype), stride, 0, dilation)
        matrix = dense.permute(0, 2, 3, 1).reshape(num_rows, num_columns)
        grads.append(matrix[coordinates(positions, slot)].to(values.dtype))
    return torch.cat(grads)


def task_conv2d_index(positions: Tensor, kernel_size: list[int]) -> Tensor:
    """Nothing: the reference works on the positions themselves."""
    return empty_index(positions)
