"""task_linear and its gradients against their references; what they accept and refuse."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from rsn2_kernels.formats import pack
from rsn2_kernels.ops import task_conv2d_index, task_linear, task_linear_index
from rsn2_kernels.testing import DTYPES, LINEAR_SHAPES

RESULTS = ("forward", "grad_input", "grad_values", "grad_bias")
DTYPE_PAIRS = [(dtype, dtype) for dtype in DTYPES]  # x, values
DTYPE_PAIRS += [(torch.bfloat16, torch.float32), (torch.float16, torch.float32)]
MORE_SHAPES = {  # B, I, O, T
    "slots_200": (64, 60, 40, 200),
    "many_more_slots_than_rows": (3, 30, 20, 1200),
    "one_row": (1, 300, 70, 3),
    "one_output": (9, 300, 1, 2),
    "one_input": (70, 1, 300, 2),
    "tile_exactly": (64, 256, 16, 2),
    "tile_and_one": (65, 257, 17, 2),
}

matches = pytest.mark.parametrize("result", RESULTS)


def name_of(dtypes: tuple[torch.dtype, torch.dtype]) -> str:
    return "-".join(str(dtype).removeprefix("torch.") for dtype in dict.fromkeys(dtypes))


@matches
@pytest.mark.parametrize("dtypes", DTYPE_PAIRS, ids=name_of)
@pytest.mark.parametrize("shape", LINEAR_SHAPES)
def test_matches_reference(make_linear, cpu_level, shape, dtypes, result):
    make_linear(shape, dtype=dtypes[0], value_dtype=dtypes[1]).check(result)


@matches
@pytest.mark.parametrize("shape", MORE_SHAPES.values(), ids=MORE_SHAPES)
def test_matches_reference_at_edges(make_linear, cpu_level, shape, result):
    make_linear(shape).check(result)


@matches
@pytest.mark.parametrize("density", [0.01, 0.06, 0.0625, 0.07, 0.5, 1.0])
def test_every_density(make_linear, cpu_level, density, result):
    """Tiles as offsets, as bits, and full."""
    make_linear((33, 270, 35, 1), density=density).check(result)


@matches
@pytest.mark.parametrize("dtypes", DTYPE_PAIRS, ids=name_of)
def test_all_rows_of_one_slot(make_linear, cpu_level, dtypes, result):
    problem = make_linear("divides_nothing", dtype=dtypes[0], value_dtype=dtypes[1])
    replace(problem, slots=torch.tensor(2)).check(result)


@pytest.mark.parametrize("activation", ["none", "relu"])
@pytest.mark.parametrize("has_bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize("has_frozen", [True, False], ids=["frozen", "no_frozen"])
@pytest.mark.parametrize("dtypes", DTYPE_PAIRS, ids=name_of)
def test_bias_frozen_and_activation(make_linear, make_frozen, cpu_level, dtypes, has_frozen, has_bias, activation):
    problem = make_linear("divides_nothing", dtype=dtypes[0], value_dtype=dtypes[1])
    problem = replace(problem, activation=activation, bias=problem.bias if has_bias else None)
    (replace(problem, frozen=make_frozen(problem)) if has_frozen else problem).check("forward", "grad_input")


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(0, 150), st.integers(1, 600), st.integers(1, 80), st.integers(1, 6),
    st.sampled_from([0.01, 0.05, 0.15]), st.booleans(), st.integers(0, 99),
)  # fmt: skip
def test_any_shape(make_linear, cpu_level, batch, num_inputs, num_outputs, num_slots, density, is_one, seed):
    shape = (batch, num_inputs, num_outputs, num_slots)
    problem = make_linear(shape, density=density, seed=seed, dtype=torch.float64)
    (replace(problem, slots=torch.tensor(num_slots - 1)) if is_one else problem).check()


def test_relu_keeps_nan(make_linear, cpu_level):
    problem = make_linear("divides_nothing", density=1 / 3)
    problem = replace(problem, x=torch.full_like(problem.x, torch.nan), activation="relu")
    assert problem.forward().isnan().all()


def as_transposed(x: Tensor) -> Tensor:
    return x.t().contiguous().t()


def as_every_other_column(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, 1)[:, ::2]


def as_unaligned(x: Tensor) -> Tensor:
    whole = x.new_empty(x.numel() + 1)
    return whole[1:].view_as(x).copy_(x)


def as_one_row_expanded(x: Tensor) -> Tensor:
    return x[:1].expand_as(x)


def as_one_number_expanded(x: Tensor) -> Tensor:
    return x[:1, :1].expand_as(x)


VIEWS = (as_transposed, as_every_other_column, as_unaligned, as_one_row_expanded, as_one_number_expanded)


@matches
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.__name__)
def test_any_strides(make_linear, cpu_level, view, dtype, result):
    problem = make_linear("divides_nothing", dtype=dtype)
    slots = problem.slots.repeat(2, 1).t()[:, 0]
    problem = replace(problem, x=view(problem.x), grad_y=view(problem.grad_y), slots=slots)
    problem.check(result)
    assert problem.forward().is_contiguous()
    assert problem.grad_input().is_contiguous()


def test_a_slot_without_weights_gives_its_bias(make_linear, cpu_level):
    problem = make_linear("divides_nothing")
    masks = torch.zeros(3, 17, 33, dtype=torch.bool)
    masks[0], masks[0, 4], masks[2, 4] = True, False, True  # nothing for slot 1
    packed = pack(torch.randn(17, 33), masks)
    packed = packed._replace(index=task_linear_index(packed.positions))
    problem = replace(problem, weight=packed, slots=torch.tensor([1, 0, 1, 2, 1]))
    assert torch.equal(problem.forward()[problem.slots == 1], problem.bias[1].expand(3, 17))
    assert not problem.grad_input()[problem.slots == 1].any()
    assert problem.grad_values(wanted=[1]).shape == (0,)
    problem.check()
    replace(problem, slots=torch.tensor(1)).check()


def test_a_layer_without_any_weights(make_linear, cpu_level):
    packed = pack(torch.randn(17, 33), torch.zeros(3, 17, 33, dtype=torch.bool))
    problem = make_linear("divides_nothing")
    problem = replace(problem, weight=packed._replace(index=task_linear_index(packed.positions)))
    assert torch.equal(problem.forward(), problem.bias[problem.slots])
    assert not problem.grad_input().any()
    assert problem.grad_values().shape == (0,)


@pytest.mark.parametrize("has_many_slots", [True, False], ids=["many_slots", "few_slots"])
def test_one_row_per_slot(make_linear, cpu_level, has_many_slots):
    num_slots = 40 if has_many_slots else 3
    problem = make_linear((num_slots, 70, 30, num_slots))
    replace(problem, slots=torch.arange(num_slots).flip(0)).check()


def test_wanted_slots_come_in_the_order_asked_for(make_linear, cpu_level, same_rows):
    problem = make_linear("several_tiles")
    problem = replace(problem, slots=torch.where(problem.slots == 1, 3, problem.slots))  # slot 1 has no rows
    every = problem.grad_values().split(problem.num_owned)
    some = problem.grad_values(wanted=[3, 1, 0]).split([problem.num_owned[slot] for slot in (3, 1, 0)])
    for slot, grad in zip((3, 1, 0), some, strict=True):
        same_rows(grad, every[slot])
    assert not some[1].any()
    assert problem.grad_values(wanted=[]).shape == (0,)
    same_rows(problem.grad_bias(wanted=[3, 1]), problem.grad_bias()[[3, 1]])
    assert problem.grad_bias(wanted=[]).shape == (0, 97)


def test_inputs_are_left_alone(make_linear, cpu_level):
    problem = make_linear("several_tiles")
    tensors = (problem.x, problem.weight.values, problem.weight.positions, problem.weight.index, problem.slots,
               problem.bias, problem.grad_y)  # fmt: skip
    before = [tensor.clone() for tensor in tensors]
    for result in RESULTS:
        problem.get(result)
    assert all(torch.equal(tensor, old) for tensor, old in zip(tensors, before, strict=True))


def test_leading_dimensions(make_linear):
    problem = make_linear("divides_nothing")
    x = torch.randn(5, 2, 4, 33)
    y = task_linear(x, problem.weight, problem.slots, problem.bias)
    assert y.shape == (5, 2, 4, 17)
    flat = task_linear(x.view(40, 33), problem.weight, problem.slots.repeat_interleave(8), problem.bias)
    assert torch.equal(y.view(40, 17), flat)
    assert task_linear(x, problem.weight, torch.tensor(1)).shape == (5, 2, 4, 17)
    assert task_linear(x[:0], problem.weight, problem.slots[:0]).shape == (0, 2, 4, 17)
    assert task_linear(x[:, :0], problem.weight, problem.slots).shape == (5, 0, 4, 17)


X = torch.zeros(5, 33)
BAD = {
    "features": (dict(x=torch.zeros(5, 32)), r"x must have shape \[B, \.\.\., 33\], got \[5, 32\]"),
    "one_dimension": (dict(x=torch.zeros(33)), r"x must have shape \[B, \.\.\., 33\], got \[33\]"),
    "integer_x": (dict(x=X.long()), r"x must be float32, float64, bfloat16 or float16, got torch.int64"),
    "complex_x": (dict(x=X.cfloat()), r"x must be float32, float64, bfloat16 or float16, got torch.complex64"),
    "bool_x": (dict(x=X.bool()), r"x must be float32, float64, bfloat16 or float16, got torch.bool"),
    "float64_x": (dict(x=X.double()), r"x must have the weight's dtype torch.float32 .*, got torch.float64"),
    "device": (dict(x=X.to("meta")), r"weight must be on x's device meta, got (cpu|cuda:0)"),
    "slots_device": (dict(slots=X[:, 0].long().to("meta")), r"slots must be on x's device (cpu|cuda:0), got meta"),
    "slots_int32": (dict(slots=torch.zeros(5, dtype=torch.int32)), r"slots must be int64, got torch.int32"),
    "slots_bool": (dict(slots=torch.zeros(5, dtype=torch.bool)), r"slots must be int64, got torch.bool"),
    "slots_float": (dict(slots=torch.zeros(5)), r"slots must be int64, got torch.float32"),
    "slots_column": (dict(slots=torch.zeros(5, 1, dtype=torch.int64)), r"slots must .* \[\] or \[5\].*got \[5, 1\]"),
    "slots_length": (dict(slots=torch.zeros(4, dtype=torch.int64)), r"slots must have shape \[\] or \[5\].*got \[4\]"),
    "slots_one": (dict(slots=torch.zeros(1, dtype=torch.int64)), r"slots must have shape \[\] or \[5\].*got \[1\]"),
    "bias_shape": (dict(bias=torch.zeros(17)), r"bias must be torch.float32 \[3, 17\], got torch.float32 \[17\]"),
    "bias_dtype": (dict(bias=torch.zeros(3, 17).double()), r"bias must be torch.float32 \[3, 17\], got torch.float64"),
    "activation": (dict(activation="gelu"), r"activation must be one of \('none', 'relu'\), got 'gelu'"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD)
def test_bad_arguments(make_linear, changes, message):
    problem = make_linear("divides_nothing")
    arguments = dict(x=problem.x, weight=problem.weight, slots=problem.slots, bias=problem.bias)
    with pytest.raises(ValueError, match="^task_linear: " + message):
        task_linear(**{**arguments, **changes})


def test_wide_values_under_narrow_x_only(make_linear):
    problem = make_linear("divides_nothing", dtype=torch.float64)
    with pytest.raises(ValueError, match=r"x must have the weight's dtype torch.float64, got torch.float16"):
        task_linear(problem.x.half(), problem.weight, problem.slots)


def test_frozen_store_must_fit(make_linear, make_frozen):
    problem = make_linear("divides_nothing")
    other = make_linear("one_task").weight
    with pytest.raises(ValueError, match=r"frozen must have the weight's shape \[3, 17, 33\], got \[1, 3, 8\]"):
        task_linear(problem.x, problem.weight, problem.slots, frozen=other)
    wide = make_frozen(problem.double())
    with pytest.raises(
        ValueError, match=r"task_linear: frozen must be torch.float32 on (\S+), got torch.float64 on \1"
    ):
        task_linear(problem.x, problem.weight, problem.slots, frozen=wide)


@pytest.mark.cpu_only(reason="a GPU is not waited for to look at positions")
def test_weight_shape_must_be_that_of_positions(make_linear):
    """A mistaken ``shape`` beside positions must not read or write outside memory."""
    problem = make_linear("divides_nothing")
    with pytest.raises((ValueError, RuntimeError)):
        task_linear(torch.randn(5, 1000), problem.weight._replace(shape=(3, 17, 1000)), problem.slots)
    with pytest.raises((ValueError, RuntimeError)):
        task_linear(problem.x, problem.weight._replace(shape=(3, 1000, 33)), problem.slots)


def test_the_index_of_a_convolution_is_refused(make_linear, compiled):
    """Their words differ; taken for one another they would lead outside memory."""
    problem = make_linear("divides_nothing")
    weight = problem.weight._replace(index=task_conv2d_index(problem.weight.positions, [1, 1]))
    with pytest.raises(ValueError, match="task_linear: index must be task_linear_index of the positions"):
        task_linear(problem.x, weight, problem.slots)


@pytest.mark.cpu_only(reason="a GPU is not waited for to look at numbers: they give NaN")
@pytest.mark.parametrize("slot", [-1, 3, 2**40, -(2**63)])
@pytest.mark.parametrize("is_one", [True, False], ids=["one_slot", "one_per_row"])
def test_slot_out_of_range(make_linear, cpu_level, slot, is_one):
    problem = make_linear("divides_nothing")
    slots = torch.tensor(slot) if is_one else torch.tensor([0, 1, slot, 2, 0])
    with pytest.raises(IndexError, match=rf"task_linear: slots must be in 0\.\.2, got {slot}"):
        task_linear(problem.x, problem.weight, slots)
    problem = replace(problem, slots=slots)
    for result, op in (("grad_input", "task_linear_grad_input"), ("grad_values", "task_linear_grad_values")):
        with pytest.raises(IndexError, match=rf"{op}: slots must be in 0\.\.2, got {slot}"):
            problem.get(result)


@pytest.mark.cpu_only(reason="a GPU is not waited for to look at numbers: they give NaN")
def test_slot_out_of_range_in_an_empty_batch(make_linear, cpu_level):
    problem = make_linear("empty_batch")
    with pytest.raises(IndexError, match=r"task_linear: slots must be in 0\.\.1, got 2"):
        task_linear(problem.x, problem.weight, torch.tensor(2))
