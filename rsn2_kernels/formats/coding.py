"""From positions to the words of a slot's segment and back, as :mod:`rsn2_kernels.formats.packed` describes them.

All of it happens on the CPU, in NumPy, whatever the device of the tensors: of a few million weights, sorts of 16-bit
keys and packing of bits take milliseconds there, and torch has neither. On machines that store the highest byte first
the 16-bit views would be wrong; torch does not run on any.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

TILE_ROWS = 16
TILE_COLUMNS = 256
_TILE = TILE_ROWS * TILE_COLUMNS
_TILE_WORDS = _TILE // 64
_Array = np.ndarray[Any, Any]


def tiles(num_rows: int, num_columns: int) -> tuple[_Array, _Array]:
    """Rows and columns of every tile, each ``[num_tiles]`` int64."""
    rows = np.minimum(num_rows - np.arange(0, num_rows, TILE_ROWS), TILE_ROWS)
    columns = np.minimum(num_columns - np.arange(0, num_columns, TILE_COLUMNS), TILE_COLUMNS)
    return np.repeat(rows, len(columns)), np.tile(columns, len(rows))


def payload_words(counts: _Array, rows: _Array, columns: _Array) -> tuple[_Array, _Array]:
    """Words that every tile takes, and whether they are bits; those of an empty one are none."""
    as_bits = (rows * columns + 63) // 64
    as_offsets = (counts + 3) // 4
    is_bits = (as_offsets >= as_bits) & (counts > 0)
    return np.where(is_bits, as_bits, as_offsets), is_bits


def num_count_words(num_rows: int, num_columns: int) -> int:
    """Words at the beginning of a segment, which count the weights of every tile."""
    num_tiles = -(-num_rows // TILE_ROWS) * -(-num_columns // TILE_COLUMNS)
    return -(-num_tiles // 4)


def tile_counts(words: Tensor, num_rows: int, num_columns: int) -> _Array:
    """Owned weights of every tile of a non-empty segment, ``[num_tiles]`` int64."""
    num_tiles = -(-num_rows // TILE_ROWS) * -(-num_columns // TILE_COLUMNS)
    heads = words[: num_count_words(num_rows, num_columns)].cpu().numpy()
    counts: _Array = heads.view(np.uint16)[:num_tiles].astype(np.int64)
    return counts


def _leading(counts: _Array, width: int) -> _Array:
    """Bool ``[len(counts), width]``: the first ``counts[i]`` places of row ``i``."""
    is_leading: _Array = np.arange(width) < counts[:, None]
    return is_leading


def _narrow(num_rows: int, num_columns: int) -> Any:
    return np.int32 if num_rows * num_columns < 1 << 31 else np.int64  # half the bytes take half the time


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
    tile_rows, tile_columns = tiles(num_rows, num_columns)
    spans = -(-num_columns // TILE_COLUMNS)
    kind = _narrow(num_rows, num_columns)
    places = flat.cpu().numpy().astype(kind)
    rows = places // kind(num_columns)
    columns = places - rows * kind(num_columns)
    tile = (rows >> 4) * kind(spans) + (columns >> 8)
    counts = np.bincount(tile, minlength=len(tile_rows))
    # NumPy sorts 16-bit keys digit by digit, in a fraction of the time that a comparing sort takes.
    order = np.argsort(tile.astype(np.uint16) if len(counts) <= 1 << 16 else tile, kind="stable")
    local = (((rows & 15) << 8) + (columns & 255))[order]

    words, is_bits = payload_words(counts, tile_rows, tile_columns)
    payload = np.zeros((len(counts), _TILE_WORDS), np.int64)
    of_bits = is_bits.repeat(counts)
    payload.view(np.uint16)[_leading(np.where(is_bits, 0, counts), 4 * _TILE_WORDS)] = local[~of_bits]
    which = is_bits.nonzero()[0]
    if len(which):
        bits = local[of_bits]
        lacking = (TILE_COLUMNS - tile_columns[which]).astype(kind)
        if lacking.any():
            bits -= (bits >> 8) * lacking.repeat(counts[which])  # r * 256 + c -> r * columns + c
        is_set = np.zeros(len(which) * _TILE, np.bool_)
        is_set[bits + (np.arange(len(which)) * _TILE).repeat(counts[which])] = True
        payload[which] = np.packbits(is_set, bitorder="little").view(np.int64).reshape(-1, _TILE_WORDS)

    heads = np.zeros(num_count_words(num_rows, num_columns), np.int64)
    heads.view(np.uint16)[: len(counts)] = counts
    encoded = np.concatenate([heads, payload[_leading(words, _TILE_WORDS)]])
    return torch.from_numpy(encoded).to(flat.device), torch.from_numpy(order).to(flat.device)


def decode_slot(words: Tensor, num_rows: int, num_columns: int) -> tuple[Tensor, Tensor]:
    """Rows and columns that a segment names, in the order of the values; each ``[N]`` int64.

    Raises:
        ValueError: the words do not fit the counts at their beginning.
    """
    if words.numel() == 0:
        return words.new_zeros(0), words.new_zeros(0)
    counts = tile_counts(words, num_rows, num_columns)
    tile_rows, tile_columns = tiles(num_rows, num_columns)
    num_words, is_bits = payload_words(counts, tile_rows, tile_columns)
    given = words[num_count_words(num_rows, num_columns) :].cpu().numpy()
    if len(given) != num_words.sum():
        raise ValueError(f"the tiles should take {num_words.sum()} words, but there are {len(given)}")
    payload = np.zeros((len(counts), _TILE_WORDS), np.int64)
    payload[_leading(num_words, _TILE_WORDS)] = given

    kind = _narrow(num_rows, num_columns)
    local = np.empty(counts.sum(), kind)
    of_bits = is_bits.repeat(counts)
    local[~of_bits] = payload.view(np.uint16)[_leading(np.where(is_bits, 0, counts), 4 * _TILE_WORDS)]
    which = is_bits.nonzero()[0]
    if len(which):
        is_set = np.unpackbits(payload[which].view(np.uint8), bitorder="little").view(np.bool_)
        bits = is_set.nonzero()[0]
        if len(bits) != counts[which].sum():
            raise ValueError(f"tiles that count {counts[which].sum()} weights have {len(bits)} bits set")
        inside = (bits & (_TILE - 1)).astype(kind)
        lacking = (TILE_COLUMNS - tile_columns[which]).astype(kind)
        if lacking.any():
            owner = bits // _TILE
            inside += inside // tile_columns[which].astype(kind)[owner] * lacking[owner]
        local[of_bits] = inside

    spans = -(-num_columns // TILE_COLUMNS)
    first = np.arange(len(counts))
    rows = (first // spans * TILE_ROWS).repeat(counts) + (local >> 8)
    columns = (first % spans * TILE_COLUMNS).repeat(counts) + (local & 255)
    return torch.from_numpy(rows).to(words.device), torch.from_numpy(columns).to(words.device)
