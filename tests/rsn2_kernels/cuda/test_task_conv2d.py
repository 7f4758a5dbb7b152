"""The GPU kernels of task_conv2d and its gradients, run on the emulator, against the reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from rsn2_kernels.formats import PackedWeight, gather_index, pack
from rsn2_kernels.reference.task_conv2d import output_size
from rsn2_kernels.testing import CONV_SHAPES, DTYPES, assert_as_accurate

RESULTS = ("forward", "grad_input", "grad_values")
DTYPE_PAIRS = [(dtype, dtype) for dtype in DTYPES]  # x, values
DTYPE_PAIRS += [(torch.bfloat16, torch.float32), (torch.float16, torch.float32)]
PLAIN = ((1, 1), (0, 0, 0, 0), (1, 1))  # stride, padding, dilation
MORE_SHAPES = {  # B, C, O, T, (H, W), (P, Q), stride, padding, dilation
    "one_pixel_many_images": (70, 30, 9, 2, (1, 1), (1, 1), *PLAIN),
    "padding_only_reaches_corner": (2, 3, 4, 2, (1, 1), (3, 3), (1, 1), (2, 2, 2, 2), (1, 1)),
    "stride_leaves_columns_unread": (3, 4, 5, 2, (9, 9), (2, 2), (4, 4), (0, 0, 0, 0), (1, 1)),
    "stride_over_kernel_with_dilation": (3, 4, 5, 2, (14, 15), (2, 3), (3, 2), (1, 2, 3, 0), (3, 2)),
    "padding_wider_than_kernel": (2, 3, 4, 2, (4, 5), (2, 2), (1, 1), (3, 4, 5, 3), (1, 1)),
    "eleven_by_eleven_stride_four": (2, 3, 9, 2, (19, 15), (11, 11), (4, 4), (2, 2, 2, 2), (1, 1)),
    "small_images_share_a_tile": (9, 17, 20, 2, (7, 7), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    "more_rows_than_a_block": (2, 9, 150, 2, (6, 5), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    "channels_over_two_spans": (2, 280, 18, 2, (5, 6), (2, 1), (1, 1), (0, 1, 0, 0), (1, 1)),
    "eight_channels_a_tap": (3, 16, 24, 2, (8, 9), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    "slots_200": (12, 4, 20, 200, (5, 4), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
}

matches = pytest.mark.parametrize("result", RESULTS)


def name_of(dtypes: tuple[torch.dtype, torch.dtype]) -> str:
    return "-".join(str(dtype).removeprefix("torch.") for dtype in dict.fromkeys(dtypes))


def with_index(packed: PackedWeight) -> PackedWeight:
    return packed._replace(index=gather_index(packed.positions))


@pytest.fixture
def make(make_conv: Any) -> Callable[..., Any]:
    """Arguments of task_conv2d with the index that GPU kernels read."""

    def make(shape: Any, dtypes: tuple[torch.dtype, torch.dtype] = DTYPE_PAIRS[0], **options: Any) -> Any:
        problem = make_conv(shape, dtype=dtypes[0], value_dtype=dtypes[1], **options)
        return replace(problem, weight=with_index(problem.weight))

    return make


def channels_last(problem: Any) -> Any:
    return replace(
        problem,
        x=problem.x.to(memory_format=torch.channels_last),
        grad_y=problem.grad_y.to(memory_format=torch.channels_last),
    )


def check(emulated: Any, problem: Any, *results: str) -> None:
    """As accurate as plain PyTorch; in float64, with numbers whose sums are exact in any order, the same."""
    problem = problem.with_exact_sums() if problem.x.dtype == torch.float64 else problem
    for result in results or RESULTS:
        ours = problem.get(result, emulated)
        if problem.x.dtype == torch.float64:
            torch.testing.assert_close(ours, problem.exact(result), rtol=0, atol=0)
        else:  # one chain of products for each span; BLAS sums in 16 chains or more
            factor = 3 if ours.dtype == torch.float32 else 2
            assert_as_accurate(ours, problem.plain(result), problem.exact(result), factor)


def same(first: Tensor, second: Tensor) -> None:
    torch.testing.assert_close(first, second, rtol=0, atol=0, equal_nan=True)


@matches
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtypes", DTYPE_PAIRS, ids=name_of)
@pytest.mark.parametrize("shape", CONV_SHAPES)
def test_matches_reference(emulated, make, shape, dtypes, layout, result):
    problem = make(shape, dtypes)
    check(emulated, channels_last(problem) if layout == "channels_last" else problem, result)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtypes", DTYPE_PAIRS[2:], ids=name_of)
@pytest.mark.parametrize("shape", ["three_by_three", "strided", "many_channels"])
def test_16_bits_in_the_shared_memory_of_every_gpu(emulated, make, shared_memory, shape, dtypes, layout):
    problem = make(shape, dtypes)
    check(emulated, channels_last(problem) if layout == "channels_last" else problem, "forward")


@pytest.mark.parametrize("dtypes", DTYPE_PAIRS[2:], ids=name_of)
def test_the_kernel_for_much_shared_memory(emulated, make, make_frozen, dtypes):
    """With all that it may be given, in every order of its threads; other tests run the smaller one."""
    problem = make("many_channels", dtypes)
    slots = problem.slots.clone()
    slots[1] = 2**40
    problem = replace(problem, frozen=with_index(make_frozen(problem)), activation="relu")
    small = replace(problem, slots=slots).forward(emulated)
    emulated.set_most_shared_bytes(227 * 1024)
    try:
        check(emulated, problem, "forward")
        found = []
        for order in (0, 1, 2):
            emulated.set_order(order)
            found.append(replace(problem, slots=slots).forward(emulated))
    finally:
        emulated.set_order(0)
        emulated.set_most_shared_bytes(99 * 1024)
    assert found[0][1].isnan().all() and small[1].isnan().all()
    same(found[1], found[0])
    same(found[2], found[0])
    torch.testing.assert_close(found[0], small, equal_nan=True)


@matches
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", MORE_SHAPES.values(), ids=MORE_SHAPES)
def test_matches_reference_at_edges(emulated, make, shape, layout, dtype, result):
    problem = make(shape, (dtype, dtype))
    check(emulated, channels_last(problem) if layout == "channels_last" else problem, result)


@pytest.mark.parametrize("dtypes", DTYPE_PAIRS, ids=name_of)
@pytest.mark.parametrize("shape", ["smallest", "strided", "one_by_one"])
def test_results_have_the_memory_format_of_their_source(emulated, make, shape, dtypes):
    problem = channels_last(make(shape, dtypes))
    for result in ("forward", "grad_input"):
        assert problem.get(result, emulated).stride() == problem.plain(result).stride()


@matches
@pytest.mark.parametrize("dtypes", DTYPE_PAIRS, ids=name_of)
def test_all_images_of_one_slot(emulated, make, dtypes, result):
    check(emulated, replace(make("three_by_three", dtypes), slots=torch.tensor(2)), result)


@matches
@pytest.mark.parametrize("density", [0.01, 0.2, 1.0])
def test_every_density(emulated, make, density, result):
    for dtype in (torch.float32, torch.float16):
        shape = (3, 30, 20, 1, (6, 7), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1))
        check(emulated, make(shape, (dtype, dtype), density=density), result)


@pytest.mark.parametrize("activation", ["none", "relu"])
@pytest.mark.parametrize("has_bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize("has_frozen", [True, False], ids=["frozen", "no_frozen"])
@pytest.mark.parametrize("dtypes", DTYPE_PAIRS, ids=name_of)
def test_bias_frozen_and_activation(emulated, make, make_frozen, dtypes, has_frozen, has_bias, activation):
    problem = make("strided", dtypes)
    problem = replace(problem, activation=activation, bias=problem.bias if has_bias else None)
    if has_frozen:
        problem = replace(problem, frozen=with_index(make_frozen(problem)))
    check(emulated, problem, "forward", "grad_input")


def as_transposed(x: Tensor) -> Tensor:
    return x.transpose(2, 3).contiguous().transpose(2, 3)


def as_every_other_column(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, 3)[:, :, :, ::2]


def as_some_channels(x: Tensor) -> Tensor:
    return torch.cat([x, x, x], 1)[:, x.shape[1] : 2 * x.shape[1]]


def as_some_channels_last(x: Tensor) -> Tensor:
    return as_some_channels(x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2))


def as_unaligned_channels_last(x: Tensor) -> Tensor:
    whole = x.new_empty(x.numel() + 1)
    return whole[1:].view_as(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).copy_(x)


def as_batch_innermost(x: Tensor) -> Tensor:
    return x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)


def as_one_number_expanded(x: Tensor) -> Tensor:
    return x[:1, :1, :1, :1].expand_as(x)


VIEWS = (as_transposed, as_every_other_column, as_some_channels, as_some_channels_last, as_unaligned_channels_last,
         as_batch_innermost, as_one_number_expanded)  # fmt: skip


@matches
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.__name__)
def test_any_strides(emulated, make, view, dtype, result):
    problem = make((3, 8, 6, 2, (11, 8), (3, 2), (2, 3), (1, 0, 2, 1), (1, 1)), (dtype, dtype))
    slots = problem.slots.repeat(2, 1).t()[:, 0]
    check(emulated, replace(problem, x=view(problem.x), grad_y=view(problem.grad_y), slots=slots), result)


@matches
@pytest.mark.parametrize("dtypes", DTYPE_PAIRS, ids=name_of)
def test_every_order_of_threads_gives_the_same_bits(emulated, make, make_frozen, dtypes, result):
    problem = make("many_channels", dtypes)
    problem = replace(problem, frozen=with_index(make_frozen(problem)))
    emulated.set_order(0)
    expected = problem.get(result, emulated)
    try:
        for order in (1, 2, 3):
            emulated.set_order(order)
            same(problem.get(result, emulated), expected)
    finally:
        emulated.set_order(0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_mixed_batch_equals_its_slots_one_by_one(emulated, make, dtype):
    problem = make(MORE_SHAPES["small_images_share_a_tile"], (dtype, dtype))
    for slot in problem.slots.unique().tolist():
        alone, rows = problem.of_one_slot(slot), problem.slots == slot
        for result in ("forward", "grad_input"):
            same(problem.get(result, emulated)[rows], alone.get(result, emulated))
    check(emulated, problem, "grad_values")


@pytest.mark.parametrize("slot", [-1, 3, 2**40, -(2**63)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_images_of_a_slot_out_of_range_are_nan(emulated, make, slot, dtype):
    problem = make("three_by_three", (dtype, dtype))
    slots = torch.tensor([0, 1, slot, 2, 0, slot])
    wrong = slots == slot
    expected = replace(problem, slots=torch.where(wrong, 0, slots))
    problem = replace(problem, slots=slots)
    for result in ("forward", "grad_input"):
        ours = problem.get(result, emulated)
        assert ours[wrong].isnan().all()
        same(ours[~wrong], expected.get(result, emulated)[~wrong])
    grads = problem.rows(~wrong)
    assert_as_accurate(problem.grad_values(emulated), grads.plain("grad_values"), grads.exact("grad_values"), 3)

    one = replace(problem, slots=torch.tensor(slot))
    assert one.forward(emulated).isnan().all()
    assert one.grad_input(emulated).isnan().all()
    assert not one.grad_values(emulated).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_wanted_slots_come_in_the_order_asked_for(emulated, make, dtype):
    problem = make("three_by_three", (dtype, dtype))
    problem = replace(problem, slots=torch.where(problem.slots == 1, 2, problem.slots))  # slot 1 has no images
    every = problem.grad_values(emulated).split(problem.num_owned)
    some = problem.grad_values(emulated, wanted=[2, 1]).split([problem.num_owned[2], problem.num_owned[1]])
    torch.testing.assert_close(some[0], every[2])
    assert not some[1].any()
    assert problem.grad_values(emulated, wanted=[]).shape == (0,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_slot_without_weights_gives_its_bias(emulated, make, dtype):
    problem = make("three_by_three", (dtype, dtype))
    masks = torch.zeros(3, 7, 45, dtype=torch.bool)
    masks[0], masks[0, 4], masks[2, 4] = True, False, True  # nothing for slot 1
    packed = with_index(pack(torch.randn(7, 45).to(dtype), masks))
    problem = replace(problem, weight=packed, slots=torch.tensor([1, 0, 1, 2, 1, 1]))
    y = problem.forward(emulated)[problem.slots == 1]
    same(y, problem.bias[1][None, :, None, None].expand_as(y))
    assert not problem.grad_input(emulated)[problem.slots == 1].any()
    assert problem.grad_values(emulated, wanted=[1]).shape == (0,)
    check(emulated, problem)


@matches
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_only_its_own_weights_are_read(emulated, make, dtype, result):
    """NaN in the values of a slot without images changes nothing."""
    problem = make("many_channels", (dtype, dtype))
    problem = replace(problem, slots=torch.tensor([0, 2, 0]))
    values = list(problem.weight.values.split(problem.num_owned))
    values[1] = torch.full_like(values[1], float("nan"))
    same(problem.with_values(torch.cat(values)).get(result, emulated), problem.get(result, emulated))


PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))
MARGINS = st.tuples(*[st.integers(0, 2)] * 4)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.integers(0, 5), st.integers(1, 40), st.integers(1, 40), st.integers(1, 4), st.tuples(*[st.integers(1, 12)] * 2),
    PAIRS, PAIRS, MARGINS, PAIRS, st.booleans(), st.sampled_from([torch.float64, torch.bfloat16]), st.integers(0, 99),
)  # fmt: skip
def test_any_shape(emulated, make, batch, channels, num_outputs, num_slots, size, kernel, stride, padding, dilation,
                   is_channels_last, dtype, seed):  # fmt: skip
    assume(min(output_size(size, kernel, stride, padding, dilation)) > 0)
    shape = (batch, channels, num_outputs, num_slots, size, kernel, stride, padding, dilation)
    problem = make(shape, (dtype, dtype), seed=seed)
    check(emulated, channels_last(problem) if is_channels_last else problem)


@pytest.mark.parametrize(
    ("changes", "message"),
    {
        "dimensions": (dict(x=torch.zeros(6, 5, 9)), r"x must have shape \[B, C, H, W\], got 3 dimensions"),
        "dtypes": (dict(x=torch.zeros(6, 5, 9, 10, dtype=torch.float64)), "x must be float32, .*beside Float"),
        "slots": (dict(slots=torch.zeros(5, dtype=torch.int64)), r"slots must have shape \[\] or \[6\]"),
        "activation": (dict(activation="gelu"), "activation must be 'none' or 'relu', got 'gelu'"),
        "bias": (dict(bias=torch.zeros(3, 8)), r"bias must be a contiguous \[T, 7\]"),
        "kernel": (dict(window=([3, 12], [1, 1], [0] * 4, [1, 1])), "the kernel must fit into the padded image"),
        "stride": (dict(window=([3, 3], [1, 0], [0] * 4, [1, 1])), "stride must be at least 1"),
    }.values(),
    ids=["dimensions", "dtypes", "slots", "activation", "bias", "kernel", "stride"],
)
def test_bad_arguments(emulated, make, changes, message):
    with pytest.raises(ValueError, match="^task_conv2d: " + message):
        replace(make("three_by_three"), **changes).forward(emulated)
