"""From positions to the words of a slot's segment and back, as :mod:`rsn2_kernels.formats.packed` describes them.

Words are read and written through views of 16 and 8 bits, lowest first, so that machines which store the highest byte
first are refused.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

if sys.byteorder != "little":
    raise ImportError("rsn2_kernels: machines that store the highest byte first are not supported")

TILE_ROWS = 16
TILE_COLUMNS = 256
_TILE = TILE_ROWS * TILE_COLUMNS
_TILE_WORDS = _TILE // 64
_GATHER_BITS = 0x0102040810204080  # times eight bytes 0 or 1: their bits, side by side in the highest byte


def tiles(num_rows: int, num_columns: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows and columns of every tile, each ``[num_tiles]`` int64."""
    row_starts = torch.arange(0, num_rows, TILE_ROWS, device=device)
    column_starts = torch.arange(0, num_columns, TILE_COLUMNS, device=device)
    rows = (num_rows - row_starts).clamp(max=TILE_ROWS)
    columns = (num_columns - column_starts).clamp(max=TILE_COLUMNS)
    return rows.repeat_interleave(len(columns)), columns.repeat(len(rows))


def payload_words(counts: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Words that every tile takes, and whether they are bits; those of an empty one are none."""
    as_bits = (rows * columns + 63) // 64
    as_offsets = (counts + 3) // 4
    is_bits = (as_offsets >= as_bits) & (counts > 0)
    return torch.where(is_bits, as_bits, as_offsets), is_bits


def num_count_words(num_rows: int, num_columns: int) -> int:
    """Words at the beginning of a segment, which count the weights of every tile."""
    num_tiles = -(-num_rows // TILE_ROWS) * -(-num_columns // TILE_COLUMNS)
    return -(-num_tiles // 4)


def tile_counts(words: Tensor, num_rows: int, num_columns: int) -> Tensor:
    """Owned weights of every tile of a non-empty segment, ``[num_tiles]`` int64."""
    num_tiles = -(-num_rows // TILE_ROWS) * -(-num_columns // TILE_COLUMNS)
    heads = words[: num_count_words(num_rows, num_columns)].contiguous()
    return heads.view(torch.int16)[:num_tiles].long() & 0xFFFF


def _leading(counts: Tensor, width: int) -> Tensor:
    """Bool ``[len(counts), width]``: the first ``counts[i]`` places of row ``i``."""
    return torch.arange(width, device=counts.device) < counts[:, None]


def _narrow(num_rows: int, num_columns: int) -> torch.dtype:
    return torch.int32 if num_rows * num_columns < 1 << 31 else torch.int64  # half the bytes take half the time


def encode_slot(flat: Tensor, num_rows: int, num_columns: int) -> tuple[Tensor, Tensor]:
    """Encode the positions that one slot owns.

    Args:
        flat: ascending int64 positions ``row * K + column``, ``[N]``.
        num_rows: ``O``.
        num_columns: ``K``.

    Returns:
        The segment ``[words]`` int64, and ``order`` ``[N]``: value ``j`` of the packed order is the weight at
        ``flat[order[j]]``.
    """
    if flat.numel() == 0:
        return flat.new_zeros(0), flat.new_zeros(0)
    kind, device = _narrow(num_rows, num_columns), flat.device
    tile_rows, tile_columns = tiles(num_rows, num_columns, device)
    places = flat.to(kind)
    rows = torch.div(places, num_columns, rounding_mode="trunc")
    columns = places - rows * num_columns
    tile = (rows >> 4) * -(-num_columns // TILE_COLUMNS) + (columns >> 8)
    counts = torch.bincount(tile, minlength=len(tile_rows))
    tile, order = tile.sort(stable=True)
    local = (((rows & 15) << 8) + (columns & 255))[order]
    del places, rows, columns

    words, is_bits = payload_words(counts, tile_rows, tile_columns)
    payload = torch.zeros(len(counts), _TILE_WORDS, dtype=torch.int64, device=device)
    of_bits = is_bits[tile]
    is_offset = _leading(counts.masked_fill(is_bits, 0), 4 * _TILE_WORDS)
    payload.view(torch.int16).masked_scatter_(is_offset, local[~of_bits].short())
    if bool(is_bits.any()):
        bits, owner = local[of_bits], tile[of_bits]
        if num_columns % TILE_COLUMNS:
            bits = bits - (bits >> 8) * (TILE_COLUMNS - tile_columns).to(kind)[owner]  # r * 256 + c -> r * columns + c
        is_set = torch.zeros(int(is_bits.sum()) * _TILE, dtype=torch.bool, device=device)
        is_set[(is_bits.cumsum(0) - 1)[owner] * _TILE + bits] = True
        packed = is_set.view(torch.int64) * _GATHER_BITS >> 56
        payload[is_bits] = packed.to(torch.uint8).view(torch.int64).reshape(-1, _TILE_WORDS)

    heads = flat.new_zeros(num_count_words(num_rows, num_columns))
    heads.view(torch.int16)[: len(counts)] = counts.short()
    return torch.cat([heads, payload[_leading(words, _TILE_WORDS)]]), order


def decode_slot(words: Tensor, num_rows: int, num_columns: int) -> tuple[Tensor, Tensor]:
    """Rows and columns that a segment names, in the order of the values; each ``[N]`` int64.

    Raises:
        ValueError: the words do not fit the counts at their beginning.
    """
    if words.numel() == 0:
        return words.new_zeros(0), words.new_zeros(0)
    kind, device = _narrow(num_rows, num_columns), words.device
    counts = tile_counts(words, num_rows, num_columns)
    tile_rows, tile_columns = tiles(num_rows, num_columns, device)
    num_words, is_bits = payload_words(counts, tile_rows, tile_columns)
    given = words[num_count_words(num_rows, num_columns) :]
    if len(given) != int(num_words.sum()):
        raise ValueError(f"the tiles should take {int(num_words.sum())} words, but there are {len(given)}")
    payload = torch.zeros(len(counts), _TILE_WORDS, dtype=torch.int64, device=device)
    payload.masked_scatter_(_leading(num_words, _TILE_WORDS), given)

    tile = torch.arange(len(counts), dtype=kind, device=device).repeat_interleave(counts)
    is_offset = _leading(counts.masked_fill(is_bits, 0), 4 * _TILE_WORDS)
    local = payload.view(torch.int16)[is_offset].to(kind)
    if bool(is_bits.any()):
        spread = torch.arange(256, device=device)[:, None] >> torch.arange(8, device=device) & 1
        is_set = spread.bool().view(torch.int64).flatten()[payload[is_bits].view(torch.uint8).flatten().int()]
        bits = is_set.view(torch.bool).nonzero().squeeze(1)
        of_bits = is_bits[tile]
        owner = tile[of_bits]
        if len(bits) != len(owner):
            raise ValueError(f"tiles that count {len(owner)} weights have {len(bits)} bits set")
        inside = (bits & (_TILE - 1)).to(kind)
        if num_columns % TILE_COLUMNS:
            width = tile_columns.to(kind)[owner]
            inside += torch.div(inside, width, rounding_mode="trunc") * (TILE_COLUMNS - width)
        local = local.new_empty(len(tile)).masked_scatter_(~of_bits, local).masked_scatter_(of_bits, inside)

    spans = -(-num_columns // TILE_COLUMNS)
    first = torch.arange(len(counts), device=device)
    rows = (torch.div(first, spans, rounding_mode="trunc") * TILE_ROWS).to(kind)[tile] + (local >> 8)
    columns = (first % spans * TILE_COLUMNS).to(kind)[tile] + (local & 255)
    return rows.long(), columns.long()
