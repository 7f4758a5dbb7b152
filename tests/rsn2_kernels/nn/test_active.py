from __future__ import annotations

import threading
from itertools import pairwise

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rsn2_kernels.nn import TaskLinear, active, active_slots, convert_
from rsn2_kernels.nn._gather import runs


def test_blocks_nest_and_end_with_an_error_too():
    assert active_slots() is None
    with active(1):
        with active(torch.tensor([0, 2])):
            assert active_slots().tolist() == [0, 2]
        assert active_slots().item() == 1
        with pytest.raises(KeyError), active(3):
            raise KeyError
        assert active_slots().item() == 1
    assert active_slots() is None


def test_slots_passed_win_over_active_ones(draw):
    layer = TaskLinear(5, 4, num_slots=2)
    layer.claim(0, draw(layer, 0.5))
    x = torch.randn(3, 5)
    with active(1):
        assert torch.equal(layer(x, 0), layer.to_dense(0)(x)) or torch.allclose(layer(x, 0), layer.to_dense(0)(x))
        assert not torch.allclose(layer(x), layer(x, 0))


@pytest.mark.parametrize(
    ("slots", "error", "message"),
    [
        (True, TypeError, "slots must be an int or an int64 tensor, got bool"),
        ("a", TypeError, "got 'a'"),
        (torch.tensor([0], dtype=torch.int32), ValueError, r"int64 of shape \[\] or \[B\], got torch.int32 \[1\]"),
        (torch.zeros(2, 1, dtype=torch.int64), ValueError, r"got torch.int64 \[2, 1\]"),
    ],
)
def test_bad_input(slots, error, message):
    with pytest.raises(error, match=message):
        active(slots)
    assert active_slots() is None


class _NoCopies(TorchDispatchMode):
    """On a GPU a copy from the host waits for the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert "copy" not in str(func), func
        return func(*args, **(kwargs or {}))


def test_an_active_number_comes_to_another_device_without_a_copy():
    layer = TaskLinear(5, 4, num_slots=2)
    with active(1), _NoCopies():
        slots = layer.resolve_slots(None, torch.empty(3, 5, device="meta"))
    assert slots.device.type == "meta" and slots.shape == () and slots.dtype == torch.int64
    with active(torch.tensor([0, 1, 1])), _NoCopies(), pytest.raises(AssertionError, match="_to_copy"):
        layer.resolve_slots(None, torch.empty(3, 5, device="meta"))


@pytest.mark.parametrize("numbers", [[], [4], [0, 1, 2], [0, 2, 3, 7, 9, 10]], ids=str)
def test_runs_of_neighbours(numbers):
    found = runs(numbers)
    assert [number for first, last, _ in found for number in range(first, last)] == numbers
    assert [place for _, _, place in found] == [numbers.index(first) for first, _, _ in found]
    assert all(last < first for (_, last, _), (first, _, _) in pairwise(found))


def test_two_threads_with_different_slots_on_one_model(models, claim_share):
    model = models.ResNet18(blocks=(1, 1))
    convert_(model, 2)
    for slot in range(2):
        claim_share(model, slot)
    model.eval()
    x = torch.randn(2, 3, 6, 6)
    expected, found = [], [[], []]
    for slot in range(2):
        with active(slot), torch.no_grad():
            expected.append(model(x))
    barrier = threading.Barrier(2, timeout=60)

    def work(slot: int) -> None:
        with active(slot), torch.no_grad():
            for _ in range(5):
                barrier.wait()
                found[slot].append(model(x))

    threads = [threading.Thread(target=work, args=(slot,)) for slot in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for slot in range(2):
        assert len(found[slot]) == 5 and all(torch.equal(y, expected[slot]) for y in found[slot])
    assert active_slots() is None
