"""How the CPU cuts a convolution's images into tiles shows neither in bits nor at infinities."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from rsn2_kernels.formats import coordinates
from rsn2_kernels.testing import DTYPES

pytestmark = pytest.mark.cpu_only(reason="only the CPU cuts images this way")
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


def dense_grad_values(problem):
    """In float64, without a product for the pixels that are not there: 3 x 3 kernels, stride 1, padding 1."""
    x, grad_y = problem.x.double(), problem.grad_y.double()
    columns = F.unfold(x, 3, padding=1).unflatten(1, (-1, 9))
    inside = F.unfold(torch.ones_like(x), 3, padding=1).unflatten(1, (-1, 9)) > 0
    products = columns[:, None] * grad_y.flatten(2)[:, :, None, None]
    products = products.where(inside[:, None], 0).sum(4)  # [B, O, C, 9]
    wanted = []
    for slot in range(problem.weight.shape[0]):
        dense = products[problem.slots == slot].sum(0).transpose(1, 2).flatten(1)
        wanted.append(dense[coordinates(problem.weight.positions, slot)])
    return torch.cat(wanted)


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
        want, got = dense_grad_values(problem), problem.grad_values().double()
        assert want.isinf().any() and want.isfinite().any()
        assert torch.equal(got.isinf(), want.isinf()) and torch.equal(got.isfinite(), want.isfinite())


@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("where", ["x", "grad_y"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_last_image_may_be_bad(make_conv, cpu_level, dtype, where, number):
    """Its numbers alone decide where they are met; elsewhere the images before it count as ever."""
    problem = make_conv((40, 3, 4, 2, (13, 7), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)), dtype=dtype)
    for bad in ((-1, 1, 6, 3), (-1, 1, 0, 0), (-1, 1), -1):  # a pixel, a corner, a channel, an image
        changed = replace(problem, x=problem.x.abs(), grad_y=problem.grad_y.abs())  # finite sums lose no bits
        getattr(changed, where)[bad] = number
        want, got = dense_grad_values(changed), changed.grad_values()
        assert not want.isfinite().all() and want.isfinite().any()
        tolerance = 16 * torch.finfo(dtype).eps
        torch.testing.assert_close(got.double(), want, rtol=tolerance, atol=0, equal_nan=True)


def test_infinities_of_both_signs_make_nan(make_conv, cpu_level):
    """In one image, in two, and where a finite image's products are the second infinity."""
    problem = make_conv((40, 3, 4, 1, (13, 7), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)), dtype=torch.float64)
    problem = replace(problem, x=problem.x.abs(), grad_y=problem.grad_y.abs())
    for first, number in (((-1, 1, 4, 3), -torch.inf), ((3, 1, 6, 3), -torch.inf), ((3, 1, 6, 3), -1e300)):
        changed = replace(problem, x=problem.x.clone(), grad_y=problem.grad_y.clone())
        changed.x[-1, 1, 6, 3] = torch.inf
        changed.x[first] = number
        changed.grad_y[3] *= 1e10  # -1e310 is an infinity
        want = dense_grad_values(changed)
        assert want.isnan().any() and want.isfinite().any()
        torch.testing.assert_close(changed.grad_values(), want, rtol=1e-13, atol=0, equal_nan=True)


@pytest.mark.parametrize("kernel", [1, 3])
def test_finite_sums_that_overflow_on_the_way(make_conv, cpu_level, kernel):
    padding = (kernel // 2,) * 4
    problem = make_conv((6, 3, 4, 1, (16, 16), (kernel, kernel), (1, 1), padding, (1, 1)))
    problem = replace(problem, x=torch.zeros_like(problem.x), grad_y=torch.zeros_like(problem.grad_y))
    problem.x[:2] = 2.0**80
    problem.grad_y[0], problem.grad_y[1] = 2.0**80, -(2.0**80)
    assert torch.equal(problem.grad_values(), torch.zeros_like(problem.weight.values))
    problem.grad_y[1] /= 2
    assert torch.equal(problem.grad_values(), torch.full_like(problem.weight.values, torch.inf))


def strided(tensor, layout):
    """The same numbers elsewhere in memory."""
    batch, channels, height, width = tensor.shape
    if layout == "channels_last":
        return tensor.contiguous(memory_format=torch.channels_last)
    shape = {
        "crop": (batch, channels, height, width + 3),
        "crop of channels_last": (batch, channels, height + 1, width + 3),
        "every other channel": (batch, 2 * channels, height, width),
        "pixels apart": (batch, channels, height, 2 * width),
        "transposed": (batch, channels, width, height),
    }[layout]
    memory = tensor.new_full(shape, torch.nan)
    view = {
        "crop": lambda: memory[..., :width],
        "crop of channels_last": lambda: memory.to(memory_format=torch.channels_last)[..., 1:, 2 : 2 + width],
        "every other channel": lambda: memory[:, ::2],
        "pixels apart": lambda: memory[..., ::2],
        "transposed": lambda: memory.mT,
    }[layout]()
    return view.copy_(tensor)


@pytest.mark.parametrize("size", [(8, 8), (12, 16), (66, 128)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_bits_do_not_depend_on_memory(make_conv, cpu_level, dtype, size):
    """The last size is copied in spans, which start and end within rows."""
    problem = make_conv((5, 37, 18, 2, size, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1)), dtype=dtype)
    problem.check("grad_values")
    want = problem.grad_values()
    for layout in (
        "channels_last",
        "crop",
        "crop of channels_last",
        "every other channel",
        "pixels apart",
        "transposed",
    ):
        x, grad_y = strided(problem.x, layout), strided(problem.grad_y, layout)
        assert not x.is_contiguous() and torch.equal(x, problem.x)
        assert torch.equal(replace(problem, x=x).grad_values(), want), layout
        assert torch.equal(replace(problem, grad_y=grad_y).grad_values(), want), layout
        assert torch.equal(replace(problem, x=x, grad_y=grad_y).grad_values(), want), layout
    for part in (problem.grad_y[..., :1, :1], problem.grad_y[..., :1], problem.grad_y[:1], problem.grad_y[:, :1]):
        expanded = part.expand_as(problem.grad_y)
        want = replace(problem, grad_y=expanded.contiguous()).grad_values()
        assert torch.equal(replace(problem, grad_y=expanded).grad_values(), want)


def test_a_mixed_batch_of_crops_equals_its_tasks(make_conv, cpu_level):
    problem = make_conv((9, 37, 18, 2, (16, 16), (1, 1), (1, 1), (0, 0, 0, 0), (1, 1)))
    problem = replace(
        problem, x=strided(problem.x, "crop"), grad_y=problem.grad_y[..., :1, :1].expand_as(problem.grad_y)
    )
    mixed = problem.grad_values().split(problem.num_owned)
    for slot in range(2):
        alone = problem.of_one_slot(slot).grad_values().split(problem.num_owned)
        assert torch.equal(alone[slot], mixed[slot])
