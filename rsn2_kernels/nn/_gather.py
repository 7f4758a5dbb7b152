"""Rows of a tensor that belong to slots, with gradients to the Parameters that view them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def gather_rows(flat: Tensor, slots: Tensor, parameters: Sequence[Tensor], wanted: Sequence[int],
                row: Tensor | None = None) -> Tensor:  # fmt: skip
    """``flat[slots]``, or ``flat[slots, row]``.

    Args:
        flat: ``[T, D]``, or ``[T, R, D]`` with ``row``.
        slots: int64, any shape, in ``0..T-1``.
        parameters: those that want a gradient, each a view of one slot's part of ``flat``.
        wanted: the slots of ``parameters``, ascending.
        row: int64, broadcast against ``slots``, in ``0..R-1``.

    Returns:
        ``[*shape, D]``. Gradients flow to ``parameters``; one whose slot does not occur gets zeros. Without
        ``parameters`` nothing but the rows asked for is read.
    """
    num_slots = flat.shape[0]
    if not parameters:
        return _select(flat, slots, row)
    # Only the parts that train are copied, which are few: finished slots are frozen.
    trainable = torch.stack([parameter.reshape(flat.shape[1:]) for parameter in parameters])
    if len(wanted) == num_slots:
        return _select(trainable, slots, row)
    place = torch.full_like(slots, -1)
    for first, last, number in runs(wanted):  # a table of places would have to come from the host
        place = torch.where((slots >= first) & (slots < last), slots - (first - number), place)
    rows = _select(trainable, place.clamp(min=0), row)
    is_trainable = (place >= 0).reshape(*place.shape, *[1] * (rows.dim() - place.dim()))
    return torch.where(is_trainable, rows, _select(flat, slots, row))


def runs(numbers: Sequence[int]) -> list[tuple[int, int, int]]:
    """Ascending numbers as runs of neighbours: the first, the one after the last, and how many come before."""
    found: list[tuple[int, int, int]] = []
    for place, number in enumerate(numbers):
        if found and found[-1][1] == number:
            found[-1] = (found[-1][0], number + 1, found[-1][2])
        else:
            found.append((number, number + 1, place))
    return found


def _select(flat: Tensor, slots: Tensor, row: Tensor | None) -> Tensor:
    index = slots
    if row is not None:
        index = slots * flat.shape[1] + row
        flat = flat.flatten(0, 1)
    return flat.index_select(0, index.reshape(-1)).reshape(*index.shape, flat.shape[1])
