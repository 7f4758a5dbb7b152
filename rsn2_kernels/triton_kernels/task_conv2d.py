"""``task_conv2d`` and its gradients by Triton; arguments and results are those of the reference."""

from __future__ import annotations

import torch
from torch import Tensor

from rsn2_kernels.formats import gather_index
from rsn2_kernels.reference.task_conv2d import memory_format_of, output_size
from rsn2_kernels.triton_kernels import _launch


def _geometry(size: list[int], outputs: list[int], out_channels: int, kernel_size: list[int], stride: list[int],
              padding: list[int], dilation: list[int]) -> _launch.Geometry:  # fmt: skip
    """Of images ``size`` ``[C, H, W]`` and outputs ``[H', W']``. Padding at the bottom and right shows in these."""
    channels, height, width = size
    return _launch.Geometry(
        O=out_channels, K=channels * kernel_size[0] * kernel_size[1], C=channels, H=height, W=width,
        OH=outputs[0], OW=outputs[1], P=kernel_size[0], Q=kernel_size[1], stride_h=stride[0], stride_w=stride[1],
        pad_h=padding[0], pad_w=padding[2], dil_h=dilation[0], dil_w=dilation[1],
    )  # fmt: skip


def task_conv2d(
    x: Tensor,  # [B, C, H, W]
    values: Tensor,
    positions: Tensor,
    index: Tensor,
    slots: Tensor,  # [] or [B]
    bias: Tensor | None,  # [T, O]
    frozen: list[Tensor],
    activation: str,
    out_channels: int,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],  # [top, bottom, left, right]
    dilation: list[int],
    *_parameters: object,
) -> Tensor:
    outputs = output_size((x.shape[2], x.shape[3]), kernel_size, stride, padding, dilation)
    geometry = _geometry(list(x.shape[1:]), list(outputs), out_channels, kernel_size, stride, padding, dilation)
    _launch.check("task_conv2d", positions, index, slots, frozen, out_channels, geometry.K)
    y = torch.empty(
        (x.shape[0], out_channels, *outputs), dtype=x.dtype, device=x.device, memory_format=memory_format_of(x)
    )
    return _launch.forward(x, values, index, slots, bias, frozen, activation, y, geometry)


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
    window = (kernel_size, stride, padding, dilation)
    geometry = _geometry(input_size, list(grad_y.shape[2:]), grad_y.shape[1], *window)
    _launch.check("task_conv2d_grad_input", positions, index, slots, frozen, geometry.O, geometry.K)
    grad_x = torch.empty(
        (grad_y.shape[0], *input_size), dtype=grad_y.dtype, device=grad_y.device, memory_format=memory_format_of(grad_y)
    )
    return _launch.grad_input(grad_y, values, index, slots, frozen, grad_x, geometry)


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
    window = (kernel_size, stride, padding, dilation)
    geometry = _geometry(list(x.shape[1:]), list(grad_y.shape[2:]), grad_y.shape[1], *window)
    _launch.check("task_conv2d_grad_values", positions, index, slots, [], geometry.O, geometry.K)
    return _launch.grad_values(x, grad_y, values, index, slots, wanted, num_owned, geometry)


def task_conv2d_index(positions: Tensor, kernel_size: list[int]) -> Tensor:
    return gather_index(positions)
