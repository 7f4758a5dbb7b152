"""Ids that no slot has, offsets beyond 2^31, and how rows are grouped, in Triton's interpreter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime import interpreter
from triton.runtime.errors import InterpreterError

from rsn2_kernels.testing import assert_as_accurate
from rsn2_kernels.triton_kernels import _launch
from rsn2_kernels.triton_kernels._device import pixel_of
from rsn2_kernels.triton_kernels._plan import plan, rows_of

# ---- slots that are not there ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("slot", [-1, 3, 2**40, -(2**63)])
def test_slot_out_of_range_is_an_error_on_the_cpu(make_linear, slot):
    problem = make_linear("divides_nothing")
    for slots in (torch.tensor(slot), torch.tensor([0, 1, slot, 2, 0])):
        with pytest.raises(IndexError, match=rf"task_linear: slots must be in 0\.\.2, got {slot}"):
            replace(problem, slots=slots).forward()


@pytest.mark.parametrize("form", ["lists", "tiles"])
@pytest.mark.parametrize(
    "slot", [pytest.param(-1, marks=pytest.mark.slow), 3, pytest.param(2**40, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("activation", ["none", "relu"])
def test_and_nan_on_a_device(make_small, make_frozen, use_form, monkeypatch, slot, form, activation):
    use_form(form)
    problem = make_small(6, 3)
    slots = torch.tensor([0, 1, slot, 2, slot, 0])
    problem = replace(problem, frozen=make_frozen(problem), activation=activation)
    keep = (slots >= 0) & (slots < 3)
    good = replace(problem, x=problem.x[keep], grad_y=problem.grad_y[keep], slots=slots[keep])
    monkeypatch.setattr(_launch, "check", lambda *_: None)
    bad = replace(problem, slots=slots)
    for result in ("forward", "grad_input"):
        assert torch.equal(bad.get(result)[keep], good.get(result))
        assert bad.get(result)[~keep].isnan().all()
        assert replace(bad, slots=torch.tensor(slot)).get(result).isnan().all()
    assert torch.equal(bad.grad_values(), good.grad_values())
    assert torch.equal(bad.grad_bias(), good.grad_bias())
    assert not replace(bad, slots=torch.tensor(slot)).grad_values().any()


def test_sizes_that_the_index_does_not_have_are_refused(make_linear, monkeypatch):
    problem = make_linear("divides_nothing")
    wider = replace(problem, x=torch.randn(5, 1000))
    with pytest.raises(ValueError, match=r"the weight must be \[17, 1000\], but its positions say \[17, 33\]"):
        wider.forward()
    no_index = replace(problem, weight=problem.weight._replace(index=torch.zeros(0, dtype=torch.int32)))
    with pytest.raises(ValueError, match="task_linear: index must be task_linear_index of the positions"):
        no_index.forward()
    monkeypatch.setattr(_launch, "check", lambda *_: None)
    assert wider.forward().isnan().all()


@pytest.mark.parametrize("slot", [-1, 3, 2**40])
@pytest.mark.parametrize("is_one", [True, False], ids=["one_slot", "mixed"])
def test_a_device_stops_under_rsn2_debug(make_small, monkeypatch, is_one, slot):
    problem = make_small(3, 3)
    monkeypatch.setattr(_launch, "check", lambda *_: None)
    monkeypatch.setenv("RSN2_DEBUG", "1")
    bad = replace(problem, slots=torch.tensor(slot) if is_one else torch.tensor([1, slot, 0]))
    for result in ("forward", "grad_input", "grad_values"):
        problem.get(result)
        with pytest.raises(InterpreterError, match="slots: an id is out of range"):
            bad.get(result)


def grad_values(problem: Any, wanted: list[int], num_owned: list[int]) -> list[Tensor]:
    gradient = getattr(torch.ops.rsn2_kernels, problem.op + "_grad_values")
    result = gradient(problem.x, problem.grad_y, *problem.packed, wanted, num_owned, *problem.window)
    return list(result.split(num_owned))


@pytest.mark.parametrize("form", ["lists", "tiles"])
@pytest.mark.parametrize("is_one", [True, False], ids=["one_slot", "mixed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_wanted_weights_that_are_not_there_are_nan(make_small, use_form, form, is_one, dtype):
    use_form(form)
    problem = make_small(9, 3, dtype=dtype)
    problem = replace(problem, slots=torch.tensor(1)) if is_one else problem
    owned, every = problem.num_owned, problem.grad_values().split(problem.num_owned)
    grads = grad_values(problem, [3, 1, 0, 2], [700, owned[1] + 300, owned[0] - 5, owned[2]])
    assert grads[0].isnan().all()
    assert torch.equal(grads[1][: owned[1]], every[1]) and grads[1][owned[1] :].isnan().all()
    assert torch.equal(grads[2], every[0][:-5]) and torch.equal(grads[3], every[2])


def test_wanted_slots_that_no_weight_has(make_small):
    for slot in (-1, 2**40):
        with pytest.raises(ValueError, match=f"wanted slots must be in .*, got {slot}"):
            grad_values(make_small(3, 3), [0, slot], [5, 5])


@pytest.mark.parametrize("form", ["lists", "tiles"])
def test_rows_without_a_bias_are_nan(make_small, use_form, form):
    use_form(form)
    problem = make_small(9, 3)
    few, rows = replace(problem, bias=problem.bias[:2].clone()), problem.slots == 2
    assert rows.any() and few.forward()[rows].isnan().all()
    assert torch.equal(few.forward()[~rows], problem.forward()[~rows])


# ---- offsets beyond 2^31 ---------------------------------------------------------------------------------------------


@pytest.fixture
def _no_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sum or product of 32 bits that does not fit them stops a kernel."""
    monkeypatch.setattr(interpreter.interpreter_builder, "options", interpreter.InterpreterOptions(debug=True))


