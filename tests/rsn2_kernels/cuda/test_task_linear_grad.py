"""The gradients of task_linear and of biases: the GPU kernels on the emulator, held against the reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rsn2_kernels.formats import PackedWeight, pack
from rsn2_kernels.formats.gather_index import gather_index
from rsn2_kernels.testing import DTYPES, LINEAR_SHAPES, assert_as_accurate

GRADIENTS = ("grad_input", "grad_values", "grad_bias")
DTYPE_PAIRS = [(dtype, dtype) for dtype in DTYPES]  # x, values
DTYPE_PAIRS += [(torch.bfloat16, torch.float32), (torch.float16, torch.float32)]
MORE_SHAPES = {  # B, I, O, T
    "tiles_exactly": (64, 256, 64, 2),
    "just_beyond_tiles": (129, 257, 65, 1),
    "rows_of_eights": (37, 264, 72, 3),
    "more_slots_than_rows": (9, 100, 30, 40),
    "more_slots_than_a_launch_takes": (20, 60, 20, 131),
    "few_rows_of_a_tall_weight": (3, 200, 300, 2),
    "one_output": (9, 300, 1, 2),
    "one_input": (70, 1, 300, 2),
}

of_all = pytest.mark.parametrize("gradient", GRADIENTS)
all_dtypes = pytest.mark.parametrize(
    "dtypes", DTYPE_PAIRS, ids=lambda pair: "-".join(str(dtype)[6:] for dtype in dict.fromkeys(pair))
)


def for_gpu(weight: PackedWeight) -> PackedWeight:
    return weight._replace(index=gather_index(weight.positions))


@pytest.fixture
def make(make_linear: Callable[..., Any], make_frozen: Callable[..., PackedWeight]) -> Callable[..., Any]:
    """Arguments of the gradients with the index that GPU kernels read."""

    def make(shape: Any, has_frozen: bool = False, **options: Any) -> Any:
        problem = make_linear(shape, **options)
        frozen = for_gpu(make_frozen(problem)) if has_frozen else None
        return replace(problem, weight=for_gpu(problem.weight), frozen=frozen)

    return make


def check(emulated: Any, problem: Any, gradient: str) -> None:
    """About as accurate as plain PyTorch; in float64, where sums of short numbers are exact, the exact answer."""
    if problem.x.dtype == torch.float64:
        problem = problem.with_exact_sums()
        assert torch.equal(problem.get(gradient, emulated), problem.exact(gradient))
        return
    ours = problem.get(gradient, emulated)
    factor = 3 if ours.dtype == torch.float32 and gradient != "grad_bias" else 2  # as for the CPU kernels
    assert_as_accurate(ours, problem.plain(gradient), problem.exact(gradient), factor)


@of_all
@all_dtypes
@pytest.mark.parametrize("shape", LINEAR_SHAPES)
def test_matches_reference(emulated, make, shape, dtypes, gradient):
    check(emulated, make(shape, dtype=dtypes[0], value_dtype=dtypes[1]), gradient)


@of_all
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", MORE_SHAPES.values(), ids=MORE_SHAPES)
def test_matches_reference_at_edges(emulated, make, shape, dtype, gradient):
    check(emulated, make(shape, dtype=dtype), gradient)


@of_all
@all_dtypes
def test_all_rows_of_one_slot(emulated, make, dtypes, gradient):
    problem = make((70, 270, 40, 3), dtype=dtypes[0], value_dtype=dtypes[1])
    check(emulated, replace(problem, slots=torch.tensor(1)), gradient)


@all_dtypes
@pytest.mark.parametrize(("shape", "gradient"), [((5, 70, 600, 2), "grad_input"), ((1100, 100, 30, 2), "grad_values")])
def test_sums_in_parts(emulated, make, shape, gradient, dtypes):
    """So little work that blocks share each sum; on the emulator up to four."""
    problem = make(shape, gradient == "grad_input", dtype=dtypes[0], value_dtype=dtypes[1])
    alone = replace(problem, slots=torch.tensor(1))
    check(emulated, problem, gradient)
    check(emulated, alone, gradient)
    nowhere = replace(problem, slots=torch.tensor(2))
    if gradient == "grad_input":
        assert nowhere.grad_input(emulated).isnan().all()
    else:
        assert (nowhere.grad_values(emulated) == 0).all()
    results = []
    for order in (0, 1, 2):
        emulated.set_order(order)
        results.append(alone.get(gradient, emulated))
    emulated.set_order(0)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@pytest.mark.parametrize("gradient", ["grad_input", "grad_values"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("density", [0.01, 0.5, 1.0])
def test_every_density(emulated, make, density, dtype, gradient):
    check(emulated, make((33, 270, 35, 1), density=density, dtype=dtype), gradient)


@all_dtypes
def test_frozen_weights_are_read(emulated, make, dtypes):
    check(emulated, make((70, 270, 70, 3), True, dtype=dtypes[0], value_dtype=dtypes[1]), "grad_input")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_slot_with_frozen_weights_alone(emulated, make, make_frozen, dtype):
    problem = make("several_tiles", True, dtype=dtype)
    num_slots, num_rows, num_columns = problem.weight.shape
    nothing = pack(torch.zeros(num_rows, num_columns, dtype=dtype), torch.zeros(problem.weight.shape, dtype=torch.bool))
    check(emulated, replace(problem, weight=for_gpu(nothing._replace(index=problem.weight.index))), "grad_input")


@of_all
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_same_bits_in_every_order_of_threads(emulated, make, dtype, gradient):
    problem = make((70, 300, 41, 2), True, dtype=dtype)
    results = []
    for order in (0, 1, 2, 3):
        emulated.set_order(order)
        results.append(problem.get(gradient, emulated))
    emulated.set_order(0)
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_mixed_batch_equals_its_slots_one_by_one(emulated, make, dtype):
    problem = make((90, 300, 41, 5), True, dtype=dtype)
    grad_x, grad_values = problem.grad_input(emulated), problem.grad_values(emulated).split(problem.num_owned)
    grad_bias = problem.grad_bias(emulated)
    for slot in range(5):
        alone = problem.of_one_slot(slot)
        assert torch.equal(grad_x[problem.slots == slot], alone.grad_input(emulated))
        assert torch.equal(grad_values[slot], alone.grad_values(emulated, [slot]))
        # Rows are summed in chunks of 32 of the batch, so that the same rows in other places round differently.
        torch.testing.assert_close(grad_bias[slot], alone.grad_bias(emulated, [slot])[0])


@all_dtypes
def test_wanted_slots_in_any_order(emulated, make, dtypes):
    problem = make((40, 270, 35, 4), dtype=dtypes[0], value_dtype=dtypes[1])
    every, bias = problem.grad_values(emulated).split(problem.num_owned), problem.grad_bias(emulated)
    for wanted in ([2], [3, 0], [1, 3, 2, 0], []):
        some = torch.cat([every[slot] for slot in wanted]) if wanted else every[0][:0]
        assert torch.equal(problem.grad_values(emulated, wanted), some)
        assert torch.equal(problem.grad_bias(emulated, wanted), bias[wanted])


@of_all
@all_dtypes
def test_wanted_slots_without_rows_get_zeros(emulated, make, dtypes, gradient):
    problem = make((20, 270, 35, 4), dtype=dtypes[0], value_dtype=dtypes[1])
    problem = replace(problem, slots=problem.slots % 2 * 2)
    check(emulated, problem, gradient)
    assert (problem.grad_values(emulated, [1, 3]) == 0).all()
    assert (problem.grad_bias(emulated, [1, 3]) == 0).all()


@all_dtypes
@pytest.mark.parametrize("is_mixed", [False, True], ids=["one_slot", "mixed"])
def test_no_rows(emulated, make, dtypes, is_mixed):
    problem = make("empty_batch", dtype=dtypes[0], value_dtype=dtypes[1])
    problem = problem if is_mixed else replace(problem, slots=torch.tensor(1))
    assert problem.grad_input(emulated).shape == problem.x.shape
    assert torch.equal(problem.grad_values(emulated), torch.zeros_like(problem.weight.values))
    assert (problem.grad_bias(emulated) == 0).all()


@all_dtypes
def test_ids_out_of_range(emulated, make, dtypes):
    problem = make((70, 270, 35, 3), dtype=dtypes[0], value_dtype=dtypes[1])
    is_wrong = torch.arange(70) % 5 == 2
    wrong = torch.tensor([-1, 3, 2**40]).repeat(24)[:70]
    mixed = replace(problem, slots=torch.where(is_wrong, wrong, problem.slots))
    right = problem.rows(~is_wrong)
    grad_x = mixed.grad_input(emulated)
    assert grad_x[is_wrong].isnan().all()
    assert torch.equal(grad_x[~is_wrong], right.grad_input(emulated))
    assert torch.equal(mixed.grad_values(emulated), right.grad_values(emulated))
    torch.testing.assert_close(mixed.grad_bias(emulated), right.grad_bias(emulated))
    for slot in (-1, 3):
        alone = replace(problem, slots=torch.tensor(slot))
        assert alone.grad_input(emulated).isnan().all()
        assert (alone.grad_values(emulated) == 0).all()
        assert (alone.grad_bias(emulated) == 0).all()


@all_dtypes
def test_others_rows_and_values_change_nothing(emulated, make, dtypes):
    problem = make((70, 270, 35, 3), True, dtype=dtypes[0], value_dtype=dtypes[1])
    mine = problem.slots == 1
    values, frozen = problem.weight.values.clone(), problem.frozen.values.clone()
    first, last = sum(problem.num_owned[:1]), sum(problem.num_owned[:2])
    values[:first] = values[last:] = torch.nan
    x, grad_y = problem.x.clone(), problem.grad_y.clone()
    x[~mine] = grad_y[~mine] = torch.nan
    other = replace(problem, x=x, grad_y=grad_y, frozen=problem.frozen._replace(values=frozen)).with_values(values)
    assert torch.equal(problem.grad_input(emulated)[mine], other.grad_input(emulated)[mine])
    assert torch.equal(problem.grad_values(emulated, [1]), other.grad_values(emulated, [1]))
    assert torch.equal(problem.grad_bias(emulated, [1]), other.grad_bias(emulated, [1]))


def strided(tensor: Tensor, how: str) -> Tensor:
    """The same numbers, laid out differently."""
    if how == "transposed":
        return tensor.T.contiguous().T
    if how == "rows_apart":  # by whole 16 bytes, so that rows are aligned and end inside a piece of them
        wide = torch.full((len(tensor), tensor.shape[1] // 16 * 16 + 48), torch.nan, dtype=tensor.dtype)
        wide[:, : tensor.shape[1]] = tensor
        return wide[:, : tensor.shape[1]]
    if how == "off_by_one":
        flat = torch.full((tensor.numel() + 1,), torch.nan, dtype=tensor.dtype)
        flat[1:] = tensor.flatten()
        return flat[1:].view(tensor.shape)
    return torch.full((2 * len(tensor), 3 * tensor.shape[1]), torch.nan, dtype=tensor.dtype).index_put_(
        (torch.arange(len(tensor))[:, None] * 2, torch.arange(tensor.shape[1]) * 3), tensor
    )[::2, ::3]


@of_all
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("how", ["transposed", "rows_apart", "off_by_one", "every_other"])
def test_any_strides(emulated, make, how, dtype, gradient):
    problem = make((40, 270, 36, 2), dtype=dtype)
    slots = problem.slots.repeat_interleave(3)[::3]
    other = replace(problem, x=strided(problem.x, how), grad_y=strided(problem.grad_y, how), slots=slots)
    assert torch.equal(other.x, problem.x) and torch.equal(other.grad_y, problem.grad_y)
    assert torch.equal(other.get(gradient, emulated), problem.get(gradient, emulated))


@of_all
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_row_repeated(emulated, make, dtype, gradient):
    """What the backward of sum() hands over: strides of zero."""
    problem = make((40, 270, 36, 2), dtype=dtype)
    repeated = replace(problem, grad_y=torch.ones((), dtype=dtype).expand(40, 36))
    written = replace(problem, grad_y=torch.ones(40, 36, dtype=dtype))
    assert torch.equal(repeated.get(gradient, emulated), written.get(gradient, emulated))


def test_dtypes_without_a_kernel(emulated, make):
    problem = make("one_task")
    for x, values in [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float16), (torch.float64, torch.float32)]:
        other = replace(problem, x=problem.x.to(x), grad_y=problem.grad_y.to(x)).with_values(
            problem.weight.values.to(values)
        )
        with pytest.raises(ValueError, match="task_linear_grad_values: x and values must both be"):
            other.grad_values(emulated)
        with pytest.raises(ValueError, match="task_linear_grad_input: grad_y and values must both be"):
            other.grad_input(emulated)
