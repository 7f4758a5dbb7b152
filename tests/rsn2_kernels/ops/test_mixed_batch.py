"""A mixed batch gives the bits of its tasks run one by one; the same bits every run and on any number of threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from rsn2_kernels.testing import seeded

FLOATS = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
RESULTS = pytest.mark.parametrize("result", ["forward", "grad_input"])
ROWS = pytest.mark.parametrize("batch", [5, 67, 200])


@FLOATS
@RESULTS
@ROWS
@pytest.mark.parametrize("is_relu", [False, True], ids=["none", "relu"])
def test_equals_the_slots_one_by_one(make_problem, make_frozen, compiled, batch, result, dtype, is_relu):
    problem = make_problem(batch, 5, dtype=dtype)
    if is_relu:
        problem = replace(problem, activation="relu", frozen=make_frozen(problem))
    mixed = problem.get(result)
    for slot in problem.slots.unique().tolist():
        assert torch.equal(mixed[problem.slots == slot], problem.of_one_slot(slot).get(result))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@RESULTS
@ROWS
def test_equals_its_rows_one_by_one(make_problem, compiled, batch, result, dtype):
    problem = make_problem(batch, 3, dtype=dtype)
    mixed = problem.get(result)
    for row in range(0, batch, 7):
        assert torch.equal(mixed[row : row + 1], problem.rows(torch.tensor([row])).get(result))


@FLOATS
@RESULTS
def test_equals_another_order_of_its_rows(make_problem, compiled, result, dtype):
    problem = make_problem(130, 4, dtype=dtype)
    order = torch.randperm(130, generator=seeded(0))
    assert torch.equal(problem.get(result)[order], problem.rows(order).get(result))


@FLOATS
@ROWS
def test_gradient_of_values_depends_on_the_slots_own_rows_alone(make_problem, compiled, batch, dtype):
    problem = make_problem(batch, 5, dtype=dtype)
    every = problem.grad_values().split(problem.num_owned)
    for slot in problem.slots.unique().tolist():
        assert torch.equal(every[slot], problem.of_one_slot(slot).grad_values(wanted=[slot]))
        assert torch.equal(every[slot], problem.grad_values(wanted=[slot]))


@FLOATS
def test_gradient_of_bias_depends_on_the_slots_own_rows_alone(make_problem, compiled, dtype):
    problem = make_problem(67, 5, dtype=dtype)
    every = problem.grad_bias()
    for slot in problem.slots.unique().tolist():
        assert torch.equal(every[slot], problem.of_one_slot(slot).grad_bias(wanted=[slot])[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("result", ["forward", "grad_input", "grad_values", "grad_bias"])
@pytest.mark.parametrize("batch", [3, 200])
def test_any_number_of_threads_and_any_run(make_problem, compiled, set_num_threads, batch, result, dtype):
    problem = make_problem(batch, 5, dtype=dtype)
    set_num_threads(1)
    alone = problem.get(result)
    for num_threads in (2, 3, 2, 1, 4):
        set_num_threads(num_threads)
        assert torch.equal(problem.get(result), alone)


@pytest.mark.parametrize("result", ["forward", "grad_input", "grad_values", "grad_bias"])
def test_any_number_of_threads_for_a_larger_layer(make_linear, make_conv, compiled, set_num_threads, result):
    """Large enough that every way of splitting the work among threads occurs."""
    problems = [
        make_linear((256, 700, 300, 3)),
        make_conv((8, 32, 48, 2, (19, 21), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1))),
    ]
    for problem in problems:
        problem.check(result)
        set_num_threads(1)
        alone = problem.get(result)
        set_num_threads(2)
        assert torch.equal(problem.get(result), alone)


@FLOATS
@RESULTS
def test_128_slots_in_512_rows(make_linear, compiled, result, dtype):
    problem = make_linear((512, 200, 150, 128), density=1 / 128, dtype=dtype)
    problem.check(result)
    mixed = problem.get(result)
    for slot in range(0, 128, 5):
        own = problem.of_one_slot(slot)
        assert torch.equal(mixed[problem.slots == slot], own.get(result))
    values = problem.grad_values().split(problem.num_owned)
    for slot in range(0, 128, 5):
        assert torch.equal(values[slot], problem.of_one_slot(slot).grad_values(wanted=[slot]))


def test_128_slots_in_512_rows_match_the_reference(make_linear, cpu_level):
    make_linear((512, 200, 150, 128), density=1 / 128).check()


def test_calls_from_several_threads(make_problem, compiled):
    """Each Python thread with a slot of its own on one layer."""
    problem = make_problem(90, 6)
    alone = [problem.of_one_slot(slot).forward() for slot in range(6)]
    with ThreadPoolExecutor(6) as pool:
        for _ in range(10):
            together = pool.map(lambda slot: problem.of_one_slot(slot).forward(), range(6))
            assert all(map(torch.equal, together, alone))


def test_index_is_the_same_at_every_level(make_problem, make_index, compiled):
    """A layer keeps it when the level changes."""
    problem = make_problem(5, 4)
    assert torch.equal(make_index(problem, problem.weight.positions), problem.weight.index)
