"""Rows grouped by slot, on the device: nothing is read back, so that a CUDA graph can hold it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Plan(NamedTuple):
    """Work items of one batch, none of which holds pixels of two slots.

    Attributes:
        items: int64 ``[3, n]``: slot, first pixel, past the last pixel of the slot; pixels in the order of slots.
        num_used: int64 ``[]``, how many items there are; the rest of ``items`` means nothing.
        order: int64 ``[B]``, the rows in the order of their slots, each slot's as they came.
    """

    items: Tensor
    num_used: Tensor
    order: Tensor


def plan(slots: Tensor, pixels: int, size: int) -> Plan:
    """Cut a mixed batch into items of ``size`` pixels.

    Args:
        slots: int64 ``[B]``, any ids, at least one row; those that no slot has form groups of their own.
        pixels: pixels of each row.
        size: pixels of an item; the last one of a slot holds fewer.
    """
    batch, device = len(slots), slots.device
    by_slot, order = slots.sort(stable=True)
    is_first = torch.ones_like(by_slot, dtype=torch.bool)
    torch.ne(by_slot[1:], by_slot[:-1], out=is_first[1:])
    group = is_first.cumsum(0) - 1  # [B], the how manieth of the slots present
    starts = torch.searchsorted(group, torch.arange(batch + 1, device=device))  # B past the last group
    num_items = (torch.diff(starts) * pixels + size - 1) // size
    ends = num_items.cumsum(0)
    number = torch.arange(batch * pixels // size + batch, device=device)
    own = torch.searchsorted(ends, number, right=True).clamp(max=batch - 1)  # the group of each item
    first = starts[own]
    begin = first * pixels + (number - (ends - num_items)[own]) * size
    slot = by_slot[first.clamp(max=batch - 1)]
    return Plan(torch.stack([slot, begin, starts[own + 1] * pixels]), ends[-1], order)


def rows_of(slots: Tensor, lowest: int, highest: int) -> tuple[Tensor, Tensor]:
    """Where the rows of slots ``lowest .. highest`` begin in the order of slots, and past the last; and that order."""
    by_slot, order = slots.sort(stable=True)
    return torch.searchsorted(by_slot, torch.arange(lowest, highest + 2, device=slots.device)), order
