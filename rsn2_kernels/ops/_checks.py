"""Checks that several operators share. Each message names the operator, the argument, what was wanted and what came."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad

from rsn2_kernels.formats import PackedWeight

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
HALVES = (torch.bfloat16, torch.float16)
ACTIVATIONS = ("none", "relu")


def check_inputs(op: str, x: Tensor, weight: PackedWeight, slots: Tensor, bias: Tensor | None, activation: str) -> None:
    """What must hold of the arguments of every forward operator besides the shape of ``x``."""
    values, positions = weight.values, weight.positions
    if x.dtype not in FLOATS:
        raise ValueError(f"{op}: x must be float32, float64, bfloat16 or float16, got {x.dtype}")
    if values.dtype != x.dtype and not (x.dtype in HALVES and values.dtype == torch.float32):
        halves = " (or bfloat16 or float16)" if values.dtype == torch.float32 else ""
        raise ValueError(f"{op}: x must have the weight's dtype {values.dtype}{halves}, got {x.dtype}")
    if positions.dtype != torch.int64 or positions.dim() != 1:
        raise ValueError(f"{op}: positions must be 1-D int64, got {positions.dtype} {list(positions.shape)}")
    for name, tensor in (("weight", values), ("slots", slots), ("bias", bias)):
        if tensor is not None and tensor.device != x.device:
            raise ValueError(f"{op}: {name} must be on x's device {x.device}, got {tensor.device}")
    refuse_forward_mode(op, x, values, bias)
    num_slots, num_outputs, _ = weight.shape
    if bias is not None and (bias.shape != (num_slots, num_outputs) or bias.dtype != values.dtype):
        raise ValueError(
            f"{op}: bias must be {values.dtype} [{num_slots}, {num_outputs}], got {bias.dtype} {list(bias.shape)}"
        )
    if activation not in ACTIVATIONS:
        raise ValueError(f"{op}: activation must be one of {ACTIVATIONS}, got {activation!r}")


def refuse_forward_mode(op: str, *tensors: Tensor | None) -> None:
    """Forward-mode derivatives are refused: torch drops them in silence where no input requires a gradient."""
    if forward_ad._current_level < 0:
        return
    if any(tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors):
        raise NotImplementedError(f"{op}: forward-mode derivatives are not implemented")


def check_slots(op: str, slots: Tensor, num_rows: int) -> None:
    """Slots are int64, ``[]`` or one per row. Whether the ids are in range is checked by the kernel."""
    if slots.dtype != torch.int64:
        raise ValueError(f"{op}: slots must be int64, got {slots.dtype}")
    if slots.dim() > 1 or (slots.dim() == 1 and slots.shape[0] != num_rows):
        raise ValueError(f"{op}: slots must have shape [] or [{num_rows}], one per row of x, got {list(slots.shape)}")


def check_frozen(op: str, weight: PackedWeight, frozen: PackedWeight | None) -> list[Tensor]:
    """The tensors of the frozen store, which must fit the weight it stands beside."""
    if frozen is None:
        return []
    if frozen.shape != weight.shape:
        raise ValueError(f"{op}: frozen must have the weight's shape {list(weight.shape)}, got {list(frozen.shape)}")
    if frozen.values.dtype != weight.values.dtype or frozen.values.device != weight.values.device:
        raise ValueError(
            f"{op}: frozen must be {weight.values.dtype} on {weight.values.device}, "
            f"got {frozen.values.dtype} on {frozen.values.device}"
        )
    return [frozen.values, frozen.positions, frozen.index]
