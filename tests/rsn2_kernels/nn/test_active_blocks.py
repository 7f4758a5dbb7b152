"""Blocks that nest, of one object or several, in one thread or several."""

from __future__ import annotations

import contextlib
import threading

import pytest
import torch

from rsn2_kernels.nn import TaskLinear, active, active_slots


def test_one_object_in_nested_blocks():
    one = active(1)
    with one, active(0):
        with one:
            with one:
                assert active_slots().item() == 1
            assert active_slots().item() == 1
        assert active_slots().item() == 0
    assert active_slots() is None
    with one:
        assert active_slots().item() == 1
    assert active_slots() is None


def test_one_object_in_two_threads():
    shared, seen = active(1), []
    first, second = threading.Event(), threading.Event()

    def work() -> None:
        with shared:
            first.set()
            second.wait(60)
        seen.append(active_slots())

    with active(0):
        thread = threading.Thread(target=work)
        thread.start()
        first.wait(60)
        with shared:
            second.set()
            thread.join()
            assert active_slots().item() == 1
        assert active_slots().item() == 0
    assert seen == [None] and active_slots() is None


def test_blocks_that_end_in_the_order_they_began():
    blocks = [contextlib.ExitStack() for _ in range(2)]
    for number, block in enumerate(blocks):
        block.enter_context(active(number))
    for block in blocks:
        block.close()
    assert active_slots() is None


def test_a_compiled_function_opens_blocks_of_one_object(draw):
    layer = TaskLinear(5, 4, num_slots=2)
    for slot in range(2):
        layer.claim(slot, draw(layer, 0.4))
    x = torch.randn(3, 5)

    def nested(x: torch.Tensor, slot: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        block = active(slot)
        with block, active(1 - slot):
            with block:
                inner = layer(x)
            return inner, layer(x)

    compiled = torch.compile(nested, fullgraph=True, backend="eager")
    for slot in range(2):
        with active(slot):
            inner, outer = compiled(x, torch.tensor(slot))
            assert active_slots().item() == slot
        assert torch.equal(inner, layer(x, slot)) and torch.equal(outer, layer(x, 1 - slot))
    assert active_slots() is None


def test_integers_of_other_kinds():
    class Number(int):
        pass

    np = pytest.importorskip("numpy")
    for number in (np.int64(1), np.uint8(1), np.arange(2)[1], Number(1)):
        with active(number):
            assert active_slots().item() == 1 and active_slots().dtype == torch.int64


@pytest.mark.parametrize(
    ("slots", "message"),
    [
        ("digits", "an int or an int64 tensor, since a name is known to one layer only, got 'digits'"),
        (1.0, "an int or an int64 tensor, got float"),
        ([0, 1], "an int or an int64 tensor, got list"),
        (None, "an int or an int64 tensor, got NoneType"),
    ],
)
def test_bad_input(slots, message):
    with pytest.raises(TypeError, match=message):
        active(slots)
    assert active_slots() is None
