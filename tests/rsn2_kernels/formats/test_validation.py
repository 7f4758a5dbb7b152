"""Every invariant of the packed format, broken once: validate says which."""

from __future__ import annotations

import pytest
import torch

from rsn2_kernels.formats import join, pack, problems, segment, validate, value_starts
from rsn2_kernels.testing import seeded

T, O, K = 2, 20, 300  # noqa: E741  (two tiles by two: 20 x 300 is 16 + 4 rows, 256 + 44 columns)


@pytest.fixture
def packed():
    generator = seeded(0)
    owner = torch.randint(0, 30, (O, K), generator=generator)  # slot 0: sparse, offsets; slot 1: dense, bits
    masks = torch.stack([owner == 0, owner >= 10])
    return pack(torch.randn(O, K, generator=generator), masks)


def broken(packed, **words):
    positions = packed.positions.clone()
    for place, word in words.items():
        positions[int(place.removeprefix("word_"))] = word
    return positions


def test_sound(packed):
    assert problems(packed.values, packed.positions) == []
    validate(packed.values, packed.positions)


def test_dtypes_and_shapes(packed):
    values, positions = packed.values, packed.positions
    for bad, message in (
        (positions.int(), r"positions must be a 1-D int64 tensor, got \[\d+\] torch.int32"),
        (positions[None], r"positions must be a 1-D int64 tensor, got \[1, \d+\] torch.int64"),
        (positions[:3], "positions must have a header of at least 4 words, got 3"),
    ):
        with pytest.raises(ValueError, match="packed weight: " + message):
            validate(values, bad)
    for bad in (values.long(), values[None]):
        with pytest.raises(ValueError, match="packed weight: values must be a 1-D float tensor"):
            validate(bad, positions)


@pytest.mark.parametrize(
    ("place", "word", "message"),
    [
        (0, 2, "format version must be 1, got 2"),
        (0, 0, "format version must be 1, got 0"),
        (1, -1, "header T=-1"),
        (1, 10**6, "header T=1000000"),
        (2, -1, "O=-1"),
        (3, -5, "K=-5"),
        (4, 9, "word_starts must ascend from 10"),
        (5, 10**9, "word_starts must ascend from 10"),
        (6, 11, "word_starts must ascend from 10"),
        (7, 1, "value_starts must ascend from 0"),
        (8, 10**9, "value_starts must ascend from 0"),
        (9, 1, "value_starts must ascend from 0"),
    ],
)
def test_header(packed, place, word, message):
    with pytest.raises(ValueError, match=message):
        validate(packed.values, broken(packed, **{f"word_{place}": word}))


def test_values_missing(packed):
    with pytest.raises(ValueError, match="value_starts must ascend from 0"):
        validate(packed.values[:-1], packed.positions)


def rejoined(packed, slot: int, words: torch.Tensor, num_owned: int | None = None) -> torch.Tensor:
    """Positions in which one slot has another segment, with a header that fits it."""
    starts = value_starts(packed.positions)
    counts = [last - first for first, last in zip(starts, starts[1:], strict=False)]
    segments = [segment(packed.positions, s) for s in range(T)]
    segments[slot] = words
    counts[slot] = counts[slot] if num_owned is None else num_owned
    return join(segments, counts, O, K)


def problem_of(packed, slot: int, words: torch.Tensor) -> str:
    (found,) = problems(packed.values, rejoined(packed, slot, words))
    assert found.startswith(f"slot {slot}: ")
    return found


def test_segment_missing(packed):
    assert "no segment, but" in problem_of(packed, 1, torch.zeros(0, dtype=torch.int64))


def test_segment_too_short_for_its_counts():
    packed = pack(torch.zeros(100, 300), torch.ones(1, 100, 300, dtype=torch.bool))
    positions = join([packed.positions[8:9]], [30000], 100, 300)
    found = problems(packed.values, positions)
    assert found == ["slot 0: the segment of 1 words is too short for the counts of 14 tiles"]


