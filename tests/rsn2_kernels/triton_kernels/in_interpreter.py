"""Every Triton kernel against the reference, in Triton's interpreter.

Run by test_interpreter.py in a process of its own, since the interpreter is chosen before Triton is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import rsn2_kernels
from rsn2_kernels import reference
from rsn2_kernels.formats import block_size_of, pack
from rsn2_kernels.ops import task_conv2d_index, task_linear_index
from rsn2_kernels.testing import CONV_SHAPES, LINEAR_SHAPES, assert_as_accurate
from rsn2_kernels.triton_kernels import _launch, _table
from rsn2_kernels.triton_kernels._plan import plan, rows_of

RESULTS = ("forward", "grad_input", "grad_values", "grad_bias")
HALVES = [(torch.bfloat16, torch.bfloat16), (torch.float16, torch.float16), (torch.bfloat16, torch.float32)]
DTYPES = [(torch.float32, torch.float32), (torch.float64, torch.float64), *HALVES, (torch.float16, torch.float32)]
LARGE = {  # each operation of the interpreter takes as long as a thousand numbers
    "lists": dict(J=32, BM=64),
    "lists, some pixels": dict(J=32, BM=16),
    "lists, grad_values": dict(J=128, BM=16),
    "tiles, float64": dict(BO=16, BC=64, BM=32),
    "tiles, float32": dict(BO=64, BC=128, BM=64),
    "tiles": dict(BO=64, BC=128, BM=64),
    "tiles, grad_input": dict(BO=64, BC=128, BM=64),
}
FORMS = {"lists": 1 << 40, "tiles": 0, "as_chosen": _table.MOST_PIXELS_OF_LISTS}


def name_of(dtypes: tuple[torch.dtype, torch.dtype]) -> str:
    return "-".join(str(dtype).removeprefix("torch.") for dtype in dict.fromkeys(dtypes))


@pytest.fixture(params=["task_linear", "task_conv2d"])
def make_small(request: pytest.FixtureRequest, make_linear: Any, make_conv: Any) -> Callable[..., Any]:
    """Arguments of both forward operators in turn, for a number of rows and slots."""

    def make(batch: int, num_slots: int, **options: Any) -> Any:
        if request.param == "task_linear":
            return make_linear((batch, 40, 20, num_slots), **options)
        return make_conv((batch, 5, 18, num_slots, (4, 3), (2, 3), (1, 1), (0, 1, 1, 1), (1, 1)), **options)

    return make


def quick_and_slow(every: list[Any], *quick: int) -> list[Any]:
    """Parameters of a test, most of which only the slow suite runs: a product takes the interpreter a second."""
    return [each if n in quick else pytest.param(each, marks=pytest.mark.slow) for n, each in enumerate(every)]


all_dtypes = pytest.mark.parametrize("dtypes", quick_and_slow(DTYPES, 0, 4), ids=name_of)
two_dtypes = pytest.mark.parametrize("dtype", quick_and_slow([torch.float16, torch.float32], 0), ids=str)


@pytest.fixture(autouse=True)
def _nan_filled(nan_filled: None) -> None:
    """For every test of this file."""


def set_precision(name: str) -> None:
    """How torch makes float32 products on a GPU; it allows TF32 for convolutions unless told otherwise."""
    torch.backends.cuda.matmul.fp32_precision = torch.backends.cudnn.conv.fp32_precision = name


@pytest.fixture(autouse=True)
def sizes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels hold more at once than on a GPU, except in tests of the table's own sizes."""
    if "its_own_sizes" not in request.node.name:
        for name, large in LARGE.items():
            monkeypatch.setitem(_table.SIZES, name, large)


@pytest.fixture(autouse=True)
def _no_tf32() -> Iterator[None]:
    set_precision("ieee")
    yield
    set_precision("ieee")


