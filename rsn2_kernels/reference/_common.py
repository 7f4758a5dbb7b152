"""What the references of all operators share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from rsn2_kernels.formats import shape_of, unpack


def slots_present(op: str, slots: Tensor, num_slots: int) -> list[int]:
    """The slots that occur, ascending; IndexError where one is out of range."""
    present = slots.unique().tolist()
    for slot in present:
        if not 0 <= slot < num_slots:
            raise IndexError(f"{op}: slots must be in 0..{num_slots - 1}, got {slot}")
    return present


def groups(op: str, slots: Tensor, num_slots: int) -> Iterator[tuple[int, Tensor | slice]]:
    """Each slot that occurs, with the rows that belong to it. One slot at a time, so that only its weight is dense."""
    for slot in slots_present(op, slots, num_slots):
        yield slot, slice(None) if slots.dim() == 0 else slots == slot


def compute_dtype(x: Tensor, values: Tensor) -> torch.dtype:
    """16-bit inputs are summed in float32."""
    widest = torch.promote_types(x.dtype, values.dtype)
    return torch.float32 if widest in (torch.bfloat16, torch.float16) else widest


def dense_weight(values: Tensor, positions: Tensor, frozen: Sequence[Tensor], slot: int, dtype: torch.dtype) -> Tensor:
    """All that ``slot`` reads, ``[O, K]``: what it owns, and what its frozen store holds."""
    weight = unpack(values, positions, slot).to(dtype)
    if frozen:
        weight = weight + unpack(frozen[0], frozen[1], slot).to(dtype)
    return weight


def num_slots_of(positions: Tensor) -> int:
    return shape_of(positions)[0]


def empty_index(positions: Tensor) -> Tensor:
    """The reference derives nothing from the positions."""
    return positions.new_zeros(0, dtype=torch.int32)


def activate(y: Tensor, activation: str) -> Tensor:
    return y.relu() if activation == "relu" else y
