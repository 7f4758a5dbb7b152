"""The packed weight: the values that each slot owns, and where they stand.

A layer with ``T`` slots and a weight matrix ``[O, K]`` (``K = I`` for a linear layer; ``K = P * Q * C`` for a
convolution, column ``(p * Q + q) * C + c``) is stored in two one-dimensional tensors.

``values`` holds the owned weights of slot 0, then of slot 1, and so on, without padding.

``positions`` (int64) says where they stand, and describes itself:

====================  ==================================================================================
words                 content
====================  ==================================================================================
0                     format version, 1
1, 2, 3               ``T``, ``O``, ``K``
4 .. 4 + T            ``word_starts``: the first word of each slot's segment; the last entry is the length
5 + T .. 5 + 2T       ``value_starts``: slot ``t`` owns ``values[value_starts[t]:value_starts[t + 1]]``
the rest              the segments of the slots; a slot that owns nothing has none
====================  ==================================================================================

A segment cuts the matrix into tiles of 16 rows x 256 columns (smaller at the lower and right edge), numbered
along the columns first. It begins with the number of owned weights of every tile, as 16-bit numbers, four to a
word, lowest bits first. The tiles follow in order, each from a word boundary on, in whichever form is smaller:

* *bits*, ``ceil(rows * columns / 64)`` words: bit ``r * columns + c`` is set where the slot owns the weight at
  row ``r`` and column ``c`` of the tile;
* *offsets*, ``ceil(n / 4)`` words, used only when that is fewer: the ``n`` owned positions ``r * 256 + c`` as
  ascending 16-bit numbers.

Why two forms: at densities of 0.01 / 0.05 / 0.10 / 0.25 one slot's positions in 1000 x 1000 take 21 / 101 / 126 / 126
kilobytes, where a bitmap always takes 125 and 16-bit column lists 24 / 104 / 204 / 504. Why the CPU kernels walk lists
derived from the positions rather than the words themselves: measured on the same product with 64 rows, lists are 1.4 to
2.0 times faster than bits up to a density of 0.1 and even at 0.25.

A tile that holds nothing takes no words. The values of a slot are in the order of its tiles, and by row, then
column within a tile. Positions cost at most ``min(O * K / 8, 2 * owned)`` bytes, plus two bytes per tile, plus
the padding of a tile to its word boundary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rsn2_kernels.formats.coding import decode_slot, encode_slot

FORMAT_VERSION = 1
_HEADER = 4


class PackedWeight(NamedTuple):
    """Values and positions of all slots of one layer, as the operators take them.

    Attributes:
        values: ``[sum of N]``, any float dtype.
        positions: ``[words]`` int64, see the module's text.
        index: ``[any]`` int32, what the kernels of a device derive from ``positions``; empty is allowed where the
            reference computes.
        shape: ``(T, O, K)``, as the header of ``positions`` has it.
        trainable: the Parameters that view ``values`` and want a gradient, one per slot of ``trainable_slots``.
        trainable_slots: the slots of ``trainable``.
    """

    values: Tensor
    positions: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index: a packed weight is never searched
    shape: tuple[int, int, int]
    trainable: tuple[Tensor, ...] = ()
    trainable_slots: tuple[int, ...] = ()


def shape_of(positions: Tensor) -> tuple[int, int, int]:
    """``(T, O, K)`` of a positions tensor."""
    version, num_slots, num_rows, num_columns = positions[:_HEADER].tolist()
    if version != FORMAT_VERSION:
        raise ValueError(f"positions: format version must be {FORMAT_VERSION}, got {version}")
    return num_slots, num_rows, num_columns


def value_starts(positions: Tensor) -> list[int]:
    """Where each slot's values begin, and the total: ``T + 1`` numbers."""
    num_slots = shape_of(positions)[0]
    return positions[5 + num_slots : 6 + 2 * num_slots].tolist()


