"""What GPU kernels read instead of the positions: where each row of a tile begins, and the columns one byte each.

It is derived from the positions, once per mask, and never saved. ``values`` keep their one order (tiles along the
columns first, then row, then column), so that only indices are added: one byte per weight and nine words per tile.

=====================  =================================================================================
int32 words            content
=====================  =================================================================================
0                      version, 1
1, 2, 3                ``T``, ``O``, ``K``
4, 5                   ``panels = ceil(O / 16)``, ``spans = ceil(K / 256)``
6                      ``b``: 64, 32 or 16, the largest of which aligned, whole ``b x b`` blocks make up all
                       that all slots own; else 0
7                      ``columns_at``: the first word of the columns
8 .. 7 + T             ``table_at[t]``: the first word of slot ``t``'s table; 0 when it owns nothing
``table_at[t]`` ..     the tables, each from a multiple of 4 words on
``columns_at`` ..      the columns, from a multiple of 4 words on, in whole 16 bytes and 16 more
=====================  =================================================================================

With ``tile = panel * spans + span`` and ``tiles = panels * spans`` a table holds

* ``row_starts``, uint16 ``[tiles][16]`` (8 words a tile): the first weight of each of the 16 rows, counted from the
  tile's first value; rows below the matrix have the tile's count;
* ``tile_starts``, int32 ``[tiles + 1]``: where in the flat ``values`` of all slots the tile begins; last, the end.

Byte ``j`` of the columns belongs to ``values[j]``: its column inside the span of 256.

Where ``b > 0``, the rows of a block have the same columns in a tile, so that a block is a strided rectangle of
``values``. The number of words modulo 4 is 0, 1, 2 or 3 for a ``b`` of 0, 16, 32 or 64: a host knows it from the shape
and need not wait for a device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rsn2_kernels.formats.coding import TILE_COLUMNS, TILE_ROWS
from rsn2_kernels.formats.packed import coordinates, shape_of, value_starts

GATHER_VERSION = 1
BLOCK_SIZES = (0, 16, 32, 64)
"""By the number of words modulo 4."""

_HEADER = 8
_LIMIT = (1 << 31) - 256  # kernels count in int32, up to a span beyond the last weight
_MOST_SLOTS = 4096  # what the plan of a mixed batch holds in shared memory


def _aligned(words: int) -> int:
    return -(-words // 4) * 4


def gather_index(positions: Tensor) -> Tensor:
    """Derive the index from positions.

    Args:
        positions: int64 ``[words]``, as :mod:`rsn2_kernels.formats.packed` describes them; any device.

    Returns:
        int32 ``[words]`` on the same device, see the module's text.

    Raises:
        ValueError: there are more than 4096 slots; the slots own 2^31 - 256 weights or more, or the tables take as many
            words: 32-bit places end there.
    """
    num_slots, num_rows, num_columns = shape_of(positions)
    if num_slots > _MOST_SLOTS:
        raise ValueError(f"gather_index: positions must have at most {_MOST_SLOTS} slots, got {num_slots}")
    starts, device = value_starts(positions), positions.device
    panels, spans = -(-num_rows // TILE_ROWS), -(-num_columns // TILE_COLUMNS)
    tiles = panels * spans
    table_words = 9 * tiles + 1
    table_at, end = [], _aligned(_HEADER + num_slots)
    for first, last in zip(starts, starts[1:], strict=False):
        table_at.append(end if last > first else 0)
        end += _aligned(table_words) if last > first else 0
    column_words = _aligned(-(-starts[-1] // 4)) + 4
    if starts[-1] >= _LIMIT or end + column_words >= _LIMIT:
        raise ValueError(
            f"gather_index: {starts[-1]} owned weights and {end} words of tables are too many, "
            f"32-bit places hold fewer than {_LIMIT}"
        )

    columns = torch.zeros(4 * column_words, dtype=torch.uint8, device=device)
    parts, sizes = [], set(BLOCK_SIZES[1:]) if starts[-1] else set()
    for slot in range(num_slots):
        if not table_at[slot]:
            continue
        row, column = coordinates(positions, slot)
        columns[starts[slot] : starts[slot + 1]] = (column & (TILE_COLUMNS - 1)).to(torch.uint8)
        parts.append(_table(row, column, starts[slot], tiles, spans))
        sizes = {size for size in sizes if _is_made_of(row, column, size, num_columns)}
    block = max(sizes, default=0)
    header = [GATHER_VERSION, num_slots, num_rows, num_columns, panels, spans, block, end, *table_at]
    header += [0] * (_aligned(len(header)) - len(header))
    tail = columns.new_zeros(4 * BLOCK_SIZES.index(block))
    return torch.cat([torch.tensor(header, dtype=torch.int32, device=device), *parts,
                      torch.cat([columns, tail]).view(torch.int32)])  # fmt: skip


def _table(row: Tensor, column: Tensor, first: int, tiles: int, spans: int) -> Tensor:
    """One slot's table, int32 in whole 4 words."""
    row_of_tile = ((row >> 4) * spans + (column >> 8)) * TILE_ROWS + (row & 15)
    per_row = torch.bincount(row_of_tile, minlength=tiles * TILE_ROWS).view(tiles, TILE_ROWS)
    row_starts = (per_row.cumsum(1) - per_row).to(torch.int16)
    table = torch.zeros(_aligned(9 * tiles + 1), dtype=torch.int32, device=row.device)
    table[: 8 * tiles] = row_starts.view(torch.int32).flatten()
    table[8 * tiles] = first
    table[8 * tiles + 1 : 9 * tiles + 1] = (first + per_row.sum(1).cumsum(0)).to(torch.int32)
    return table


def _is_made_of(row: Tensor, column: Tensor, size: int, num_columns: int) -> bool:
    """Whether these weights are whole aligned blocks of ``size x size``."""
    if len(row) % (size * size):
        return False
    counts = torch.bincount(row // size * -(-num_columns // size) + column // size)
    return bool(((counts == 0) | (counts == size * size)).all())


def block_size_of(index: Tensor) -> int:
    """Word 6 of a gather index, known from its shape alone."""
    return BLOCK_SIZES[index.numel() % 4]
