"""The gradient of per-slot biases: torch's own sums, on the device and without waiting for it."""

from __future__ import annotations

import torch
from torch import Tensor


def task_grad_bias(grad_y: Tensor, slots: Tensor, wanted: list[int]) -> Tensor:
    """The sum of ``grad_y`` over the rows and pixels of each wanted slot, as the reference has it.

    Rows of others are left out rather than multiplied by zero: they may hold NaN.
    """
    dtype = torch.float32 if grad_y.dtype in (torch.bfloat16, torch.float16) else grad_y.dtype
    per_row = grad_y.sum((2, 3), dtype=dtype) if grad_y.dim() > 2 else grad_y.to(dtype)  # [B, O]
    if slots.dim() == 0:
        total = per_row.sum(0)
        grads = [total.where(slots == slot, 0.0) for slot in wanted]
    else:
        grads = [per_row.where((slots == slot)[:, None], 0.0).sum(0) for slot in wanted]
    return torch.stack(grads) if grads else per_row.new_zeros(0, grad_y.shape[1])
