"""Ids that no slot has: of rows under RSN2_DEBUG=1, of wanted gradients; a bias or frozen store of fewer slots."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rsn2_kernels.formats import PackedWeight, gather_index, pack
from rsn2_kernels.testing import random_masks

OPS = ["task_linear", "task_conv2d"]
RESULTS = ["forward", "grad_input", "grad_values"]
DTYPES = [(torch.float32,) * 2, (torch.float64,) * 2, (torch.bfloat16,) * 2, (torch.float16, torch.float32)]
IS_DEBUG = os.environ.get("RSN2_DEBUG") == "1"

every_dtype = pytest.mark.parametrize("dtypes", DTYPES, ids=str)


def with_index(packed: PackedWeight) -> PackedWeight:
    return packed._replace(index=gather_index(packed.positions))


@pytest.fixture(params=OPS)
def make(request: pytest.FixtureRequest, make_linear: Any, make_conv: Any) -> Callable[..., Any]:
    """Arguments of both operators in turn, three slots of weights [20, 270]; not many images, which take long."""

    def make(dtypes: tuple[torch.dtype, torch.dtype] = DTYPES[0], batch: int = 12) -> Any:
        options = dict(dtype=dtypes[0], value_dtype=dtypes[1])
        if request.param == "task_linear":
            problem = make_linear((batch, 270, 20, 3), **options)
        else:
            problem = make_conv((min(batch, 60), 30, 20, 3, (3, 2), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)), **options)
        return replace(problem, weight=with_index(problem.weight))

    return make


# ---- rows under RSN2_DEBUG=1 -----------------------------------------------------------------------------------------


@pytest.mark.skipif(not IS_DEBUG, reason="run by the test below")
@pytest.mark.parametrize("result", RESULTS)
@pytest.mark.parametrize("slot", [-1, 3, 2**40])
@pytest.mark.parametrize("is_one", [True, False], ids=["one_slot", "mixed"])
def test_device_stops(emulated, make, is_one, slot, result):
    problem = make()
    problem.get(result, emulated)
    slots = torch.tensor(slot) if is_one else torch.where(torch.arange(12) == 5, slot, problem.slots)
    with pytest.raises(RuntimeError, match="slots: an id is out of range"):
        replace(problem, slots=slots).get(result, emulated)


@pytest.mark.skipif(IS_DEBUG, reason="without it, as test_task_linear.py and others ask for, such rows are NaN")
def test_ids_out_of_range_stop_the_device_under_rsn2_debug(emulated):
    environment = {**os.environ, "RSN2_DEBUG": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "test_device_stops"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0 and "36 passed" in run.stdout, run.stdout + run.stderr


# ---- wanted slots ----------------------------------------------------------------------------------------------------


def grad_values(emulated: Any, problem: Any, wanted: list[int], num_owned: list[int]) -> list[Tensor]:
    gradient = getattr(emulated, problem.op + "_grad_values")
    result = gradient(problem.x, problem.grad_y, *problem.packed, wanted, num_owned, *problem.window)
    return list(result.split(num_owned))


def same(ours: Tensor, expected: Tensor) -> None:
    """Into how many parts a sum is cut depends on how much is wanted."""
    torch.testing.assert_close(ours, expected)


@every_dtype
@pytest.mark.parametrize("batch", [0, 12, 600])
@pytest.mark.parametrize("is_one", [True, False], ids=["one_slot", "mixed"])
def test_wanted_slots_that_are_not_there_get_nan(emulated, make, is_one, batch, dtypes):
    """600 rows: the sums are in parts, as those of pixels are from the start."""
    problem = make(dtypes, batch)
    problem = replace(problem, slots=torch.tensor(1)) if is_one else problem
    every = problem.grad_values(emulated).split(problem.num_owned)
    wanted, num_owned = [3, 1, 4095, 0, 3], [700, problem.num_owned[1], 5, problem.num_owned[0], 0]
    grads = grad_values(emulated, problem, wanted, num_owned)
    if batch == 0:  # zeros, without a kernel, of a convolution
        assert problem.window or grads[0].isnan().all()
        return
    assert grads[0].isnan().all() and grads[2].isnan().all()
    same(grads[1], every[1])
    same(grads[3], every[0])


@every_dtype
def test_more_weights_than_a_wanted_slot_owns_are_nan(emulated, make, dtypes):
    problem = make(dtypes)
    every = problem.grad_values(emulated).split(problem.num_owned)
    owned = problem.num_owned
    grads = grad_values(emulated, problem, [2, 0], [owned[2] + 300, owned[0]])
    assert grads[0][owned[2] :].isnan().all()
    same(grads[0][: owned[2]], every[2])
    same(grads[1], every[0])


@every_dtype
def test_fewer_weights_than_a_wanted_slot_owns_reach_no_other(emulated, make, dtypes):
    problem = make(dtypes)
    every = problem.grad_values(emulated).split(problem.num_owned)
    owned = problem.num_owned
    grads = grad_values(emulated, problem, [0, 2, 1], [owned[0], 7, owned[1] - 100])
    for grad, slot in zip(grads, (0, 2, 1), strict=True):
        same(grad, every[slot][: len(grad)])


def test_wanted_slots_beside_a_dense_product(emulated, make_linear):
    """What a slot does not own is NaN there too, as is the result where the bias has no row for the slot.

    Memory that nothing wrote reads as NaN on the emulator, so that of the batch's own slot only its values are proved.
    """
    problem = make_linear((40, 270, 20, 3), dtype=torch.bfloat16, value_dtype=torch.bfloat16)
    problem = replace(problem, weight=with_index(problem.weight), slots=torch.tensor(1))
    owned = problem.num_owned
    emulated.task_linear_dense_rows(1)
    try:
        grads = grad_values(emulated, problem, [3, 1, 0, 4095], [70, owned[1] + 30, owned[0] + 9, 5])
        every = problem.grad_values(emulated).split(owned)
        short = replace(problem, slots=torch.tensor(2), bias=problem.bias[:2]).get("forward", emulated)
    finally:
        emulated.task_linear_dense_rows(1024)
    assert grads[0].isnan().all() and grads[3].isnan().all() and short.isnan().all()
    assert grads[1][owned[1] :].isnan().all() and grads[2][owned[0] :].isnan().all()
    same(grads[1][: owned[1]], every[1])
    assert not grads[2][: owned[0]].any()


def test_ids_that_no_weight_can_have(emulated, make):
    problem = make()
    for slot in (-1, 4096, 2**40):
        with pytest.raises(ValueError, match="wanted slot"):
            grad_values(emulated, problem, [slot], [5])


def test_gradients_of_a_weight_without_elements(emulated, make_linear):
    problem = make_linear((3, 0, 5, 2))
    problem = replace(problem, weight=with_index(problem.weight))
    assert grad_values(emulated, problem, [0], [0])[0].shape == (0,)
    with pytest.raises(ValueError, match="a weight without elements has no values"):
        grad_values(emulated, problem, [0], [5])


def test_a_bias_knows_no_number_of_slots(emulated):
    grad_y, slots = torch.randn(9, 5), torch.arange(9) % 3
    assert not emulated.task_grad_bias(grad_y, slots, [3, 2**40, -1]).any()


# ---- a bias, or a frozen store, of fewer slots -----------------------------------------------------------------------


@every_dtype
@pytest.mark.parametrize("is_one", [True, False], ids=["one_slot", "mixed"])
def test_rows_without_a_bias_are_nan(emulated, make, is_one, dtypes):
    """And nothing past its end is read, as the address sanitizer sees."""
    problem = make(dtypes)
    problem = replace(problem, slots=torch.tensor(2)) if is_one else problem
    few = replace(problem, bias=problem.bias[:2].clone())
    y, rows = few.forward(emulated), (problem.slots == 2).expand(12)
    assert rows.any() and y[rows].isnan().all()
    assert torch.equal(y[~rows], problem.forward(emulated)[~rows])
    none = replace(problem, bias=problem.bias[:0].clone())
    assert none.forward(emulated).isnan().all()


@every_dtype
@pytest.mark.parametrize("batch", [6, 60])
def test_slots_that_only_the_frozen_store_does_not_have_read_none_of_it(emulated, make, batch, dtypes):
    problem = make(dtypes, batch)
    masks = random_masks(3, 20, 270, 0.1, torch.Generator().manual_seed(2))
    weight = torch.randn(20, 270, generator=torch.Generator().manual_seed(3)).to(problem.weight.values.dtype)
    masks[2] = False
    every = replace(problem, frozen=with_index(pack(weight, masks)))
    few = replace(problem, frozen=with_index(pack(weight, masks[:2])))
    for result in ("forward", "grad_input"):
        assert torch.equal(few.get(result, emulated), every.get(result, emulated)), result


# ---- an index of another shape ---------------------------------------------------------------------------------------

OTHER_SHAPES = [(20, 600), (20, 200), (200, 270), (4, 270)]


def of_shape(problem: Any, shape: tuple[int, int]) -> PackedWeight:
    weight = torch.randn(shape).to(problem.weight.values.dtype)
    other = with_index(pack(weight, random_masks(3, *shape, 0.3, torch.Generator().manual_seed(1))))
    return other._replace(shape=problem.weight.shape)  # what the caller goes by


@every_dtype
@pytest.mark.parametrize("result", RESULTS)
@pytest.mark.parametrize("shape", OTHER_SHAPES, ids=str)
@pytest.mark.parametrize("is_one", [True, False], ids=["one_slot", "mixed"])
def test_an_index_of_another_shape_gives_nan(emulated, make, is_one, shape, result, dtypes):
    """Only raw calls get so far: the shape stands in the index, on the device, where host code does not look."""
    problem = make(dtypes)
    problem = replace(problem, weight=of_shape(problem, shape), slots=torch.tensor(1) if is_one else problem.slots)
    assert problem.get(result, emulated).isnan().all()


@every_dtype
@pytest.mark.parametrize("result", RESULTS[:2])
@pytest.mark.parametrize("shape", OTHER_SHAPES, ids=str)
def test_a_frozen_store_of_another_shape_gives_nan(emulated, make, shape, result, dtypes):
    problem = make(dtypes)
    problem = replace(problem, frozen=of_shape(problem, shape))
    assert problem.get(result, emulated).isnan().all()


@every_dtype
@pytest.mark.parametrize("result", RESULTS)
def test_an_index_of_more_slots_than_the_positions_hold_gives_nan(emulated, make, result, dtypes):
    """The plan of the batch has room for as many as the positions can hold."""
    problem = make(dtypes)
    shape = problem.weight.shape[1:]
    weight = torch.zeros(shape).to(problem.weight.values.dtype)
    few = pack(weight, torch.zeros(1, *shape, dtype=torch.bool))
    many = pack(weight, random_masks(200, *shape, 0.004, torch.Generator().manual_seed(1)))
    problem = replace(problem, weight=few._replace(values=many.values, index=gather_index(many.positions)), bias=None)
    found = problem.get(result, emulated)
    assert result == "grad_values" and found.shape == (0,) or found.isnan().all()


@pytest.mark.parametrize("shape", OTHER_SHAPES, ids=str)
def test_an_index_of_another_shape_gives_nan_in_dense_products(emulated, make_linear, shape):
    problem = make_linear((40, 270, 20, 3), dtype=torch.bfloat16, value_dtype=torch.bfloat16)
    problem = replace(problem, weight=of_shape(problem, shape), slots=torch.tensor(1))
    emulated.task_linear_dense_rows(1)
    try:
        assert all(problem.get(result, emulated).isnan().all() for result in RESULTS)
    finally:
        emulated.task_linear_dense_rows(1024)
