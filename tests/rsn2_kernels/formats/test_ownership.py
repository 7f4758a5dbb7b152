"""Owner maps and exact shares."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rsn2_kernels.formats import FREE, FREE_WIDE, empty_positions, is_owned, num_kept, owner_map, pack
from rsn2_kernels.testing import seeded


@pytest.mark.parametrize(
    ("keep", "numel", "expected"),
    [
        (0.1, 1000, 100),
        (0.1, 999, 99),
        ("0.1", 1000, 100),
        (Decimal("0.1"), 1000, 100),
        (Fraction(1, 3), 300, 100),
        (Fraction(1, 3), 299, 99),
        (0.29, 100, 29),  # 0.29 * 100 is 28.999999999999996 in floats
        (0.57, 100, 57),
        ("1e-3", 1000, 1),
        (1, 7, 7),
        (1.0, 7, 7),
        (0.2, 11_075_584, 2_215_116),
        (numpy.float64(0.1), 1000, 100),
        (numpy.float32(0.1), 1000, 100),
        (0.999999, 10, 9),
    ],
    ids=str,
)
def test_num_kept_is_the_floor_of_the_exact_product(keep, numel, expected):
    count = num_kept(keep, numel)
    assert type(count) is int and count == expected


@pytest.mark.parametrize("numel", [288, 65_536, 11_075_584])
def test_five_slots_fit_where_their_shares_make_the_whole(numel):
    count = num_kept(0.2, numel)
    assert count == numel // 5
    assert 5 * count <= numel < 5 * (count + 1)


@given(st.integers(1, 10**9), st.integers(1, 10**4))
def test_any_decimal_share(numel, share):
    keep = share / 10**4
    expected = share * numel // 10**4
    if expected == 0:
        with pytest.raises(ValueError, match="is less than one weight"):
            num_kept(keep, numel)
    else:
        assert num_kept(keep, numel) == expected


@pytest.mark.parametrize("keep", [0, 0.0, -0.1, 1.0000001, 2, "1.5", Decimal(-1), Fraction(3, 2)], ids=repr)
def test_keep_outside_its_range(keep):
    with pytest.raises(ValueError, match=r"keep must lie in \(0, 1\], got "):
        num_kept(keep, 1000)


NO_NUMBERS = [float("nan"), float("inf"), "ten", "nan", None, [0.1], True, False, torch.tensor(0.1)]


@pytest.mark.parametrize("keep", NO_NUMBERS, ids=repr)
def test_keep_that_is_no_number(keep):
    with pytest.raises(ValueError, match=r"keep must be a number in \(0, 1\], got "):
        num_kept(keep, 1000)


@pytest.mark.parametrize("keep", [1e-4, "0.000999", 5e-324])
def test_keep_too_small_for_one_weight(keep):
    with pytest.raises(ValueError, match="of 1000 weights is less than one weight; keep must be at least 1/1000"):
        num_kept(keep, 1000)


@pytest.mark.parametrize(
    ("num_slots", "dtype", "free"),
    [(1, torch.uint8, FREE), (255, torch.uint8, FREE), (256, torch.int16, FREE_WIDE), (300, torch.int16, FREE_WIDE)],
)
def test_owner_map(num_slots, dtype, free):
    owner = torch.randint(-1, num_slots, (20, 300), generator=seeded(0))
    owner[0, :3] = torch.tensor([num_slots - 1, 0, -1])
    positions = pack(torch.zeros(20, 300), torch.stack([owner == slot for slot in range(num_slots)])).positions
    found = owner_map(positions)
    assert found.dtype == dtype
    assert torch.equal(found.long(), owner.masked_fill(owner < 0, free))
    assert torch.equal(is_owned(positions), owner >= 0)


def test_owner_map_of_an_unclaimed_layer():
    positions = empty_positions(3, 4, 5)
    assert (owner_map(positions) == FREE).all()
    assert not is_owned(positions).any()
