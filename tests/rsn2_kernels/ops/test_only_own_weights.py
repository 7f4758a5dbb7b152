"""A product reads, counts and stores what the slots in its batch own, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rsn2_kernels._build import native
from rsn2_kernels.formats import value_starts

RESULTS = ("forward", "grad_input", "grad_values", "grad_bias")


@pytest.mark.parametrize("batch", [1, 70])
@pytest.mark.parametrize("is_one", [True, False], ids=["one_slot", "mixed"])
@pytest.mark.parametrize("has_frozen", [True, False], ids=["frozen", "no_frozen"])
def test_other_slots_may_hold_nan(make_problem, make_frozen, cpu_level, batch, is_one, has_frozen):
    problem = make_problem(batch, 5)
    problem = replace(problem, slots=torch.tensor(3) if is_one else torch.where(problem.slots % 2 == 0, 1, 3))
    if has_frozen:
        problem = replace(problem, frozen=make_frozen(problem))

    def poisoned(values, positions):
        starts, values = value_starts(positions), values.clone()
        for slot in {0, 1, 2, 3, 4} - set(problem.slots.unique().tolist()):
            values[starts[slot] : starts[slot + 1]] = torch.nan
        return values

    weight, frozen = problem.weight, problem.frozen
    bias = problem.bias.clone()
    bias[[slot for slot in range(5) if slot not in problem.slots]] = torch.nan
    spoilt = replace(
        problem,
        weight=weight._replace(values=poisoned(weight.values, weight.positions)),
        frozen=frozen and frozen._replace(values=poisoned(frozen.values, frozen.positions)),
        bias=bias,
    )
    for result in RESULTS:
        assert torch.equal(spoilt.get(result), problem.get(result)), result


def run(name: str, *arguments: str, ends_with: int = 0) -> str:
    """Run a script of this folder in a process of its own, since it may end by a signal or measures its memory."""
    script = Path(__file__).with_name(name)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, script, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == ends_with, f"{name} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.cpu_only(reason="the memory of the process")
@pytest.mark.skipif(sys.platform != "linux", reason="protects pages through Linux's mprotect")
@pytest.mark.parametrize("op", ["task_linear", "task_conv2d"])
def test_other_slots_may_be_unreadable(op):
    assert "all read" in run("unreadable_pages.py", op, "1")


@pytest.mark.cpu_only(reason="the memory of the process")
@pytest.mark.skipif(sys.platform != "linux", reason="protects pages through Linux's mprotect")
def test_unreadable_means_unreadable():
    """The test above can fail: the product of a slot on protected pages ends the process."""
    run("unreadable_pages.py", "task_linear", "0", ends_with=-signal.SIGSEGV)


@pytest.mark.cpu_only(reason="the memory of the process")
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of the resident memory as Linux reports it")
@pytest.mark.parametrize("op", ["task_linear", "task_conv2d"])
def test_memory_does_not_grow_with_the_size_of_the_matrix(op):
    """4096 weights owned in a matrix of 2^26: its dense float32 form would take 256 MiB."""
    output = run("peak_memory.py", op)
    if "no compiled kernels" in output:
        pytest.skip("the reference multiplies by dense weights; no compiled kernels here")
    grown = dict(line.split() for line in output.splitlines())
    assert set(grown) == {"index", "forward", "grad_input", "grad_values", "grad_bias"}
    assert {result: int(mib) for result, mib in grown.items() if int(mib) >= 8} == {}


@pytest.fixture
def counters() -> Iterator[object]:
    """Counting is on; call it for the weights read since, per operator, as ``(calls, weights)``."""
    native().set_counting(True)
    native().reset_debug_counters()
    yield native().debug_counters
    native().set_counting(False)
    native().reset_debug_counters()


@pytest.mark.parametrize("result", ["forward", "grad_input", "grad_values"])
@pytest.mark.parametrize("batch", [1, 70])
def test_counts_the_weights_of_the_slots_present(make_problem, compiled, counters, batch, result):
    problem = make_problem(batch, 8)
    problem = replace(problem, slots=torch.where(problem.slots % 2 == 0, 1, 6))
    present = problem.slots.unique().tolist()
    problem.get(result)
    problem.get(result)
    op = problem.op if result == "forward" else f"{problem.op}_{result}"
    assert counters()[op] == (2, 2 * sum(problem.num_owned[slot] for slot in present))
