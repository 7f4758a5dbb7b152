"""What ``task_linear`` and its gradients mean, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from rsn2_kernels.formats import coordinates, shape_of, value_starts
from rsn2_kernels.reference._common import activate, compute_dtype, dense_weight, empty_index, groups, num_slots_of


def task_linear(
    x: Tensor,  # [B, I]
    values: Tensor,  # [sum of N]
    positions: Tensor,  # [words] int64
    index: Tensor,
    slots: Tensor,  # [] or [B] int64
    bias: Tensor | None,  # [T, O]
    frozen: list[Tensor],
    activation: str,
    out_features: int,
    weight_params: list[Tensor],
    weight_slots: list[int],
    bias_params: list[Tensor],
    bias_slots: list[int],
) -> Tensor:
    """``y[b] = activation(W[slots[b]] x[b] + bias[slots[b]])``, the paper's Eq. 1 with the masks of Eq. 3."""
    dtype = compute_dtype(x, values)
    y = x.new_zeros(len(x), out_features)  # [B, O]
    for slot, rows in groups("task_linear", slots, num_slots_of(positions)):
        product = x[rows].to(dtype) @ dense_weight(values, positions, frozen, slot, dtype).T
        y[rows] = (product if bias is None else product + bias[slot].to(dtype)).to(y.dtype)
    return activate(y, activation)


def task_linear_grad_input(
    grad_y: Tensor,  # [B, O]
    values: Tensor,
    positions: Tensor,
    index: Tensor,
    slots: Tensor,
    frozen: list[Tensor],
    in_features: int,
) -> Tensor:
    """``grad_x[b] = W[slots[b]]^T grad_y[b]``, ``[B, I]``."""
    dtype = compute_dtype(grad_y, values)
    grad_x = grad_y.new_zeros(len(grad_y), in_features)
    for slot, rows in groups("task_linear_grad_input", slots, num_slots_of(positions)):
        grad_x[rows] = (grad_y[rows].to(dtype) @ dense_weight(values, positions, frozen, slot, dtype)).to(grad_x.dtype)
    return grad_x


def task_linear_grad_values(
    x: Tensor,  # [B, I]
    grad_y: Tensor,  # [B, O]
    values: Tensor,
    positions: Tensor,
    index: Tensor,
    slots: Tensor,
    wanted: list[int],
    num_owned: list[int],
) -> Tensor:
    """``grad_y^T x`` of each wanted slot's rows, sampled at the positions it owns; flat, slot after slot."""
    dtype = compute_dtype(x, values)
    starts = value_starts(positions)
    num_slots = shape_of(positions)[0]
    rows_of = dict(groups("task_linear_grad_values", slots, num_slots))
    grads = [values.new_zeros(0)]
    for slot in wanted:
        if slot not in rows_of:
            grads.append(values.new_zeros(starts[slot + 1] - starts[slot]))
            continue
        rows = rows_of[slot]
        dense = grad_y[rows].to(dtype).T @ x[rows].to(dtype)  # [O, I]
        grads.append(dense[coordinates(positions, slot)].to(values.dtype))
    return torch.cat(grads)


def task_linear_index(positions: Tensor) -> Tensor:
    """Nothing: the reference works on the positions themselves."""
    return empty_index(positions)
