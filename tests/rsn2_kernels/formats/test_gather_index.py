"""The gather index: an independent reader, written from the module's text, finds every weight where it stands."""

from __future__ import annotations

import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rsn2_kernels.formats import block_size_of, coordinates, empty_positions, gather_index, pack, value_starts
from rsn2_kernels.formats.packed import join
from rsn2_kernels.testing import seeded

SHAPES = {  # T, O, K
    "smallest": (1, 1, 1),
    "one_tile": (2, 16, 256),
    "one_tile_and_one": (3, 17, 257),
    "several_tiles": (3, 37, 700),
    "one_row": (2, 1, 600),
    "one_column": (2, 70, 1),
    "many_slots": (300, 9, 40),
}


def masks_of(num_slots: int, num_rows: int, num_columns: int, share: float, seed: int) -> torch.Tensor:
    generator = seeded(seed)
    owner = torch.randint(0, num_slots, (num_rows, num_columns), generator=generator)
    owner[torch.rand(num_rows, num_columns, generator=generator) >= share] = -1
    return torch.stack([owner == slot for slot in range(num_slots)])


def slow_read(words: list[int]) -> dict[int, list[tuple[int, int, int]]]:
    """By slot the (place in values, row, column) of every weight."""
    raw = struct.pack(f"<{len(words)}i", *words)
    version, num_slots, num_rows, num_columns, panels, spans, block, columns_at = words[:8]
    assert version == 1
    assert panels == (num_rows + 15) // 16 and spans == (num_columns + 255) // 256
    assert columns_at % 4 == 0 and block == [0, 16, 32, 64][len(words) % 4]
    found: dict[int, list[tuple[int, int, int]]] = {}
    last_place = 0
    for slot in range(num_slots):
        at, found[slot] = words[8 + slot], []
        if at == 0:
            continue
        assert at % 4 == 0 and 8 + num_slots <= at < columns_at
        for tile in range(panels * spans):
            panel, span = divmod(tile, spans)
            begin, end = words[at + 8 * panels * spans + tile :][:2]
            assert begin == last_place
            last_place = end
            starts = struct.unpack_from("<16H", raw, 4 * at + 32 * tile)
            bounds = [*starts, end - begin]
            assert bounds == sorted(bounds)
            for place, (first, last) in enumerate(zip(bounds, bounds[1:], strict=False)):
                row = 16 * panel + place
                assert first == last or row < num_rows
                for value in range(begin + first, begin + last):
                    found[slot].append((value, row, 256 * span + raw[4 * columns_at + value]))
    assert len(raw) >= 4 * columns_at + (last_place + 15) // 16 * 16 + 16
    return found


def check(masks: torch.Tensor) -> torch.Tensor:
    positions = pack(torch.zeros(masks.shape[1:]), masks).positions
    index = gather_index(positions)
    assert index.dtype == torch.int32 and index.dim() == 1
    starts = value_starts(positions)
    found = slow_read(index.tolist())
    for slot in range(len(masks)):
        rows, columns = (places.tolist() for places in coordinates(positions, slot))
        assert found[slot] == list(zip(range(starts[slot], starts[slot + 1]), rows, columns, strict=True))
    assert index[6] == block_size_of(index)
    return index


@pytest.mark.parametrize("share", [0.0, 0.03, 0.5, 1.0])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_reads_back(shape, share):
    check(masks_of(*shape, share, seed=1))


@given(st.integers(1, 6), st.integers(1, 40), st.integers(1, 600), st.floats(0, 1), st.integers(0, 2**31))
def test_reads_back_for_any_shape(num_slots, num_rows, num_columns, share, seed):
    check(masks_of(num_slots, num_rows, num_columns, share, seed))


def in_blocks(size: int, num_rows: int, num_columns: int, seed: int = 0) -> torch.Tensor:
    """Three slots that own blocks of this size; what is left of the matrix at its edges is free."""
    blocks = masks_of(3, num_rows // size, num_columns // size, 0.6, seed)
    masks = torch.zeros(3, num_rows, num_columns, dtype=torch.bool)
    whole = blocks.repeat_interleave(size, 1).repeat_interleave(size, 2)
    masks[:, : whole.shape[1], : whole.shape[2]] = whole
    return masks


@pytest.mark.parametrize(("num_rows", "num_columns"), [(128, 512), (200, 700), (64, 65)])
@pytest.mark.parametrize("size", [16, 32, 64])
def test_finds_the_size_of_blocks(size, num_rows, num_columns):
    masks = in_blocks(size, num_rows, num_columns)
    masks[0, :size, :size], masks[1:, :size, :size] = True, False
    masks[:, size : 2 * size] = False  # so that no larger blocks appear by chance
    index = check(masks)
    assert index[6] == size


def test_one_weight_more_or_less_is_no_block():
    masks = in_blocks(16, 64, 512)
    for change in (True, False):
        changed = masks.clone()
        row, column = (masks[0] != change).nonzero()[0].tolist()
        changed[:, row, column] = False
        changed[0, row, column] = change
        assert check(changed)[6] == 0


def test_blocks_must_be_aligned():
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[0, 8:24, 16:32] = True
    assert check(mask)[6] == 0
    assert check(mask.transpose(1, 2).contiguous())[6] == 0


def test_blocks_of_one_slot_are_not_those_of_all():
    masks = in_blocks(32, 64, 256)
    masks[:, :16, :16] = False
    masks[:2, :32, :32], masks[2, :16, :32] = False, False
    masks[2, :16, :16] = True
    assert check(masks)[6] == 16


def test_nothing_owned():
    index = gather_index(empty_positions(3, 20, 300))
    assert index.tolist() == [1, 3, 20, 300, 2, 2, 0, 12, 0, 0, 0, 0, *[0] * 4]
    assert block_size_of(index) == 0


def test_no_more_than_32_bits_of_places():
    """A header alone says how many weights there are; nothing that large is made."""
    positions = join([torch.zeros(0, dtype=torch.int64)], [2**31], 1 << 16, 1 << 16)
    with pytest.raises(ValueError, match="gather_index: 2147483648 owned weights .* 32-bit places hold fewer than"):
        gather_index(positions)
    tables = join([torch.zeros(0, dtype=torch.int64)] * 600, [1] * 600, 1 << 18, 1 << 18)
    with pytest.raises(ValueError, match="gather_index: 600 owned weights and .* words of tables are too many"):
        gather_index(tables)


def test_more_slots_than_a_plan_holds():
    positions = pack(torch.zeros(2, 3), torch.zeros(4097, 2, 3, dtype=torch.bool)).positions
    with pytest.raises(ValueError, match="gather_index: positions must have at most 4096 slots, got 4097"):
        gather_index(positions)
