"""Every invariant of the packed format, checked on demand and never on the way of a product."""

from __future__ import annotations

import torch
from torch import Tensor

from rsn2_kernels.formats.coding import (
    decode_slot,
    encode_slot,
    num_count_words,
    payload_words,
    tile_counts,
    tiles,
)
from rsn2_kernels.formats.packed import FORMAT_VERSION


def problems(values: Tensor, positions: Tensor) -> list[str]:
    """What is wrong with a packed weight, one sentence each; empty when it is sound.

    Checks the header, the starts, the length of every segment, the order of positions and that no position belongs to
    two slots (Eq. 3 of the paper).
    """
    if positions.dtype != torch.int64 or positions.dim() != 1:
        return [f"positions must be a 1-D int64 tensor, got {list(positions.shape)} {positions.dtype}"]
    if values.dim() != 1 or not values.is_floating_point():
        return [f"values must be a 1-D float tensor, got {list(values.shape)} {values.dtype}"]
    if len(positions) < 4:
        return [f"positions must have a header of at least 4 words, got {len(positions)}"]
    version, num_slots, num_rows, num_columns = positions[:4].tolist()
    if version != FORMAT_VERSION:
        return [f"format version must be {FORMAT_VERSION}, got {version}"]
    if min(num_slots, num_rows, num_columns) < 0 or len(positions) < 6 + 2 * num_slots:
        return [f"header T={num_slots}, O={num_rows}, K={num_columns} does not fit {len(positions)} words"]
    found = []
    word_starts = positions[4 : 5 + num_slots].tolist()
    starts = positions[5 + num_slots : 6 + 2 * num_slots].tolist()
    if word_starts[0] != 6 + 2 * num_slots or word_starts[-1] != len(positions) or word_starts != sorted(word_starts):
        return [f"word_starts must ascend from {6 + 2 * num_slots} to {len(positions)}, got {word_starts}"]
    if starts[0] != 0 or starts[-1] != len(values) or starts != sorted(starts):
        return [f"value_starts must ascend from 0 to {len(values)}, got {starts}"]
    taken = torch.zeros(num_rows * num_columns, dtype=torch.bool, device=positions.device)
    for slot in range(num_slots):
        words = positions[word_starts[slot] : word_starts[slot + 1]]
        owned = starts[slot + 1] - starts[slot]
        problem, flat = _segment_problem(words, owned, num_rows, num_columns)
        if problem:
            found.append(f"slot {slot}: {problem}")
            continue
        if bool(taken[flat].any()):
            found.append(f"slot {slot}: {int(taken[flat].sum())} of its positions belong to an earlier slot too")
        taken[flat] = True
    return found


def _segment_problem(words: Tensor, owned: int, num_rows: int, num_columns: int) -> tuple[str, Tensor]:
    flat = words.new_zeros(0)
    if len(words) == 0:
        return ("" if owned == 0 else f"no segment, but {owned} values"), flat
    tile_rows, tile_columns = tiles(num_rows, num_columns, words.device)
    heads = num_count_words(num_rows, num_columns)
    if len(words) < heads:
        return f"the segment of {len(words)} words is too short for the counts of {len(tile_rows)} tiles", flat
    counts = tile_counts(words, num_rows, num_columns)
    if bool((counts > tile_rows * tile_columns).any()):
        return "a tile counts more weights than it has places", flat
    if int(counts.sum()) != owned:
        return f"its tiles count {int(counts.sum())} weights, but it has {owned} values", flat
    payload, _ = payload_words(counts, tile_rows, tile_columns)
    expected = heads + int(payload.sum())
    if len(words) != expected:
        return f"the segment must have {expected} words, got {len(words)}", flat
    try:
        rows, columns = decode_slot(words, num_rows, num_columns)
    except ValueError as error:  # set bits and counts contradict each other
        return f"the tiles do not decode: {error}", flat
    if bool(((rows < 0) | (rows >= num_rows) | (columns < 0) | (columns >= num_columns)).any()):
        return "a position lies outside the matrix", flat
    flat = rows * num_columns + columns
    ordered = flat.sort().values
    again, _ = encode_slot(ordered, num_rows, num_columns)
    if bool((ordered[1:] == ordered[:-1]).any()) or not torch.equal(again, words):
        return "positions are not ascending, repeat, or leave padding that is not zero", flat
    return "", flat


def validate(values: Tensor, positions: Tensor) -> None:
    """Raise ValueError naming every broken invariant of a packed weight."""
    found = problems(values, positions)
    if found:
        raise ValueError("packed weight: " + "; ".join(found))
