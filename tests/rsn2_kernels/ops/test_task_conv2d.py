"""task_conv2d and its gradients against their references; what they accept and refuse."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from rsn2_kernels.formats import pack, unpack
from rsn2_kernels.ops import resolve_padding, task_conv2d, task_conv2d_index
from rsn2_kernels.reference.task_conv2d import output_size
from rsn2_kernels.testing import CONV_SHAPES, DTYPES

RESULTS = ("forward", "grad_input", "grad_values", "grad_bias")
DTYPE_PAIRS = [(dtype, dtype) for dtype in DTYPES]  # x, values
DTYPE_PAIRS += [(torch.bfloat16, torch.float32), (torch.float16, torch.float32)]
PLAIN = ((1, 1), (0, 0, 0, 0), (1, 1))  # stride, padding, dilation
MORE_SHAPES = {  # B, C, O, T, (H, W), (P, Q), stride, padding, dilation
    "slots_200": (12, 4, 20, 200, (5, 4), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    "many_more_slots_than_rows": (3, 3, 8, 1200, (4, 4), (3, 3), *PLAIN),
    "one_pixel_many_images": (70, 30, 9, 2, (1, 1), (1, 1), *PLAIN),
    "padding_only_reaches_corner": (2, 3, 4, 2, (1, 1), (3, 3), (1, 1), (2, 2, 2, 2), (1, 1)),
    "wide": (2, 3, 5, 2, (2, 131), (2, 5), (1, 1), (0, 1, 2, 2), (1, 1)),
    "tall": (2, 3, 5, 2, (131, 2), (5, 2), (1, 1), (2, 2, 0, 1), (1, 1)),
    "stride_leaves_columns_unread": (3, 4, 5, 2, (9, 9), (2, 2), (4, 4), (0, 0, 0, 0), (1, 1)),
    "stride_over_kernel_with_dilation": (3, 4, 5, 2, (14, 15), (2, 3), (3, 2), (1, 2, 3, 0), (3, 2)),
    "padding_wider_than_kernel": (2, 3, 4, 2, (4, 5), (2, 2), (1, 1), (3, 4, 5, 3), (1, 1)),
    "one_by_one_strided_padded": (3, 17, 6, 2, (7, 8), (1, 1), (2, 3), (1, 0, 0, 2), (1, 1)),
    "eleven_by_eleven_stride_four": (2, 3, 9, 2, (39, 35), (11, 11), (4, 4), (2, 2, 2, 2), (1, 1)),
    "vectors_exactly": (4, 16, 16, 2, (8, 16), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    "stride_larger_than_image": (3, 4, 5, 2, (4, 5), (2, 3), (7, 20), (2, 2, 3, 3), (1, 1)),
    "one_by_one_whole_vectors": (9, 70, 17, 2, (8, 8), (1, 1), *PLAIN),
    "one_by_one_one_image_per_thread": (1, 5, 6, 1, (16, 12), (1, 1), *PLAIN),
    "resnet_stem": (2, 3, 16, 3, (32, 32), (7, 7), (2, 2), (3, 3, 3, 3), (1, 1)),
}

matches = pytest.mark.parametrize("result", RESULTS)


def name_of(dtypes: tuple[torch.dtype, torch.dtype]) -> str:
    return "-".join(str(dtype).removeprefix("torch.") for dtype in dict.fromkeys(dtypes))


def channels_last(problem):
    return replace(
        problem,
        x=problem.x.to(memory_format=torch.channels_last),
        grad_y=problem.grad_y.to(memory_format=torch.channels_last),
    )


@matches
@pytest.mark.parametrize("dtypes", DTYPE_PAIRS, ids=name_of)
@pytest.mark.parametrize("shape", CONV_SHAPES)
def test_matches_reference(make_conv, cpu_level, shape, dtypes, result):
    make_conv(shape, dtype=dtypes[0], value_dtype=dtypes[1]).check(result)


@matches
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", MORE_SHAPES.values(), ids=MORE_SHAPES)
def test_matches_reference_at_edges(make_conv, cpu_level, shape, layout, result):
    problem = make_conv(shape)
    (channels_last(problem) if layout == "channels_last" else problem).check(result)


@pytest.mark.parametrize("dtypes", DTYPE_PAIRS, ids=name_of)
@pytest.mark.parametrize("shape", CONV_SHAPES)
def test_channels_last(make_conv, cpu_level, shape, dtypes):
    problem = channels_last(make_conv(shape, dtype=dtypes[0], value_dtype=dtypes[1]))
    problem.check()
    for result, source in (("forward", problem.x), ("grad_input", problem.grad_y)):
        ours = problem.get(result)
        assert ours.stride() == problem.plain(result).stride()
        assert ours.is_contiguous(memory_format=torch.channels_last) or source.is_contiguous()


@matches
@pytest.mark.parametrize("density", [0.01, 0.0625, 0.2, 1.0])
def test_every_density(make_conv, cpu_level, density, result):
    make_conv((3, 30, 20, 1, (6, 7), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)), density=density).check(result)


@matches
@pytest.mark.parametrize("dtypes", DTYPE_PAIRS, ids=name_of)
def test_all_images_of_one_slot(make_conv, cpu_level, dtypes, result):
    problem = make_conv("three_by_three", dtype=dtypes[0], value_dtype=dtypes[1])
    replace(problem, slots=torch.tensor(2)).check(result)


@pytest.mark.parametrize("activation", ["none", "relu"])
@pytest.mark.parametrize("has_bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize("has_frozen", [True, False], ids=["frozen", "no_frozen"])
@pytest.mark.parametrize("dtypes", DTYPE_PAIRS, ids=name_of)
@pytest.mark.parametrize("shape", ["strided", MORE_SHAPES["one_by_one_whole_vectors"]], ids=["tiles", "no_tiles"])
def test_bias_frozen_and_activation(make_conv, make_frozen, cpu_level, shape, dtypes, has_frozen, has_bias, activation):
    problem = make_conv(shape, dtype=dtypes[0], value_dtype=dtypes[1])
    problem = replace(problem, activation=activation, bias=problem.bias if has_bias else None)
    (replace(problem, frozen=make_frozen(problem)) if has_frozen else problem).check("forward", "grad_input")


PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))
MARGINS = st.tuples(*[st.integers(0, 2)] * 4)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(0, 9), st.integers(1, 40), st.integers(1, 40), st.integers(1, 4), st.tuples(*[st.integers(1, 20)] * 2),
    PAIRS, PAIRS, MARGINS, PAIRS, st.booleans(), st.integers(0, 99),
)  # fmt: skip
def test_any_shape(make_conv, cpu_level, batch, channels, num_outputs, num_slots, size, kernel, stride, padding,
                   dilation, is_channels_last, seed):  # fmt: skip
    assume(min(output_size(size, kernel, stride, padding, dilation)) > 0)
    shape = (batch, channels, num_outputs, num_slots, size, kernel, stride, padding, dilation)
    problem = make_conv(shape, seed=seed, dtype=torch.float64)
    (channels_last(problem) if is_channels_last else problem).check()


def as_transposed(x: Tensor) -> Tensor:
    return x.transpose(2, 3).contiguous().transpose(2, 3)


def as_every_other_column(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, 3)[:, :, :, ::2]


def as_some_channels(x: Tensor) -> Tensor:
    return torch.cat([x, x, x], 1)[:, x.shape[1] : 2 * x.shape[1]]


def as_unaligned(x: Tensor) -> Tensor:
    whole = x.new_empty(x.numel() + 1)
    return whole[1:].view_as(x).copy_(x)


def as_batch_innermost(x: Tensor) -> Tensor:
    return x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)


def as_one_image_expanded(x: Tensor) -> Tensor:
    return x[:1].expand_as(x)


def as_one_number_expanded(x: Tensor) -> Tensor:
    return x[:1, :1, :1, :1].expand_as(x)


VIEWS = (as_transposed, as_every_other_column, as_some_channels, as_unaligned, as_batch_innermost,
         as_one_image_expanded, as_one_number_expanded)  # fmt: skip


@matches
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.__name__)
def test_any_strides(make_conv, cpu_level, view, dtype, result):
    problem = make_conv("strided", dtype=dtype)
    slots = problem.slots.repeat(2, 1).t()[:, 0]
    replace(problem, x=view(problem.x), grad_y=view(problem.grad_y), slots=slots).check(result)


def test_a_slot_without_weights_gives_its_bias(make_conv, cpu_level):
    problem = make_conv("three_by_three")
    masks = torch.zeros(3, 7, 45, dtype=torch.bool)
    masks[0], masks[0, 4], masks[2, 4] = True, False, True  # nothing for slot 1
    packed = pack(torch.randn(7, 45), masks)
    packed = packed._replace(index=task_conv2d_index(packed.positions, [3, 3]))
    problem = replace(problem, weight=packed, slots=torch.tensor([1, 0, 1, 2, 1, 1]))
    y = problem.forward()[problem.slots == 1]
    assert torch.equal(y, problem.bias[1][None, :, None, None].expand_as(y))
    assert not problem.grad_input()[problem.slots == 1].any()
    assert problem.grad_values(wanted=[1]).shape == (0,)
    problem.check()
    replace(problem, slots=torch.tensor(1)).check()


def test_one_image_per_slot(make_conv, cpu_level):
    problem = make_conv((40, 5, 6, 40, (5, 6), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)))
    replace(problem, slots=torch.arange(40).flip(0)).check()


def test_wanted_slots_come_in_the_order_asked_for(make_conv, cpu_level, same_rows):
    problem = make_conv("three_by_three")
    problem = replace(problem, slots=torch.where(problem.slots == 1, 2, problem.slots))  # slot 1 has no images
    every = problem.grad_values().split(problem.num_owned)
    some = problem.grad_values(wanted=[2, 1]).split([problem.num_owned[2], problem.num_owned[1]])
    same_rows(some[0], every[2])
    assert not some[1].any()
    assert problem.grad_values(wanted=[]).shape == (0,)
    same_rows(problem.grad_bias(wanted=[2, 1]), problem.grad_bias()[[2, 1]])


def test_inputs_are_left_alone(make_conv, cpu_level):
    problem = make_conv("many_channels")
    tensors = (problem.x, problem.weight.values, problem.weight.positions, problem.weight.index, problem.slots,
               problem.bias, problem.grad_y)  # fmt: skip
    before = [tensor.clone() for tensor in tensors]
    for result in RESULTS:
        problem.get(result)
    assert all(torch.equal(tensor, old) for tensor, old in zip(tensors, before, strict=True))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("padding", ["same", "valid", 0, 2, (1, 3)], ids=str)
@pytest.mark.parametrize("kernel_size", [(1, 1), (3, 3), (2, 5)], ids=str)
@pytest.mark.parametrize("dilation", [(1, 1), (2, 3)], ids=str)
def test_padding_is_that_of_torch(make_conv, padding, kernel_size, dilation):
    problem = make_conv((2, 3, 4, 1, (9, 14), kernel_size, *PLAIN), dtype=torch.float64)
    packed = problem.weight
    kernel = unpack(packed.values, packed.positions, 0).view(4, *kernel_size, 3).permute(0, 3, 1, 2)
    theirs = F.conv2d(problem.x, kernel, padding=padding, dilation=dilation)
    window = dict(kernel_size=kernel_size, dilation=dilation)
    resolved = resolve_padding(padding, kernel_size, (1, 1), dilation)
    ours = task_conv2d(problem.x, packed, torch.tensor(0), padding=resolved, **window)
    torch.testing.assert_close(ours, theirs)


def test_padding_that_is_no_padding():
    with pytest.raises(ValueError, match='padding must be "same", "valid" or numbers, got \'reflect\''):
        resolve_padding("reflect", (3, 3), (1, 1), (1, 1))
    with pytest.raises(ValueError, match=r'padding "same" needs stride 1, got \[1, 2\]'):
        resolve_padding("same", (3, 3), (1, 2), (1, 1))


X = torch.zeros(6, 5, 9, 10)
BAD = {
    "channels": (dict(x=torch.zeros(6, 4, 9, 10)), r"x must have shape \[B, 5, H, W\], got \[6, 4, 9, 10\]"),
    "three_dimensions": (dict(x=X[0]), r"x must have shape \[B, 5, H, W\], got \[5, 9, 10\]"),
    "integer_x": (dict(x=X.int()), r"x must be float32, float64, bfloat16 or float16, got torch.int32"),
    "complex_x": (dict(x=X.cfloat()), r"x must be float32, float64, bfloat16 or float16, got torch.complex64"),
    "float64_x": (dict(x=X.double()), r"x must have the weight's dtype torch.float32 .*, got torch.float64"),
    "device": (dict(x=X.to("meta")), r"weight must be on x's device meta, got (cpu|cuda:0)"),
    "slots_int32": (dict(slots=torch.zeros(6, dtype=torch.int32)), r"slots must be int64, got torch.int32"),
    "slots_bool": (dict(slots=torch.zeros(6, dtype=torch.bool)), r"slots must be int64, got torch.bool"),
    "slots_column": (dict(slots=torch.zeros(6, 1, dtype=torch.int64)), r"slots must .* \[\] or \[6\].*got \[6, 1\]"),
    "slots_length": (dict(slots=torch.zeros(5, dtype=torch.int64)), r"slots must have shape \[\] or \[6\].*got \[5\]"),
    "bias_shape": (dict(bias=torch.zeros(7)), r"bias must be torch.float32 \[3, 7\], got torch.float32 \[7\]"),
    "bias_dtype": (dict(bias=torch.zeros(3, 7).half()), r"bias must be torch.float32 \[3, 7\], got torch.float16"),
    "activation": (dict(activation="gelu"), r"activation must be one of \('none', 'relu'\), got 'gelu'"),
    "kernel_size_three": (dict(kernel_size=(3, 3, 1)), r"kernel_size must be two positive numbers, got \[3, 3, 1\]"),
    "kernel_size_zero": (dict(kernel_size=(0, 3)), r"kernel_size must be two positive numbers, got \[0, 3\]"),
    "kernel_size_other": (dict(kernel_size=(2, 2)), r"kernel_size \[2, 2\] must divide the weight's 45 columns"),
    "stride_zero": (dict(stride=(1, 0)), r"stride must be two positive numbers, got \[1, 0\]"),
    "stride_negative": (dict(stride=(-1, 1)), r"stride must be two positive numbers, got \[-1, 1\]"),
    "dilation_zero": (dict(dilation=(0, 1)), r"dilation must be two positive numbers, got \[0, 1\]"),
    "padding_negative": (dict(padding=(0, 0, -1, 0)), r"padding must be .* none negative, got \[0, 0, -1, 0\]"),
    "padding_pair": (dict(padding=(1, 1)), r"padding must be \[top, .*\], none negative, got \[1, 1\]"),
    "image_too_small": (dict(x=X[:, :, :2]), r"x must be at least as large as the kernel, got \[2, 10\] with"),
    "dilated_kernel_too_large": (dict(dilation=(1, 5)), r"x must be at least as large.*dilation \[1, 5\]"),
    "image_of_no_height": (dict(x=X[:, :, :0]), r"x must be at least as large as the kernel, got \[0, 10\]"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD)
def test_bad_arguments(make_conv, changes, message):
    problem = make_conv("three_by_three")
    arguments = dict(x=problem.x, weight=problem.weight, slots=problem.slots, bias=problem.bias, kernel_size=(3, 3))
    with pytest.raises(ValueError, match="^task_conv2d: " + message):
        task_conv2d(**{**arguments, **changes})


def test_frozen_store_must_fit(make_conv, make_frozen):
    problem = make_conv("three_by_three")
    other = make_conv("smallest").weight
    with pytest.raises(ValueError, match=r"frozen must have the weight's shape \[3, 7, 45\], got \[1, 1, 1\]"):
        task_conv2d(problem.x, problem.weight, problem.slots, kernel_size=(3, 3), frozen=other)
    wide = make_frozen(problem.double())
    with pytest.raises(
        ValueError, match=r"task_conv2d: frozen must be torch.float32 on (\S+), got torch.float64 on \1"
    ):
        task_conv2d(problem.x, problem.weight, problem.slots, kernel_size=(3, 3), frozen=wide)


@pytest.mark.cpu_only(reason="a GPU is not waited for to look at positions")
def test_weight_shape_must_be_that_of_positions(make_conv):
    """A mistaken ``shape`` beside positions must not read or write outside memory."""
    problem = make_conv("three_by_three")
    with pytest.raises((ValueError, RuntimeError)):
        weight = problem.weight._replace(shape=(3, 7, 450))
        task_conv2d(torch.randn(6, 50, 9, 10), weight, problem.slots, kernel_size=(3, 3))
    with pytest.raises((ValueError, RuntimeError)):
        task_conv2d(problem.x, problem.weight._replace(shape=(3, 700, 45)), problem.slots, kernel_size=(3, 3))


@pytest.mark.cpu_only(reason="a GPU is not waited for to look at numbers: they give NaN")
@pytest.mark.parametrize("slot", [-1, 3, 2**40, -(2**63)])
@pytest.mark.parametrize("is_one", [True, False], ids=["one_slot", "one_per_image"])
def test_slot_out_of_range(make_conv, cpu_level, slot, is_one):
    problem = make_conv("three_by_three")
    slots = torch.tensor(slot) if is_one else torch.tensor([0, 1, slot, 2, 0, 0])
    problem = replace(problem, slots=slots)
    for result, op in (("forward", ""), ("grad_input", "_grad_input"), ("grad_values", "_grad_values")):
        with pytest.raises(IndexError, match=rf"task_conv2d{op}: slots must be in 0\.\.2, got {slot}"):
            problem.get(result)


def test_an_index_that_was_changed_is_refused(make_conv, compiled):
    """What would lead outside memory: the index of other positions, a shorter one, one with another first word."""
    problem = make_conv("three_by_three")
    whole = problem.weight.index
    other = make_conv("many_channels").weight.index
    changed = whole.clone()
    changed[0] += 1
    for index in (other, whole[: len(whole) // 2].clone(), changed, whole[:0]):
        with pytest.raises(ValueError, match="task_conv2d: index"):
            replace(problem, weight=problem.weight._replace(index=index)).forward()
