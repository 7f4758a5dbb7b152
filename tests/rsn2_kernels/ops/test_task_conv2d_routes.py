"""The convolution's dense route: when it is taken, and that all else stays as it is on the sparse one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rsn2_kernels._build import native
from rsn2_kernels.formats import pack
from rsn2_kernels.ops import task_conv2d, task_conv2d_index
from rsn2_kernels.reference._common import dense_weight
from rsn2_kernels.reference.task_conv2d import as_kernel
from rsn2_kernels.testing import CONV_SHAPES, assert_as_accurate, seeded

OPERATORS = torch.ops.rsn2_kernels
PRODUCTS = pytest.mark.parametrize("result", ["forward", "grad_input"])
LAYOUTS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
# B, C, O, T, (H, W), (P, Q), stride, padding, dilation. Images large enough for the dense route.
THREE = (5, 32, 20, 3, (26, 25), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1))
FIVE = (3, 32, 12, 3, (26, 25), (5, 5), (1, 1), (2, 2, 2, 2), (1, 1))
STRIDED = (3, 32, 20, 3, (31, 26), (3, 3), (2, 1), (1, 1, 0, 0), (1, 1))
LEAST = {THREE: 0.8, FIVE: 0.7, STRIDED: 0.8}
IDS = ["3x3", "5x5", "3x3_strided"]


@pytest.fixture
def counters() -> Iterator[Callable[[], dict[str, tuple[int, int]]]]:
    """(calls, weights read) for each operator since the last look, and for those that took the dense route."""
    was_counting = native().is_counting()
    native().set_counting(True)
    native().reset_debug_counters()

    def look() -> dict[str, tuple[int, int]]:
        found = native().debug_counters()
        native().reset_debug_counters()
        return found

    yield look
    native().set_counting(was_counting)
    native().reset_debug_counters()


@pytest.fixture
def always_dense(compiled: str) -> Iterator[None]:
    native().set_conv2d_route("dense")
    yield
    native().set_conv2d_route("rule")


@pytest.fixture
def make_owned(make_conv: Any) -> Callable[..., Any]:
    """A problem whose slot t owns ``num_owned[t]`` weights at random places; in its batch the slots take turns."""

    def make(shape: tuple[Any, ...], num_owned: list[int], dtype: torch.dtype = torch.float32) -> Any:
        problem = make_conv(shape, dtype=dtype)
        _, num_rows, num_columns = problem.weight.shape
        generator = seeded(5)
        places = torch.randperm(num_rows * num_columns, generator=generator).split(
            [*num_owned, num_rows * num_columns - sum(num_owned)]
        )
        masks = torch.zeros(len(num_owned), num_rows * num_columns, dtype=torch.bool)
        for mask, own in zip(masks, places, strict=False):
            mask[own] = True
        dense = torch.randn(num_rows, num_columns, generator=generator).to(dtype)
        packed = pack(dense, masks.view(-1, num_rows, num_columns))
        packed = packed._replace(index=task_conv2d_index(packed.positions, problem.window[0]))
        return replace(problem, weight=packed, slots=torch.arange(len(problem.x)) % len(num_owned))

    return make


def numel_of(shape: tuple[Any, ...]) -> int:
    return int(shape[1] * shape[2] * shape[5][0] * shape[5][1])


def mostly_slot_0(shape: tuple[Any, ...]) -> list[int]:
    """Slot 0 owns nine tenths of the weights, which is above every threshold, the others little."""
    return [numel_of(shape) * 9 // 10, numel_of(shape) // 20, numel_of(shape) // 30]


def with_layout(problem: Any, layout: torch.memory_format) -> Any:
    return replace(
        problem, x=problem.x.contiguous(memory_format=layout), grad_y=problem.grad_y.contiguous(memory_format=layout)
    )


@pytest.mark.parametrize("shape", LEAST, ids=IDS)
def test_is_taken_from_the_threshold_on(make_owned, compiled, counters, shape):
    least = round(LEAST[shape] * numel_of(shape))
    for num_owned, is_dense in ((least, True), (least - 1, False)):
        problem = make_owned(shape, [num_owned, numel_of(shape) - num_owned, 0])
        for result in ("forward", "grad_input", "grad_values"):
            counters()
            problem.get(result)
            name = "task_conv2d" if result == "forward" else f"task_conv2d_{result}"
            found = counters()
            assert found[name] == (1, numel_of(shape))
            wants_dense = is_dense and (result == "forward" or (result == "grad_input" and shape != STRIDED))
            assert found.get(f"{name}.dense") == ((1, num_owned) if wants_dense else None)


def test_counts_what_is_read_frozen(make_owned, make_frozen, compiled, counters):
    problem = make_owned(THREE, mostly_slot_0(THREE)[::-1])
    problem = replace(problem, slots=torch.tensor(0))
    problem.forward()
    assert "task_conv2d.dense" not in counters()
    replace(problem, frozen=make_frozen(problem, density=0.9)).forward()
    assert "task_conv2d.dense" in counters()


@pytest.mark.parametrize(
    "shape",
    [
        (2, 32, 4, 1, (26, 25), (1, 1), (1, 1), (0, 0, 0, 0), (1, 1)),
        (2, 32, 4, 1, (26, 25), (2, 4), (1, 1), (1, 1, 1, 1), (1, 1)),
        (2, 32, 4, 1, (26, 25), (3, 3), (1, 1), (1, 0, 1, 1), (1, 1)),
        (2, 32, 4, 1, (26, 25), (3, 3), (1, 1), (1, 1, 1, 1), (1, 2)),
        (2, 32, 4, 1, (32, 20), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    ],
    ids=["1x1", "2x4", "uneven_padding", "dilated", "small_image"],
)
def test_is_not_taken(make_owned, compiled, counters, shape):
    problem = make_owned(shape, [numel_of(shape)])
    problem.forward()
    problem.grad_input()
    assert not [name for name in counters() if name.endswith(".dense")]


@pytest.mark.parametrize(("channels", "is_dense"), [(31, False), (32, True)])
def test_gradient_of_an_input_of_few_channels(make_owned, compiled, counters, channels, is_dense):
    shape = (2, channels, 4, 1, (27, 25), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1))
    problem = make_owned(shape, [numel_of(shape)])
    problem.forward()
    assert "task_conv2d.dense" in counters()
    problem.grad_input()
    assert ("task_conv2d_grad_input.dense" in counters()) == is_dense


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_is_not_taken_beyond_float32(make_owned, compiled, counters, dtype):
    problem = make_owned(THREE, [numel_of(THREE), 0, 0], dtype)
    problem.forward()
    problem.grad_input()
    assert not [name for name in counters() if name.endswith(".dense")]


def dense_convolution(problem: Any, result: str) -> Tensor:
    """``F.conv2d`` of each slot's images with its dense weight, or PyTorch's own gradient of it.

    Not the reference, which pads the images beforehand: PyTorch then takes another way, of other accuracy.
    """
    kernel_size, stride, (vertical, _, horizontal, _), dilation = problem.window
    results = torch.zeros_like(problem.exact(result), dtype=torch.float32)
    for slot in problem.slots.unique().tolist():
        rows = problem.slots == slot
        matrix = dense_weight(
            problem.weight.values, problem.weight.positions, problem.frozen_tensors, slot, torch.float32
        )
        x = problem.x[rows].requires_grad_()
        y = F.conv2d(
            x, as_kernel(matrix, kernel_size).contiguous(), problem.bias[slot], stride, (vertical, horizontal), dilation
        )
        if result == "grad_input":
            y.backward(problem.grad_y[rows])
        results[rows] = x.grad if result == "grad_input" else y.detach().relu()
    return results


@PRODUCTS
@LAYOUTS
@pytest.mark.parametrize("shape", LEAST, ids=IDS)
@pytest.mark.parametrize("has_frozen", [True, False], ids=["frozen", "no_frozen"])
def test_is_as_accurate_on_both_sides_of_the_threshold(
    make_owned, make_frozen, compiled, shape, layout, has_frozen, result
):
    for density in (LEAST[shape] - 0.01, LEAST[shape] + 0.01):
        owned = round(density * numel_of(shape))
        problem = with_layout(make_owned(shape, [owned, numel_of(shape) - owned, 0]), layout)
        problem = replace(problem, activation="relu", frozen=make_frozen(problem, 0.1) if has_frozen else None)
        assert_as_accurate(problem.get(result), dense_convolution(problem, result), problem.exact(result))


@PRODUCTS
@LAYOUTS
@pytest.mark.parametrize("shape", CONV_SHAPES)
def test_is_as_accurate_for_any_shape(make_conv, always_dense, shape, layout, result):
    problem = with_layout(make_conv(shape), layout)
    problem.check(result)
    assert problem.get(result).stride() == problem.plain(result).stride()


@PRODUCTS
@LAYOUTS
@pytest.mark.parametrize("shape", LEAST, ids=IDS)
def test_mixed_batch_equals_its_slots_and_its_rows(make_owned, compiled, shape, layout, result):
    problem = with_layout(make_owned(shape, mostly_slot_0(shape)), layout)
    order = torch.randperm(len(problem.x), generator=seeded(1))
    problem = problem.rows(order)  # of all slots in any order: slot 0 dense, the others not
    mixed = problem.get(result)
    for slot in range(3):
        assert torch.equal(mixed[problem.slots == slot], problem.of_one_slot(slot).get(result))
    for row in range(len(problem.x)):
        assert torch.equal(mixed[row : row + 1], problem.rows(torch.tensor([row])).get(result))


@PRODUCTS
def test_equals_in_parts_of_any_size(make_owned, compiled, set_num_threads, result):
    """More images than go through libtorch at once; any number of them, on any number of threads."""
    problem = make_owned((31, *THREE[1:]), mostly_slot_0(THREE))
    problem = replace(problem, slots=torch.tensor(0))
    set_num_threads(1)
    whole = problem.get(result)
    for num_threads, last in ((1, 13), (2, 31), (2, 1), (4, 29)):
        set_num_threads(num_threads)
        part = replace(problem, x=problem.x[:last], grad_y=problem.grad_y[:last])
        assert torch.equal(part.get(result), whole[:last])


@PRODUCTS
def test_other_slots_may_hold_nan(make_owned, compiled, result):
    shape = THREE
    problem = make_owned(shape, mostly_slot_0(shape))
    problem = replace(problem, slots=torch.tensor([0, 2, 0, 2, 2]))
    first = mostly_slot_0(shape)[0]
    values, bias = problem.weight.values.clone(), problem.bias.clone()
    values[first : first + mostly_slot_0(shape)[1]] = torch.nan
    bias[1] = torch.nan
    assert torch.equal(replace(problem.with_values(values), bias=bias).get(result), problem.get(result))


def as_every_other_column(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, 3)[:, :, :, ::2]


@PRODUCTS
def test_images_with_other_strides(make_owned, compiled, result):
    problem = make_owned(THREE, mostly_slot_0(THREE))
    other = replace(problem, x=as_every_other_column(problem.x), grad_y=as_every_other_column(problem.grad_y))
    assert torch.equal(other.get(result), problem.get(result))


@LAYOUTS
def test_gradients_and_operator_checks(make_owned, make_frozen, compiled, layout):
    problem = with_layout(make_owned(STRIDED, mostly_slot_0(STRIDED)), layout)
    problem = replace(problem, activation="relu", frozen=make_frozen(problem, 0.05))
    x = problem.x.clone().requires_grad_()
    names = dict(zip(("kernel_size", "stride", "padding", "dilation"), problem.window, strict=True))
    own = torch.nn.Parameter(problem.weight.values[: problem.num_owned[0]])
    weight = problem.weight._replace(trainable=(own,), trainable_slots=(0,))
    y = task_conv2d(x, weight, problem.slots, problem.bias, frozen=problem.frozen, activation="relu", **names)
    y.backward(problem.grad_y)
    masked = replace(problem, grad_y=problem.grad_y * (y > 0))
    assert torch.equal(x.grad, masked.grad_input())
    assert torch.equal(own.grad, masked.grad_values(wanted=[0]))
    assert_as_accurate(x.grad, dense_convolution(masked, "grad_input"), masked.exact("grad_input"))

    frozen = problem.frozen_tensors
    rest = (problem.bias, frozen, "relu", problem.weight.shape[1], *problem.window, [], [], [], [])
    torch.library.opcheck(OPERATORS.task_conv2d.default, (x.detach(), *problem.packed, *rest))
    size = list(x.shape[1:])
    arguments = (problem.grad_y, *problem.packed, frozen, size, *problem.window)
    torch.library.opcheck(OPERATORS.task_conv2d_grad_input.default, arguments)


def test_unknown_route_is_refused(compiled):
    with pytest.raises(ValueError, match="'rule', 'sparse' or 'dense', got 'fast'"):
        native().set_conv2d_route("fast")
