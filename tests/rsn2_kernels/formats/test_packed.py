"""The packed format: what goes in comes out, bit by bit as the module's text describes it."""

from __future__ import annotations

import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rsn2_kernels.formats import (
    coordinates,
    empty_positions,
    encode_slot,
    join,
    pack,
    segment,
    shape_of,
    unpack,
    validate,
    value_starts,
)
from rsn2_kernels.testing import seeded

SHAPES = {  # T, O, K
    "smallest": (1, 1, 1),
    "one_tile": (2, 16, 256),
    "one_tile_and_one": (3, 17, 257),
    "several_tiles": (3, 37, 700),
    "one_row": (2, 1, 600),
    "one_column": (2, 70, 1),
    "many_slots": (12, 20, 300),
    "more_than_uint8_slots": (300, 9, 40),
}


def masks_of(num_slots: int, num_rows: int, num_columns: int, share: float, seed: int) -> torch.Tensor:
    """Disjoint random masks that together own ``share`` of the weights."""
    generator = seeded(seed)
    owner = torch.randint(0, num_slots, (num_rows, num_columns), generator=generator)
    owner[torch.rand(num_rows, num_columns, generator=generator) >= share] = -1
    return torch.stack([owner == slot for slot in range(num_slots)])


def slow_decode(positions: list[int]) -> list[list[tuple[int, int]]]:
    """Every slot's (row, column) pairs in value order, written from the text of rsn2_kernels.formats.packed alone."""
    raw = struct.pack(f"<{len(positions)}q", *positions)

    def uint16(word: int, place: int) -> int:
        return int.from_bytes(raw[8 * word + 2 * place : 8 * word + 2 * place + 2], "little")

    version, num_slots, num_rows, num_columns = positions[:4]
    assert version == 1
    word_starts = positions[4 : 4 + num_slots + 1]
    starts = positions[5 + num_slots : 5 + 2 * num_slots + 1]
    assert word_starts[0] == 6 + 2 * num_slots and word_starts[-1] == len(positions)
    slots = []
    for slot in range(num_slots):
        pairs: list[tuple[int, int]] = []
        word = word_starts[slot]
        if word < word_starts[slot + 1]:
            tiles = [(r, c) for r in range(0, num_rows, 16) for c in range(0, num_columns, 256)]
            counts = [uint16(word, tile) for tile in range(len(tiles))]
            word += (len(tiles) + 3) // 4
            for (first_row, first_column), count in zip(tiles, counts, strict=True):
                rows, columns = min(16, num_rows - first_row), min(256, num_columns - first_column)
                if count == 0:
                    continue
                if (count + 3) // 4 < (rows * columns + 63) // 64:
                    offsets = [uint16(word, place) for place in range(count)]
                    assert offsets == sorted(set(offsets))
                    local = [divmod(offset, 256) for offset in offsets]
                    word += (count + 3) // 4
                else:
                    bits = int.from_bytes(raw[8 * word : 8 * word + 8 * ((rows * columns + 63) // 64)], "little")
                    local = [divmod(bit, columns) for bit in range(bits.bit_length()) if bits >> bit & 1]
                    word += (rows * columns + 63) // 64
                assert len(local) == count
                pairs += [(first_row + r, first_column + c) for r, c in local]
        assert word == word_starts[slot + 1]
        assert len(pairs) == starts[slot + 1] - starts[slot]
        slots.append(pairs)
    return slots


def check_round_trip(masks: torch.Tensor, seed: int) -> None:
    num_slots, num_rows, num_columns = masks.shape
    weight = torch.randn(num_rows, num_columns, generator=seeded(seed))
    packed = pack(weight, masks)
    validate(packed.values, packed.positions)
    assert packed.shape == shape_of(packed.positions) == tuple(masks.shape)
    assert packed.positions.dtype == torch.int64 and packed.values.dtype == weight.dtype
    starts = value_starts(packed.positions)
    assert starts[0] == 0 and starts[-1] == len(packed.values)
    pairs = slow_decode(packed.positions.tolist())
    for slot in range(num_slots):
        assert torch.equal(unpack(packed.values, packed.positions, slot), weight.masked_fill(~masks[slot], 0))
        rows, columns = coordinates(packed.positions, slot)
        assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == pairs[slot]
        assert torch.equal(weight[rows, columns], packed.values[starts[slot] : starts[slot + 1]])
        assert set(pairs[slot]) == set(map(tuple, masks[slot].nonzero().tolist()))
        order = [(r // 16, c // 256, r, c) for r, c in pairs[slot]]
        assert order == sorted(order)


@pytest.mark.parametrize("share", [0.0, 0.03, 0.5, 1.0])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_round_trip(shape, share):
    check_round_trip(masks_of(*shape, share, seed=1), seed=2)


SHARES = st.sampled_from([0, 0.01, 0.06, 0.2, 0.7, 1]) | st.floats(0, 1)


@given(st.integers(1, 12), st.integers(1, 40), st.integers(1, 600), SHARES, st.integers(0, 2**31))
def test_round_trip_of_any_shape(num_slots, num_rows, num_columns, share, seed):
    check_round_trip(masks_of(num_slots, num_rows, num_columns, share, seed), seed)


@given(st.integers(1, 20), st.integers(1, 300), st.data())
def test_any_set_of_positions(num_rows, num_columns, data):
    """Not only random masks: runs, single weights, corners, as the library of examples likes them."""
    owned = data.draw(st.sets(st.integers(0, num_rows * num_columns - 1), max_size=300))
    mask = torch.zeros(1, num_rows * num_columns, dtype=torch.bool)
    mask[0, sorted(owned)] = True
    check_round_trip(mask.view(1, num_rows, num_columns), seed=0)


def test_a_slot_that_owns_nothing_has_no_segment():
    masks = masks_of(3, 20, 300, 0.5, seed=0)
    masks[1] = False
    packed = pack(torch.randn(20, 300), masks)
    assert segment(packed.positions, 1).numel() == 0
    assert len(coordinates(packed.positions, 1)[0]) == 0
    assert not unpack(packed.values, packed.positions, 1).any()
    validate(packed.values, packed.positions)


def test_words_of_a_small_example():
    """The text's table, word for word, for a 2 x 3 matrix of which slot 1 owns (0, 1), (0, 2) and (1, 0)."""
    mask = torch.tensor([[0, 1, 1], [1, 0, 0]], dtype=torch.bool)
    packed = pack(torch.arange(6.0).view(2, 3), torch.stack([torch.zeros_like(mask), mask]))
    header = [1, 2, 2, 3]
    word_starts, starts = [10, 10, 12], [0, 0, 3]
    counts, bits = 3, 0b001110
    assert packed.positions.tolist() == [*header, *word_starts, *starts, counts, bits]
    assert packed.values.tolist() == [1, 2, 3]


def test_words_of_a_tile_of_offsets():
    mask = torch.zeros(1, 16, 256, dtype=torch.bool)
    for row, column in ((0, 3), (1, 0), (15, 255), (2, 2), (7, 9)):
        mask[0, row, column] = True
    packed = pack(torch.zeros(16, 256), mask)
    offsets = [3, 256, 2 * 256 + 2, 7 * 256 + 9, 15 * 256 + 255]
    words = [sum(offset << 16 * place for place, offset in enumerate(offsets[:4])), offsets[4]]
    assert packed.positions.tolist() == [1, 1, 16, 256, 8, 11, 0, 5, 5, *words]


@pytest.mark.parametrize(("count", "is_offsets"), [(252, True), (253, False), (256, False)])
def test_a_tile_takes_the_smaller_form(count, is_offsets):
    """64 words of bits against count / 4 words of offsets; bits when equal."""
    mask = torch.zeros(1, 16 * 256, dtype=torch.bool)
    mask[0, torch.randperm(4096)[:count]] = True
    words = segment(pack(torch.zeros(16, 256), mask.view(1, 16, 256)).positions, 0)
    assert len(words) == 1 + (63 if is_offsets else 64)


def test_full_tile_uses_the_sign_bit():
    packed = pack(torch.zeros(16, 256), torch.ones(1, 16, 256, dtype=torch.bool))
    assert packed.positions[8:].tolist() == [4096, *[-1] * 64]


@pytest.mark.parametrize("share", [0.001, 0.01, 0.05, 0.0625, 0.07, 0.1, 0.25, 1.0])
@pytest.mark.parametrize("shape", [(100, 1000), (256, 2304), (16, 256), (33, 513)], ids=str)
def test_bytes_are_bounded(shape, share):
    num_rows, num_columns = shape
    mask = masks_of(1, num_rows, num_columns, share, seed=3)
    num_owned, num_tiles = int(mask.sum()), -(-num_rows // 16) * -(-num_columns // 256)
    num_bytes = 8 * len(segment(pack(torch.zeros(shape), mask).positions, 0))
    padding = 8 * num_tiles + 2 * num_tiles + 6
    assert num_bytes <= min(num_rows * num_columns / 8, 2 * num_owned) + padding


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_values_keep_their_dtype(dtype):
    masks = masks_of(2, 5, 7, 1.0, seed=0)
    packed = pack(torch.randn(5, 7).to(dtype), masks)
    assert packed.values.dtype == dtype
    assert unpack(packed.values, packed.positions, 1).dtype == dtype


def test_a_weight_of_its_own_for_each_slot():
    masks = masks_of(3, 10, 20, 0.8, seed=0)
    weight = torch.randn(3, 10, 20)
    packed = pack(weight, masks)
    for slot in range(3):
        assert torch.equal(unpack(packed.values, packed.positions, slot), weight[slot] * masks[slot])


def test_pack_refuses():
    masks = torch.ones(2, 3, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match="pack: masks must be disjoint, but some positions belong to two slots"):
        pack(torch.zeros(3, 4), masks)
    with pytest.raises(ValueError, match=r"pack: masks must be bool \[T, O, K\], got torch.float32 \[2, 3, 4\]"):
        pack(torch.zeros(3, 4), masks.float())
    with pytest.raises(ValueError, match=r"pack: masks must be bool \[T, O, K\], got torch.bool \[3, 4\]"):
        pack(torch.zeros(3, 4), masks[0])
    with pytest.raises(ValueError, match=r"pack: weight must have shape \[2, 3, 4\] or \[3, 4\], got \[4, 3\]"):
        pack(torch.zeros(4, 3), masks)


def test_empty_positions():
    positions = empty_positions(3, 10, 20)
    assert positions.tolist() == [1, 3, 10, 20, 12, 12, 12, 12, 0, 0, 0, 0]
    validate(torch.zeros(0), positions)


def test_slot_out_of_range():
    positions = empty_positions(3, 10, 20)
    for slot in (-1, 3):
        with pytest.raises(IndexError, match=rf"slot must be in 0\.\.2, got {slot}"):
            segment(positions, slot)
        with pytest.raises(IndexError, match=rf"slot must be in 0\.\.2, got {slot}"):
            coordinates(positions, slot)


def test_another_format_version():
    positions = empty_positions(1, 2, 3)
    positions[0] = 2
    with pytest.raises(ValueError, match="format version must be 1, got 2"):
        shape_of(positions)


def test_segments_can_be_joined_anew():
    """As adding a slot or claiming for one of them does: the segments of the others are kept as they are."""
    masks = masks_of(3, 20, 300, 0.6, seed=0)
    packed = pack(torch.randn(20, 300), masks)
    starts = value_starts(packed.positions)
    counts = [last - first for first, last in zip(starts, starts[1:], strict=False)]
    segments = [segment(packed.positions, slot) for slot in range(3)]
    assert torch.equal(join(segments, counts, 20, 300), packed.positions)
    flat = (~masks.any(0)).flatten().nonzero().squeeze(1)
    words, order = encode_slot(flat, 20, 300)
    assert sorted(order.tolist()) == list(range(len(flat)))
    positions = join([*segments, words], [*counts, len(flat)], 20, 300)
    validate(torch.zeros(20 * 300), positions)
    rows, columns = coordinates(positions, 3)
    assert torch.equal(rows * 300 + columns, flat[order])
