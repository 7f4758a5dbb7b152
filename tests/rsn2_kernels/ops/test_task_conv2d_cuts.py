"""How the CPU cuts a convolution's images into tiles shows neither in bits nor at infinities."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from rsn2_kernels.formats import coordinates
from rsn2_kernels.testing import DTYPES

RESULTS = ("forward", "grad_input", "grad_values", "grad_bias")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_one_by_one_bits_depend_on_neither_batch_nor_threads(make_conv, cpu_level, dtype):
    """Few images for the threads are cut into tiles, many are not."""
    problem = make_conv((9, 70, 17, 2, (8, 8), (1, 1), (1, 1), (0, 0, 0, 0), (1, 1)), dtype=dtype)
    before = torch.get_num_threads()
    for result in RESULTS:
        torch.set_num_threads(1)
        mixed = problem.get(result)
        torch.set_num_threads(8)
        other = problem.get(result)
        alone = [problem.of_one_slot(slot).get(result) for slot in range(2)]
        torch.set_num_threads(before)
        assert torch.equal(other, mixed)
        for slot in range(2):
            if result in ("forward", "grad_input"):
                assert torch.equal(alone[slot], mixed[problem.slots == slot])
            else:
                sizes = problem.num_owned if result == "grad_values" else 1
                assert torch.equal(alone[slot].split(sizes)[slot], mixed.split(sizes)[slot])


@pytest.mark.parametrize("where", ["x", "grad_y"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_infinity_meets_pixels_alone(make_conv, cpu_level, dtype, where):
    """Neither the padding nor the part of a tile beyond the image makes NaN of it, however the image is cut."""
    for size in ((5, 7), (13, 11), (23, 29), (28, 19)):
        problem = make_conv((20, 3, 4, 2, size, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)), dtype=dtype)
        problem = replace(problem, x=problem.x.abs(), grad_y=problem.grad_y.abs())  # no infinity less another
        tensor = getattr(problem, where)
        tensor[:, 1, ::3, -1] = torch.inf
        tensor[:, 1, -1, ::4] = torch.inf
        # Dense, without a product for the pixels that are not there.
        x, grad_y = problem.x.double(), problem.grad_y.double()
        columns = F.unfold(x, 3, padding=1).unflatten(1, (3, 9))
        inside = F.unfold(torch.ones_like(x), 3, padding=1).unflatten(1, (3, 9)) > 0
        products = columns[:, None] * grad_y.flatten(2)[:, :, None, None]
        products = products.where(inside[:, None], 0).sum(4)  # [B, O, C, 9]
        wanted = []
        for slot in range(2):
            dense = products[problem.slots == slot].sum(0).transpose(1, 2).flatten(1)
            wanted.append(dense[coordinates(problem.weight.positions, slot)])
        want, got = torch.cat(wanted), problem.grad_values().double()
        assert want.isinf().any() and want.isfinite().any()
        assert torch.equal(got.isinf(), want.isinf()) and torch.equal(got.isfinite(), want.isfinite())
