"""Weights claimed in blocks go on to Triton's kernels, all others stay: with fakes in place of Triton's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from rsn2_kernels import _answers, reference, triton_kernels
from rsn2_kernels._schema import SCHEMAS
from rsn2_kernels.formats import gather_index, pack

RESULTS = ("forward", "grad_input", "grad_values")
HALVES = (torch.bfloat16, torch.float16)


class Triton:
    """Kernels that keep their names and have the reference's results."""

    def __init__(self) -> None:
        self.served: list[str] = []

    def register(self, library: torch.library.Library, key: str) -> None:
        for name in SCHEMAS:
            library.impl(name, self.kernel(name), key)

    def kernel(self, name: str) -> Any:
        def serve(*args: Any) -> Any:
            self.served.append(name)
            return getattr(reference, name)(*args)

        return serve


@pytest.fixture
def triton(emulated: Any, answers: list[Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Triton]:
    if not answers:
        pytest.skip("the library of CUDA kernels is loaded and has its own answers")
    fake = Triton()
    monkeypatch.setattr(triton_kernels, "register", fake.register)
    answers[0]._destroy()
    answers[0] = _answers.register(SCHEMAS, "CPU")
    yield fake
    answers[0]._destroy()
    answers[0] = _answers.register({}, None)


@pytest.fixture(autouse=True)
def _ieee(set_precision: Any) -> None:
    """No TF32, which torch allows convolutions unless told otherwise."""


@pytest.fixture(params=["task_linear", "task_conv2d"])
def make(request: pytest.FixtureRequest, make_linear: Any, make_conv: Any) -> Any:
    """A problem of two slots with 64 outputs and 64 channels, claimed in blocks of some size; 0: single weights."""

    def make(block: int, dtype: torch.dtype, frozen: int | None = None) -> Any:
        if request.param == "task_linear":
            problem = make_linear((20, 64, 64, 2), dtype=dtype)
        else:
            window = ((3, 3), (1, 1), (1, 1, 1, 1), (1, 1))
            problem = make_conv((2, 64, 64, 2, (5, 4), *window), dtype=dtype)
        weight = claimed(block, problem.weight.shape, dtype, 0)
        second = None if frozen is None else claimed(frozen, problem.weight.shape, dtype, 1)
        return replace(problem, weight=weight, frozen=second, activation="relu")

    return make


def claimed(block: int, shape: Any, dtype: torch.dtype, offset: int) -> Any:
    num_slots, num_rows, num_columns = shape
    size = block or 1
    number = torch.arange(num_rows // size)[:, None] + torch.arange(num_columns // size) + offset
    masks = torch.stack([(number % 3 == slot).repeat_interleave(size, 0).repeat_interleave(size, 1)
                         for slot in range(num_slots)])  # fmt: skip
    dense = torch.randn(num_rows, num_columns, generator=torch.Generator().manual_seed(1 + offset)) / 8
    weight = pack(dense.to(dtype), masks)
    return weight._replace(index=gather_index(weight.positions))


def names(op: str) -> list[str]:
    return [op + ("" if result == "forward" else f"_{result}") for result in RESULTS]


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("block", [16, 32, 64])
def test_blocks_go_to_triton(emulated, triton, make, block, dtype):
    """With all arguments, in their order."""
    for frozen in (None, block):
        problem = make(block, dtype, frozen)
        for result in RESULTS:
            assert torch.equal(problem.get(result, emulated), problem.get(result, reference))
        assert triton.served == names(problem.op)
        triton.served.clear()
    problem = replace(problem, slots=torch.tensor(1), bias=None)
    for result in RESULTS:
        assert torch.equal(problem.get(result, emulated), problem.get(result, reference))
    assert triton.served == names(problem.op)


def test_all_others_stay(emulated, triton, make):
    problems = [make(0, torch.bfloat16), make(0, torch.bfloat16, 0), make(32, torch.float32), make(32, torch.float64)]
    for problem in problems:
        for result in RESULTS:
            problem.get(result, emulated)
    for problem in (make(32, torch.bfloat16, 16), make(16, torch.bfloat16, 32), make(16, torch.bfloat16, 0)):
        problem.forward(emulated)
        problem.grad_input(emulated)
    assert triton.served == []


def test_float32_goes_where_tf32_is_allowed(emulated, triton, make, set_precision):
    problem = make(32, torch.float32)
    is_linear = problem.op == "task_linear"
    set_precision("tf32", torch.backends.cuda.matmul if is_linear else torch.backends.cudnn.conv)
    for result in RESULTS:
        problem.get(result, emulated)
    assert triton.served == names(problem.op)


def test_without_triton_all_stay(emulated, make):
    problem = make(32, torch.bfloat16)
    for result in RESULTS:
        wanted = problem.get(result, reference).double()
        torch.testing.assert_close(problem.get(result, emulated).double(), wanted, rtol=0.02, atol=0.05)


def test_a_failure_names_the_operator(emulated, triton, make):
    problem = make(32, torch.bfloat16)
    with pytest.raises(RuntimeError, match=f"rsn2_kernels_python::{problem.op} failed: "):
        replace(problem, bias=problem.bias[:, :3]).forward(emulated)
    assert triton.served == [problem.op]


def test_mistakes_are_the_librarys_to_report(emulated, triton, make):
    problem = make(32, torch.bfloat16, 32)
    arguments = [problem.grad_y, *problem.packed, problem.frozen_tensors[:1]]
    size = [*problem.x.shape[1:]] if problem.window else problem.x.shape[1]
    with pytest.raises(ValueError, match=r"frozen must be \[\] or \[values, positions, index\], got 1 tensors"):
        getattr(emulated, problem.op + "_grad_input")(*arguments, size, *problem.window)
    assert triton.served == []
