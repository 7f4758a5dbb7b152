"""Shapes of the gradient operators that take no part in a public function."""

from __future__ import annotations

import torch
from torch import Tensor

from rsn2_kernels._schema import NAMESPACE


@torch.library.register_fake(f"{NAMESPACE}::task_linear_grad_values")
@torch.library.register_fake(f"{NAMESPACE}::task_conv2d_grad_values")
def _grad_values_fake(x: Tensor, grad_y: Tensor, values: Tensor, positions: Tensor, index: Tensor, slots: Tensor,
                      wanted: list[int], num_owned: list[int], *_window: object) -> Tensor:  # fmt: skip
    return values.new_empty(sum(num_owned))


@torch.library.register_fake(f"{NAMESPACE}::task_grad_bias")
def _grad_bias_fake(grad_y: Tensor, slots: Tensor, wanted: list[int]) -> Tensor:
    is_half = grad_y.dtype in (torch.bfloat16, torch.float16)
    return grad_y.new_empty(len(wanted), grad_y.shape[1], dtype=torch.float32 if is_half else grad_y.dtype)