@pytest.mark.parametrize("slot", [0, 1])
def test_segment_of_another_length(packed, slot):
    words = segment(packed.positions, slot)
    assert f"must have {len(words)} words, got {len(words) - 1}" in problem_of(packed, slot, words[:-1])
    longer = torch.cat([words, words.new_zeros(1)])
    assert f"must have {len(words)} words, got {len(words) + 1}" in problem_of(packed, slot, longer)


def test_counts_that_do_not_add_up(packed):
    words = segment(packed.positions, 1).clone()
    words[0] += 1
    assert "weights, but it has" in problem_of(packed, 1, words)


def test_tile_fuller_than_full(packed):
    words = segment(packed.positions, 1).clone()
    words[0] = (words[0] & ~0xFFFF) | 4097
    assert "a tile counts more weights than it has places" in problem_of(packed, 1, words)


def test_bits_that_contradict_their_count(packed):
    words = segment(packed.positions, 1).clone()
    words[1] ^= 1
    assert "do not decode" in problem_of(packed, 1, words)


def test_bit_moved_beyond_the_matrix():
    packed = pack(torch.zeros(2, 3), torch.ones(1, 2, 3, dtype=torch.bool))
    positions = packed.positions.clone()
    positions[-1] = 0b1011111
    assert problems(packed.values, positions) == ["slot 0: a position lies outside the matrix"]


def test_offset_beyond_the_matrix(packed):
    words = segment(packed.positions, 0).clone()
    words[1] = (words[1] & ~0xFFFF) | 0xFFFF
    assert "a position lies outside the matrix" in problem_of(packed, 0, words)


def test_offsets_not_ascending(packed):
    words = segment(packed.positions, 0).clone()
    first, second = int(words[1]) & 0xFFFF, int(words[1]) >> 16 & 0xFFFF
    words[1] = (words[1] & ~0xFFFFFFFF) | first << 16 | second
    assert "positions are not ascending, repeat" in problem_of(packed, 0, words)
    words[1] = (words[1] & ~0xFFFFFFFF) | first << 16 | first
    assert "positions are not ascending, repeat" in problem_of(packed, 0, words)


def test_padding_that_is_not_zero():
    mask = torch.zeros(1, 16, 256, dtype=torch.bool)
    mask[0, 0, :5] = True
    packed = pack(torch.zeros(16, 256), mask)
    positions = packed.positions.clone()
    positions[-1] |= 7 << 32
    assert "leave padding that is not zero" in problems(packed.values, positions)[0]


def test_padding_of_the_counts_that_is_not_zero():
    packed = pack(torch.zeros(2, 3), torch.ones(1, 2, 3, dtype=torch.bool))
    positions = packed.positions.clone()
    positions[8] |= 1 << 16
    assert "leave padding that is not zero" in problems(packed.values, positions)[0]


def test_two_owners(packed):
    starts = value_starts(packed.positions)
    words = segment(packed.positions, 1)
    num_owned = starts[2] - starts[1]
    values = torch.zeros(2 * num_owned)
    assert problems(values, join([words, words], [num_owned] * 2, O, K)) == [
        f"slot 1: {num_owned} of its positions belong to an earlier slot too"
    ]


def test_all_of_several_problems_are_named(packed):
    first, second = segment(packed.positions, 0), segment(packed.positions, 1)
    starts = value_starts(packed.positions)
    positions = join([first[:-1], second[:-1]], [starts[1], starts[2] - starts[1]], O, K)
    with pytest.raises(ValueError, match="slot 0: the segment must have.*; slot 1: the segment must have"):
        validate(packed.values, positions)


@pytest.mark.parametrize("seed", range(30))
def test_a_changed_bit_is_found_or_gives_another_sound_weight(packed, seed):
    """validate never fails otherwise than by saying what is wrong, whatever word is spoilt."""
    generator = seeded(seed)
    place = int(torch.randint(0, len(packed.positions), (), generator=generator))
    bit = int(torch.randint(0, 64, (), generator=generator))
    positions = packed.positions.clone()
    positions[place] ^= -(2**63) if bit == 63 else 1 << bit
    assert isinstance(problems(packed.values, positions), list)
