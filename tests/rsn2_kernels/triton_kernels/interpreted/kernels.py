"""Every Triton kernel against the reference, in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import rsn2_kernels
from rsn2_kernels import reference
from rsn2_kernels.formats import pack
from rsn2_kernels.ops import task_linear_index
from rsn2_kernels.testing import CONV_SHAPES, LINEAR_SHAPES

RESULTS = ("forward", "grad_input", "grad_values", "grad_bias")
HALVES = [(torch.bfloat16, torch.bfloat16), (torch.float16, torch.float16), (torch.bfloat16, torch.float32)]
DTYPES = [(torch.float32, torch.float32), (torch.float64, torch.float64), *HALVES, (torch.float16, torch.float32)]


def name_of(dtypes: tuple[torch.dtype, torch.dtype]) -> str:
    return "-".join(str(dtype).removeprefix("torch.") for dtype in dict.fromkeys(dtypes))


def quick_and_slow(every: list[Any], *quick: int) -> list[Any]:
    """Parameters of a test, most of which only the slow suite runs: a product takes the interpreter a second."""
    return [each if n in quick else pytest.param(each, marks=pytest.mark.slow) for n, each in enumerate(every)]


all_dtypes = pytest.mark.parametrize("dtypes", quick_and_slow(DTYPES, 0, 4), ids=name_of)
two_dtypes = pytest.mark.parametrize("dtype", quick_and_slow([torch.float16, torch.float32], 0), ids=str)


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
