"""Kernels that read weights claimed in blocks as they stand in memory, in Triton's interpreter."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from rsn2_kernels.formats import block_size_of, pack
from rsn2_kernels.ops import task_conv2d_index, task_linear_index

RESULTS = ("forward", "grad_input", "grad_values", "grad_bias")
DTYPES = [
    (torch.float32, torch.float32),
    (torch.float64, torch.float64),
    (torch.bfloat16, torch.bfloat16),
    (torch.float16, torch.float32),
]


def name_of(dtypes: tuple[torch.dtype, torch.dtype]) -> str:
    return "-".join(str(dtype).removeprefix("torch.") for dtype in dict.fromkeys(dtypes))


def quick_and_slow(every: list[Any], *quick: int) -> list[Any]:
    """Parameters of a test, most of which only the slow suite runs: a product takes the interpreter a second."""
    return [each if n in quick else pytest.param(each, marks=pytest.mark.slow) for n, each in enumerate(every)]


def with_blocks(problem: Any, size: int, rows: int, columns: int, seed: int = 0) -> Any:
    """The problem with weights owned in blocks: a third of them each by three slots, some by none."""
    generator = torch.Generator().manual_seed(seed)
    owner = torch.randint(0, 4, (rows // size, columns // size), generator=generator)
    owner[0, 0] = 0
    masks = torch.stack([owner == slot for slot in range(3)])
    masks = masks.repeat_interleave(size, 1).repeat_interleave(size, 2)
    whole = torch.zeros(3, rows, columns, dtype=torch.bool)
    whole[:, : masks.shape[1], : masks.shape[2]] = masks
    packed = pack(torch.randn(rows, columns, generator=generator).to(problem.weight.values.dtype), whole)
    index = task_conv2d_index(packed.positions, problem.window[0]) if problem.window else None
    packed = packed._replace(index=task_linear_index(packed.positions) if index is None else index)
    return replace(problem, weight=packed)


block_dtypes = pytest.mark.parametrize("dtypes", quick_and_slow(DTYPES, 2), ids=name_of)


@block_dtypes
@pytest.mark.parametrize("allows_tf32", quick_and_slow([True, False], 0), ids=["tf32", "ieee"])
@pytest.mark.parametrize("size", [16, 32, 64])
def test_linear_in_blocks(make_linear, use_form, size, allows_tf32, dtypes):
    use_form("tiles" if allows_tf32 else "as_chosen")
    problem = make_linear((30, 400, 3 * size + 5, 3), dtype=dtypes[0], value_dtype=dtypes[1])
    problem = with_blocks(problem, size, 3 * size + 5, 400)
    assert block_size_of(problem.weight.index) == size
    problem.check()
    replace(problem, slots=torch.tensor(1)).check()


@block_dtypes
@pytest.mark.parametrize("size", [16, 32])
@pytest.mark.parametrize("channels", [32, 40])
def test_conv_in_blocks(make_conv, use_form, size, channels, dtypes):
    """Blocks inside one kernel position, where the channels are a multiple; across them, where not."""
    use_form("tiles")
    shape = (5, channels, 32, 3, (3, 4), (3, 3), (2, 1), (1, 1, 1, 1), (1, 1))
    problem = make_conv(shape, dtype=dtypes[0], value_dtype=dtypes[1])
    problem = with_blocks(problem, size, 32, 9 * channels)
    assert block_size_of(problem.weight.index) == size
    problem.check()


@pytest.mark.parametrize("frozen_size", [16, 32])
def test_a_frozen_store_in_blocks_of_its_own_size(make_linear, use_form, frozen_size):
    use_form("tiles")
    problem = make_linear((20, 256, 64, 3), dtype=torch.bfloat16)
    frozen = with_blocks(problem, frozen_size, 64, 256, seed=1).weight
    replace(with_blocks(problem, 16, 64, 256), frozen=frozen).check("forward", "grad_input")


def test_blocks_are_read_as_they_stand(make_linear, monkeypatch):
    """The table takes the kernel for blocks, and no other has the answer: with the bytes of all columns but the first
    of each block spoilt, the result is the same.
    """
    problem = with_blocks(make_linear((20, 256, 64, 3), dtype=torch.bfloat16), 16, 64, 256)
    index = problem.weight.index.clone()
    columns = index[int(index[7]) :].view(torch.uint8)
    columns[: len(problem.weight.values)].view(-1, 16)[:, 1:] = 77
    spoilt = replace(problem, weight=problem.weight._replace(index=index))
    for result in RESULTS:
        assert torch.equal(spoilt.get(result), problem.get(result)), result
