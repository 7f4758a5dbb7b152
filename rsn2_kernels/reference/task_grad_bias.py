"""The gradient of per-slot biases, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def task_grad_bias(grad_y: Tensor, slots: Tensor, wanted: list[int]) -> Tensor:
    """The sum of ``grad_y`` over the rows and pixels of each wanted slot, ``[len(wanted), O]``.

    ``grad_y`` is ``[B, O]`` or ``[B, O, H, W]``.

    16-bit gradients are summed in, and returned as, float32.
    """
    dtype = torch.float32 if grad_y.dtype in (torch.bfloat16, torch.float16) else grad_y.dtype
    per_row = grad_y.to(dtype).flatten(2).sum(2) if grad_y.dim() > 2 else grad_y.to(dtype)
    grads = per_row.new_zeros(len(wanted), grad_y.shape[1])
    for place, slot in enumerate(wanted):
        rows = per_row if slots.dim() == 0 and int(slots) == slot else per_row[(slots == slot).expand(len(per_row))]
        grads[place] = rows.sum(0)
    return grads
