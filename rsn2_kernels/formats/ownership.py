"""Who owns which weight: owner maps, derived from packed positions, and exact shares of a tensor."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import torch
from torch import Tensor

from rsn2_kernels.formats.packed import coordinates, shape_of

FREE = 255
"""Owner of a weight that no slot has claimed, in maps of up to 255 slots."""

FREE_WIDE = 32767
"""The same in the int16 maps of layers with more slots."""


class CapacityError(ValueError):
    """A claim wants more weights than are free."""


def owner_map(positions: Tensor) -> Tensor:
    """The slot that owns a weight, ``[O, K]``: uint8 with :data:`FREE`, above 255 slots int16 with :data:`FREE_WIDE`.

    Eq. 3 of the paper (at most one owner) holds by construction.
    """
    num_slots, num_rows, num_columns = shape_of(positions)
    wide = num_slots > FREE
    owner = torch.full(
        (num_rows, num_columns),
        FREE_WIDE if wide else FREE,
        dtype=torch.int16 if wide else torch.uint8,
        device=positions.device,
    )
    for slot in range(num_slots):
        rows, columns = coordinates(positions, slot)
        owner[rows, columns] = slot
    return owner


def is_owned(positions: Tensor) -> Tensor:
    """Bool ``[O, K]``: weights that some slot owns."""
    num_slots, num_rows, num_columns = shape_of(positions)
    owned = torch.zeros(num_rows, num_columns, dtype=torch.bool, device=positions.device)
    for slot in range(num_slots):
        rows, columns = coordinates(positions, slot)
        owned[rows, columns] = True
    return owned


def num_kept(keep: float | str | Decimal | Fraction, numel: int) -> int:
    """``k``, the weights that a share ``keep`` of a tensor of ``numel`` weights means: the floor of the exact product.

    A float stands for the decimal number that it prints as, so that keep 0.1 of 1000 is 100 and never 99.

    Raises:
        ValueError: ``keep`` lies outside (0, 1], or is so small that nothing would be kept.
    """
    if isinstance(keep, bool):
        raise ValueError(f"keep must be a number in (0, 1], got {keep!r}")
    try:
        share = keep if isinstance(keep, Fraction) else Fraction(Decimal(str(keep)))
    except (ArithmeticError, ValueError, TypeError):
        raise ValueError(f"keep must be a number in (0, 1], got {keep!r}") from None
    if not 0 < share <= 1:
        raise ValueError(f"keep must lie in (0, 1], got {keep!r}")
    count = share * numel // 1
    if count == 0:
        raise ValueError(f"keep {keep!r} of {numel} weights is less than one weight; keep must be at least 1/{numel}")
    return int(count)