@pytest.fixture
def use_form(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make 16-bit products take the form of this name; float32 too, as if TF32 were allowed."""

    def use(form: str) -> None:
        monkeypatch.setattr(_table, "MOST_PIXELS_OF_LISTS", FORMS[form])
        if form == "tiles":
            set_precision("tf32")

    return use


def test_the_kernels_run_in_the_interpreter():
    assert rsn2_kernels.backends()["triton"].reason.endswith("on the CPU: for tests, very slow")
    assert not rsn2_kernels._build._native
    for name in reference.__all__:
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"rsn2_kernels::{name}", "CPU")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [name for name in LINEAR_SHAPES if name != "several_tiles"])
def test_linear(make_linear, shape, dtype):
    make_linear(shape, dtype=dtype).check()


@all_dtypes
@pytest.mark.parametrize("form", ["lists", "tiles"])
@pytest.mark.parametrize("is_one", [True, False], ids=["one_slot", "mixed"])
def test_linear_in_both_forms(make_linear, use_form, form, dtypes, is_one):
    use_form(form)
    problem = make_linear((20, 300, 20, 3), dtype=dtypes[0], value_dtype=dtypes[1])
    (replace(problem, slots=torch.tensor(2)) if is_one else problem).check()


@pytest.mark.parametrize("dtype", quick_and_slow([torch.float32, torch.float64, torch.float16], 2), ids=str)
@pytest.mark.parametrize("form", ["lists", "tiles"])
@pytest.mark.parametrize("batch", quick_and_slow([3, 70], 0))
def test_linear_at_its_own_sizes(make_linear, use_form, form, batch, dtype):
    use_form(form)
    make_linear((batch, 270, 20, 2), density=0.1, dtype=dtype).check()


MORE_SHAPES = {  # B, I, O, T
    "slots_50": (64, 60, 40, 50),
    "many_more_slots_than_rows": (3, 30, 20, 1200),
    "one_row": (1, 300, 70, 3),
    "one_output": (9, 300, 1, 2),
    "one_input": (70, 1, 300, 2),
    "tile_exactly": (64, 256, 16, 2),
    "tile_and_one": (65, 257, 17, 2),
}


@two_dtypes
@pytest.mark.parametrize("shape", MORE_SHAPES.values(), ids=MORE_SHAPES)
def test_linear_at_edges(make_linear, shape, dtype):
    problem = make_linear(shape, dtype=dtype)
    problem.check("forward", "grad_input", "grad_bias")
    wanted = problem.slots.unique()[:3].tolist()
    starts, every = [0, *torch.tensor(problem.num_owned).cumsum(0).tolist()], problem.plain("grad_values")
    expected = torch.cat([every[starts[slot] : starts[slot + 1]] for slot in wanted])
    torch.testing.assert_close(problem.grad_values(wanted=wanted), expected)


@two_dtypes
@pytest.mark.parametrize("density", quick_and_slow([0.01, 0.5, 1.0], 0))
def test_every_density(make_linear, density, dtype):
    make_linear((33, 270, 35, 1), density=density, dtype=dtype).check()


@two_dtypes
@pytest.mark.parametrize("shape", [name for name in CONV_SHAPES if name not in ("many_channels", "three_by_three")])
def test_conv(make_conv, shape, dtype):
    make_conv(shape, dtype=dtype).check()


@all_dtypes
@pytest.mark.parametrize("form", ["lists", "tiles"])
def test_conv_in_both_forms(make_conv, use_form, form, dtypes):
    use_form(form)
    shape = (2, 40, 20, 2, (4, 4), (3, 3), (2, 1), (1, 1, 0, 1), (1, 1))  # its channels share spans of columns
    problem = make_conv(shape, dtype=dtypes[0], value_dtype=dtypes[1])
    problem.check()
    replace(problem, slots=torch.tensor(1)).check()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("form", ["lists", "tiles"])
def test_conv_at_its_own_sizes(make_conv, use_form, form, dtype):
    use_form(form)
    make_conv((2, 5, 17, 2, (4, 5), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)), dtype=dtype).check()


def test_channels_last(make_conv):
    problem = make_conv("strided")
    last = torch.channels_last
    problem = replace(problem, x=problem.x.to(memory_format=last), grad_y=problem.grad_y.to(memory_format=last))
    problem.check()
    assert problem.forward().is_contiguous(memory_format=last)
    assert problem.grad_input().is_contiguous(memory_format=last)


@pytest.mark.parametrize("form", ["lists", "tiles"])
@pytest.mark.parametrize("activation", ["none", "relu"])
@pytest.mark.parametrize("has_bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize("dtypes", quick_and_slow([DTYPES[0], DTYPES[2]], 1), ids=name_of)
def test_bias_frozen_and_activation(make_small, make_frozen, use_form, dtypes, has_bias, activation, form):
    use_form(form)
    problem = make_small(3, 3, dtype=dtypes[0], value_dtype=dtypes[1])
    problem = replace(problem, activation=activation, bias=problem.bias if has_bias else None)
    replace(problem, frozen=make_frozen(problem)).check("forward", "grad_input")
    problem.check("forward")


@pytest.mark.parametrize("form", ["lists", "tiles"])
def test_relu_keeps_nan(make_linear, use_form, form):
    use_form(form)
    problem = make_linear("divides_nothing", density=1 / 3)
    problem = replace(problem, x=torch.full_like(problem.x, torch.nan), activation="relu")
    assert problem.forward().isnan().all()


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "every_other_column": lambda x: x.repeat_interleave(2, 1)[:, ::2],
    "unaligned": lambda x: x.new_empty(x.numel() + 1)[1:].view_as(x).copy_(x),
    "one_row_expanded": lambda x: x[:1].expand_as(x),
}


@pytest.mark.parametrize("view", VIEWS)
@two_dtypes
def test_any_strides(make_small, view, dtype):
    problem = make_small(12, 3, dtype=dtype)
    slots = problem.slots.repeat(2, 1).t()[:, 0]
    problem = replace(problem, x=VIEWS[view](problem.x), grad_y=VIEWS[view](problem.grad_y), slots=slots)
    problem.check()


@pytest.mark.parametrize("form", ["lists", "tiles"])
@pytest.mark.parametrize("is_one", [True, False], ids=["one_slot", "mixed"])
def test_other_slots_may_hold_nan(make_small, make_frozen, use_form, form, is_one):
    use_form(form)
    problem = make_small(9, 5)
    problem = replace(problem, slots=torch.tensor(3) if is_one else torch.where(problem.slots % 2 == 0, 1, 3))
    problem = replace(problem, frozen=make_frozen(problem))

    def spoil(values: Tensor, positions: Tensor) -> Tensor:
        starts, values = rsn2_kernels.formats.value_starts(positions), values.clone()
        for slot in {0, 1, 2, 3, 4} - set(problem.slots.unique().tolist()):
            values[starts[slot] : starts[slot + 1]] = torch.nan
        return values

    weight, frozen, bias = problem.weight, problem.frozen, problem.bias.clone()
    bias[[slot for slot in range(5) if slot not in problem.slots]] = torch.nan
    spoilt = replace(
        problem,
        weight=weight._replace(values=spoil(weight.values, weight.positions)),
        frozen=frozen._replace(values=spoil(frozen.values, frozen.positions)),
        bias=bias,
    )
    for result in RESULTS:
        assert torch.equal(spoilt.get(result), problem.get(result)), result


def test_a_slot_without_weights_and_one_without_rows(make_linear):
    problem = make_linear("divides_nothing")
    masks = torch.zeros(3, 17, 33, dtype=torch.bool)
    masks[0], masks[0, 4], masks[2, 4] = True, False, True  # nothing for slot 1
    packed = pack(torch.randn(17, 33), masks)
    packed = packed._replace(index=task_linear_index(packed.positions))
    problem = replace(problem, weight=packed, slots=torch.tensor([1, 0, 1, 0, 1]))
    assert torch.equal(problem.forward()[problem.slots == 1], problem.bias[1].expand(3, 17))
    assert not problem.grad_input()[problem.slots == 1].any()
    assert problem.grad_values(wanted=[1]).shape == (0,)
    assert not problem.grad_values(wanted=[2]).any()
    problem.check()
    replace(problem, slots=torch.tensor(1)).check()
    nothing = pack(torch.randn(17, 33), torch.zeros(3, 17, 33, dtype=torch.bool))
    problem = replace(problem, weight=nothing._replace(index=task_linear_index(nothing.positions)))
    problem.check()


def test_wanted_slots_come_in_the_order_asked_for(make_linear):
    problem = make_linear((20, 300, 40, 4))
    every = problem.grad_values().split(problem.num_owned)
    some = problem.grad_values(wanted=[3, 1, 0]).split([problem.num_owned[slot] for slot in (3, 1, 0)])
    for slot, grad in zip((3, 1, 0), some, strict=True):
        assert torch.equal(grad, every[slot])
    assert problem.grad_values(wanted=[]).shape == (0,)
    assert torch.equal(problem.grad_bias(wanted=[3, 1]), problem.grad_bias()[[3, 1]])


# ---- slots that are not there ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("slot", [-1, 3, 2**40, -(2**63)])
def test_slot_out_of_range_is_an_error_on_the_cpu(make_linear, slot):
    problem = make_linear("divides_nothing")
    for slots in (torch.tensor(slot), torch.tensor([0, 1, slot, 2, 0])):
        with pytest.raises(IndexError, match=rf"task_linear: slots must be in 0\.\.2, got {slot}"):
            replace(problem, slots=slots).forward()


@pytest.mark.parametrize("form", ["lists", "tiles"])
@pytest.mark.parametrize("slot", quick_and_slow([-1, 3, 2**40], 1))
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


# ---- blocks ----------------------------------------------------------------------------------------------------------


def with_blocks(problem: Any, size: int, rows: int, columns: int, seed: int = 0) -> Any:
    """The problem with weights owned in blocks: a third of them each by three slots, some by none."""
    generator = torch.Generator().manual_seed(seed)
    owner = torch.randint(0, 4, (rows // size, columns // size), generator=generator)
    owner[0, 0] = 0
    masks = torch.stack([owner == slot for slot in range(3)])
    masks = masks.repeat_interleave(size, 1).repeat_interleave(size, 2)
    whole = torch.zeros(3, rows, columns, dtype=torch.bool)
    whole[:, : masks.shape[1], : masks.shape[2]] = masks
    packed = pack(torch.randn(rows, columns, generator=generator).to(problem.weight.values.dtype), whole)
    index = task_conv2d_index(packed.positions, problem.window[0]) if problem.window else None
    packed = packed._replace(index=task_linear_index(packed.positions) if index is None else index)
    return replace(problem, weight=packed)


block_dtypes = pytest.mark.parametrize(
    "dtypes", quick_and_slow([DTYPES[0], DTYPES[1], DTYPES[2], DTYPES[5]], 2), ids=name_of
)


@block_dtypes
@pytest.mark.parametrize("allows_tf32", quick_and_slow([True, False], 0), ids=["tf32", "ieee"])
@pytest.mark.parametrize("size", [16, 32, 64])
def test_linear_in_blocks(make_linear, use_form, size, allows_tf32, dtypes):
    use_form("tiles" if allows_tf32 else "as_chosen")
    problem = make_linear((30, 400, 3 * size + 5, 3), dtype=dtypes[0], value_dtype=dtypes[1])
    problem = with_blocks(problem, size, 3 * size + 5, 400)
    assert block_size_of(problem.weight.index) == size
    problem.check()
    replace(problem, slots=torch.tensor(1)).check()


@block_dtypes
@pytest.mark.parametrize("size", [16, 32])
@pytest.mark.parametrize("channels", [32, 40])
def test_conv_in_blocks(make_conv, use_form, size, channels, dtypes):
    """Blocks inside one kernel position, where the channels are a multiple; across them, where not."""
    use_form("tiles")
    shape = (5, channels, 32, 3, (3, 4), (3, 3), (2, 1), (1, 1, 1, 1), (1, 1))
    problem = make_conv(shape, dtype=dtypes[0], value_dtype=dtypes[1])
    problem = with_blocks(problem, size, 32, 9 * channels)
    assert block_size_of(problem.weight.index) == size
    problem.check()


@pytest.mark.parametrize("frozen_size", [16, 32])
def test_a_frozen_store_in_blocks_of_its_own_size(make_linear, use_form, frozen_size):
    use_form("tiles")
    problem = make_linear((20, 256, 64, 3), dtype=torch.bfloat16)
    frozen = with_blocks(problem, frozen_size, 64, 256, seed=1).weight
    replace(with_blocks(problem, 16, 64, 256), frozen=frozen).check("forward", "grad_input")


def test_blocks_are_read_as_they_stand(make_linear, monkeypatch):
    """The table takes the kernel for blocks, and no other has the answer: with the bytes of all columns but the first
    of each block spoilt, the result is the same.
    """
    problem = with_blocks(make_linear((20, 256, 64, 3), dtype=torch.bfloat16), 16, 64, 256)
    index = problem.weight.index.clone()
    columns = index[int(index[7]) :].view(torch.uint8)
    columns[: len(problem.weight.values)].view(-1, 16)[:, 1:] = 77
    spoilt = replace(problem, weight=problem.weight._replace(index=index))
    for result in RESULTS:
        assert torch.equal(spoilt.get(result), problem.get(result)), result


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
