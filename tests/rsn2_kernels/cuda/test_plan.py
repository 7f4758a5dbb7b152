"""The plan of a mixed batch: a stable counting sort, rows whose slot is out of range at the end."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from rsn2_kernels.formats import empty_positions

TILE_ROWS = 16


def plan(emulated: Any, slots: Tensor, num_slots: int) -> tuple[Tensor, Tensor, Tensor]:
    """Offsets, tiles and order that the kernel writes."""
    positions = empty_positions(num_slots, 16, 16)
    index = torch.tensor([1, num_slots, 16, 16, 1, 1, 0, 0], dtype=torch.int32)
    offsets, tiles, order = emulated.plan(slots, positions, index, TILE_ROWS).split(
        [num_slots + 2, num_slots + 2, len(slots)]
    )
    return offsets, tiles, order


def check(emulated: Any, slots: Tensor, num_slots: int) -> None:
    offsets, tiles, order = plan(emulated, slots, num_slots)
    groups = torch.where((slots >= 0) & (slots < num_slots), slots, num_slots)
    assert torch.equal(order, groups.sort(stable=True).indices.int())
    counts = groups.bincount(minlength=num_slots + 1)
    zero = torch.zeros(1, dtype=torch.int64)
    assert torch.equal(offsets.long(), torch.cat([zero, counts.cumsum(0)]))
    assert torch.equal(tiles.long(), torch.cat([zero, (-(-counts // TILE_ROWS)).cumsum(0)]))


@pytest.mark.parametrize("num_rows", [1, 31, 1000, 1025, 2500])
@pytest.mark.parametrize("num_slots", [1, 2, 33, 300])
def test_a_stable_counting_sort(emulated, order, num_rows, num_slots):
    slots = torch.randint(-1, num_slots + 1, (num_rows,), generator=torch.Generator().manual_seed(num_rows))
    check(emulated, slots, num_slots)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.integers(-(2**62), 2**62) | st.integers(0, 5), max_size=70), st.integers(1, 6))
def test_any_ids(emulated, ids, num_slots):
    check(emulated, torch.tensor(ids, dtype=torch.int64), num_slots)


def test_ids_of_any_stride(emulated):
    slots = torch.tensor([2, 0, 1, 1, 2]).repeat_interleave(3)[::3]
    assert not slots.is_contiguous()
    check(emulated, slots, 3)


def test_the_largest_number_of_slots(emulated):
    check(emulated, torch.tensor([4095, 0, 4095, 4096, 17]), 4096)