def segment(positions: Tensor, slot: int) -> Tensor:
    """The words of one slot's segment, a view."""
    num_slots = shape_of(positions)[0]
    if not 0 <= slot < num_slots:
        raise IndexError(f"slot must be in 0..{num_slots - 1}, got {slot}")
    first, last = positions[_HEADER + slot : _HEADER + slot + 2].tolist()
    return positions[first:last]


def join(segments: list[Tensor], counts: list[int], num_rows: int, num_columns: int) -> Tensor:
    """Put the segments of all slots, which own ``counts`` weights, into one positions tensor."""
    num_slots = len(segments)
    word_starts = [_HEADER + 2 * (num_slots + 1)]
    starts = [0]
    for words, count in zip(segments, counts, strict=True):
        word_starts.append(word_starts[-1] + len(words))
        starts.append(starts[-1] + count)
    header = [FORMAT_VERSION, num_slots, num_rows, num_columns, *word_starts, *starts]
    device = segments[0].device if segments else torch.device("cpu")
    return torch.cat([torch.tensor(header, dtype=torch.int64, device=device), *segments])


def empty_positions(num_slots: int, num_rows: int, num_columns: int) -> Tensor:
    """Positions of a layer in which nobody owns anything yet."""
    return join([torch.zeros(0, dtype=torch.int64)] * num_slots, [0] * num_slots, num_rows, num_columns)


def coordinates(positions: Tensor, slot: int) -> tuple[Tensor, Tensor]:
    """Rows and columns that ``slot`` owns, in the order of its values; each ``[N]`` int64."""
    _, num_rows, num_columns = shape_of(positions)
    return decode_slot(segment(positions, slot), num_rows, num_columns)


def pack(weight: Tensor, masks: Tensor) -> PackedWeight:
    """Pack dense weights under masks.

    Args:
        weight: ``[O, K]`` shared by all slots, or ``[T, O, K]`` one for each.
        masks: bool ``[T, O, K]``; no position may belong to two slots (Eq. 3 of the paper).

    Returns:
        A :class:`PackedWeight` with an empty index.

    Raises:
        ValueError: a shape or dtype does not fit, or masks overlap.
    """
    if masks.dtype != torch.bool or masks.dim() != 3:
        raise ValueError(f"pack: masks must be bool [T, O, K], got {masks.dtype} {list(masks.shape)}")
    if tuple(weight.shape) not in {tuple(masks.shape), tuple(masks.shape[1:])}:
        raise ValueError(
            f"pack: weight must have shape {list(masks.shape)} or {list(masks.shape[1:])}, got {list(weight.shape)}"
        )
    if int(masks.sum(0).max() if masks.numel() else 0) > 1:
        raise ValueError("pack: masks must be disjoint, but some positions belong to two slots")
    num_slots, num_rows, num_columns = masks.shape
    segments, values = [], []
    for slot in range(num_slots):
        flat = masks[slot].flatten().nonzero().squeeze(1)
        words, order = encode_slot(flat, num_rows, num_columns)
        dense = weight if weight.dim() == 2 else weight[slot]
        segments.append(words)
        values.append(dense.reshape(-1)[flat[order]])
    positions = join(segments, [len(v) for v in values], num_rows, num_columns)
    index = torch.zeros(0, dtype=torch.int32, device=positions.device)
    flat_values = torch.cat(values) if values else weight.new_zeros(0)
    return PackedWeight(flat_values, positions, index, (num_slots, num_rows, num_columns))


def unpack(values: Tensor, positions: Tensor, slot: int) -> Tensor:
    """The dense ``[O, K]`` weight of one slot, zero where it owns nothing."""
    _, num_rows, num_columns = shape_of(positions)
    starts = value_starts(positions)
    rows, columns = coordinates(positions, slot)
    dense = values.new_zeros(num_rows, num_columns)
    dense[rows, columns] = values[starts[slot] : starts[slot + 1]]
    return dense