@triton.jit
def _pixels(first, order, out, height, width, SIZE: tl.constexpr, MIXED: tl.constexpr, IS_CONV: tl.constexpr):
    m = tl.load(first) + tl.arange(0, SIZE)
    image, row, column = pixel_of(m, order, m >= 0, height, width, MIXED, IS_CONV)
    at = out + tl.arange(0, SIZE) * 3
    tl.store(at, image)
    tl.store(at + 1, row.to(tl.int64))
    tl.store(at + 2, column.to(tl.int64))


@pytest.mark.usefixtures("_no_overflow")
@pytest.mark.parametrize("first", [0, 2**31 - 64, 2**31 - 5, 2**31, 2**32 - 3, 2**40 + 7])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 9), (2**12, 2**13), (2**20, 2**20 + 1)])
def test_places_of_pixels(first, height, width):
    """A convolution of 2^31 pixels or more; below that, in 32 bits, as long as the pixels fit them."""
    for is_conv in (1, 2):
        if is_conv == 1 and (first + 8 >= 2**31 or height * width >= 2**31):
            continue
        out = torch.zeros(8, 3, dtype=torch.int64)
        _pixels[(1,)](torch.tensor(first), torch.tensor(0), out, height, width, SIZE=8, MIXED=False, IS_CONV=is_conv)
        m = torch.arange(first, first + 8)
        inside = m % (height * width)
        assert torch.equal(out, torch.stack([m // (height * width), inside // width, inside % width], 1))


@pytest.mark.parametrize("form", ["lists", "tiles"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_numbers_of_pixels_in_64_bits(make_conv, use_form, monkeypatch, form, dtype):
    monkeypatch.setattr(_launch, "MOST_NARROW_PIXELS", 0)
    use_form(form)
    make_conv((3, 5, 18, 2, (4, 3), (2, 3), (1, 2), (0, 1, 1, 1), (1, 1)), dtype=dtype).check()


def test_which_convolutions_have_so_many_pixels():
    few, many = torch.zeros(()).expand(2**15, 3, 2**8, 2**7), torch.zeros(()).expand(2**15, 3, 2**8, 2**8)
    assert [_launch.conv_kind(x, y) for x, y in ((few, few), (few, many), (many, few))] == [1, 2, 2]
    assert _launch.conv_kind(few[0, 0], few[0, 0]) == 0


def far_apart(path: Path, tensor: Tensor, strides: tuple[int, ...]) -> Tensor:
    """The same numbers in a file that has blocks only where something is written."""
    numbers = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, strides, strict=True))
    storage = torch.UntypedStorage.from_file(str(path), True, tensor.element_size() * numbers)
    return torch.empty(0, dtype=tensor.dtype).set_(storage, 0, tensor.shape, strides).copy_(tensor)


FAR = {  # of x and grad_y alike
    "task_linear": [(2**30 + 8, 1), (1, 2**28 + 8)],
    "task_conv2d": [(2**31 + 8, 64, 8, 1), (64, 2**28 + 8, 8, 1), (1024, 32, 2**30 + 8, 1), (128, 1, 32, 2**30 + 8)],
}


@pytest.mark.usefixtures("_no_overflow")
@pytest.mark.parametrize("form", ["lists", "tiles"])
@pytest.mark.parametrize(("op", "strides"), [(op, strides) for op, ways in FAR.items() for strides in ways], ids=str)
def test_numbers_that_lie_far_apart(make_linear, make_conv, use_form, tmp_path, op, strides, form):
    use_form(form)
    dtype = torch.float16
    if op == "task_linear":
        problem = make_linear((4, 20, 17, 2), dtype=dtype)
    else:
        problem = make_conv((2, 9, 10, 2, (3, 3), (2, 2), (1, 1), (1, 0, 0, 1), (1, 1)), dtype=dtype)
    far = replace(
        problem,
        x=far_apart(tmp_path / "x", problem.x, strides),
        grad_y=far_apart(tmp_path / "grad_y", problem.grad_y, strides),
    )
    for result in ("forward", "grad_input", "grad_values"):
        assert torch.equal(far.get(result), problem.get(result)), result


# ---- rows grouped by slot --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pixels", [1, 12])
@pytest.mark.parametrize("size", [1, 4, 16])
@pytest.mark.parametrize("batch", [1, 2, 33])
def test_every_pixel_is_in_one_item_of_its_slot(batch, size, pixels):
    slots = torch.randint(-2, 5, (batch,))
    made = plan(slots, pixels, size)
    seen = []
    for item in range(int(made.num_used)):
        slot, first, end = made.items[:, item].tolist()
        assert first < end
        own = range(first, min(end, first + size))
        assert {int(slots[made.order[pixel // pixels]]) for pixel in own} == {slot}
        seen += own
    assert sorted(seen) == list(range(batch * pixels))
    assert int(made.num_used) <= made.items.shape[1]
    assert torch.equal(made.order, slots.argsort(stable=True))


def test_rows_of_slots():
    slots = torch.tensor([3, 1, 9, 3, -1])
    starts, order = rows_of(slots, 1, 3)
    assert starts.tolist() == [1, 2, 2, 4] and order.tolist() == [4, 1, 0, 3, 2]


def test_a_mixed_batch_gives_the_bits_of_its_slots(make_small):
    for dtype in (torch.float32, torch.bfloat16):
        problem = make_small(20, 3, dtype=dtype)
        for slot in problem.slots.unique().tolist():
            own = problem.slots == slot
            for result in ("forward", "grad_input"):
                alone = problem.of_one_slot(slot)
                plain, exact = alone.plain(result), alone.exact(result)
                assert_as_accurate(problem.get(result)[own], plain, exact, 3)
        assert torch.equal(problem.grad_values(), problem.grad_values())
