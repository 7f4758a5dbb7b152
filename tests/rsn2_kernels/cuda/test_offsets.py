"""Places in arrays of 2^31 numbers and more: what kernels reckon is held against Python's integers, nothing is stored.

Then whole kernels read tensors whose rows, images and channels lie so far apart, in files with holes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from rsn2_kernels.formats import gather_index

MOST_INT = 2**31 - 1

drawn = settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def near_powers(least: int, most: int) -> st.SearchStrategy[int]:
    """Numbers of every size, most of all those beside the powers where 32 bits and 31 end."""
    edges = [edge + step for edge in (2**15, 2**16, 2**30, 2**31, 2**32) for step in (-1, 0, 1)]
    edges = [edge for edge in (*edges, least, most) if least <= edge <= most]
    return st.sampled_from(edges) | st.integers(0, most.bit_length()).flatmap(
        lambda bits: st.integers(least, max(least, min(most, 2**bits)))
    )


def below(number: int) -> st.SearchStrategy[int]:
    """Indices, the last of them often."""
    return st.just(number - 1) | st.integers(0, number - 1)


def offsets(emulated: Any, what: str, *numbers: int) -> list[int]:
    return emulated.selftest_offsets(torch.tensor(numbers, dtype=torch.int64), what).tolist()


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


# ---- linear ----------------------------------------------------------------------------------------------------------


@drawn
@given(st.data())
def test_pieces_of_work(emulated, data):
    num_rows, num_outputs = data.draw(near_powers(1, MOST_INT)), data.draw(near_powers(1, 2**40))
    tile_rows, splits = data.draw(st.sampled_from([1, 4, 8, 16, 64, 128])), data.draw(st.integers(1, 200))
    tiles, blocks = ceil_div(num_rows, tile_rows), ceil_div(num_outputs, 64)
    assume(tiles * blocks * splits < 2**62)
    piece = data.draw(below(tiles * blocks * splits))
    tile, rest = divmod(piece, blocks * splits)
    first = tile * tile_rows
    assert offsets(emulated, "linear_piece", num_rows, tile_rows, num_outputs, splits, piece) == [
        tiles * blocks * splits, first, min(tile_rows, num_rows - first), rest % blocks * 64, rest // blocks,
    ]  # fmt: skip


@drawn
@given(st.lists(near_powers(0, 2**30), min_size=2, max_size=9), st.sampled_from([1, 16, 128]), st.data())
def test_tiles_of_a_plan(emulated, counts, tile_rows, data):
    """The last group are the rows whose slot is out of range."""
    assume(0 < sum(counts) <= MOST_INT)
    first_rows, first_tiles = [0], [0]
    for count in counts:
        first_rows.append(first_rows[-1] + count)
        first_tiles.append(first_tiles[-1] + ceil_div(count, tile_rows))
    tile = data.draw(below(first_tiles[-1]))
    group = next(g for g in range(len(counts)) if tile < first_tiles[g + 1])
    first = first_rows[group] + (tile - first_tiles[group]) * tile_rows
    numbers = [len(counts) - 1, tile_rows, *first_rows, *first_tiles, tile]
    assert offsets(emulated, "planned_tile", *numbers) == [
        first_tiles[-1], group if group < len(counts) - 1 else -1, first, min(tile_rows, first_rows[group + 1] - first),
    ]  # fmt: skip


@drawn
@given(st.integers(0, 1000), near_powers(1, MOST_INT), near_powers(1, MOST_INT), st.data())
def test_places_in_matrices_and_parts(emulated, part, num_rows, num_columns, data):
    assume((part + 1) * num_rows * num_columns < 2**63)
    row, column = data.draw(below(num_rows)), data.draw(below(num_columns))
    assert offsets(emulated, "place", part, num_rows, row, num_columns, column) == [
        (part * num_rows + row) * num_columns + column,
        row * num_columns + column,
    ]


@drawn
@given(near_powers(0, 2**40), near_powers(0, 2**40), st.sampled_from([1, 2, 32, 64]), st.integers(1, 1000), st.data())
def test_parts_of_a_sum(emulated, first, count, step, num_parts, data):
    part = data.draw(below(num_parts))
    steps = ceil_div(count, step)
    last = first + min(count, steps * (part + 1) // num_parts * step)
    assert offsets(emulated, "parts", first, first + count, step, part, num_parts) == [
        first + steps * part // num_parts * step, last, count * part // num_parts, count * (part + 1) // num_parts,
    ]  # fmt: skip


@drawn
@given(near_powers(1, 2**62), st.integers(1, 32))
def test_blocks_of_a_launch(emulated, items, blocks_of_multiprocessor):
    """As many as the device holds, whatever the work: never more than a grid has."""
    assert offsets(emulated, "blocks", items, blocks_of_multiprocessor) == [min(items, 3 * blocks_of_multiprocessor)]


# ---- convolution -----------------------------------------------------------------------------------------------------


class Conv:
    """A convolution that kernels take: images of fewer than 2^30 pixels, weights of fewer than 2^31 - 256 columns."""

    def __init__(self, draw: Callable[[Any], int]) -> None:
        self.kernel = draw(st.integers(1, 5)), draw(st.integers(1, 5))
        self.stride, self.dilation = draw(st.integers(1, 4)), draw(st.integers(1, 9))
        self.pad = draw(st.integers(0, 9)), draw(st.integers(0, 9))
        least = [(size - 1) * self.dilation + 1 for size in self.kernel]
        self.height = draw(near_powers(least[0], 2**20))
        self.width = draw(near_powers(least[1], max(least[1], 2**30 // self.height - 64)))
        sizes = zip((self.height, self.width), self.pad, least, strict=True)
        self.out = [(size + pad - room) // self.stride + 1 for size, pad, room in sizes]
        assume(self.height * self.width < 2**30 and self.out[0] * self.out[1] < 2**30)
        taps = self.kernel[0] * self.kernel[1]
        self.channels = draw(near_powers(1, (2**31 - 256) // taps))
        self.num_outputs = draw(near_powers(1, 2**31 - 256))

    @property
    def numbers(self) -> list[int]:
        return [self.channels, self.height, self.width, self.num_outputs, *self.out, *self.kernel, self.stride,
                self.dilation, *self.pad]  # fmt: skip

    def strides(self, channels: int, pixels: tuple[int, int], is_last: bool) -> list[int]:
        """Of images one after the other: image, channel, row, column."""
        height, width = pixels
        if is_last:
            return [channels * height * width, 1, channels * width, channels]
        return [channels * height * width, height * width, width, 1]


@drawn
@given(st.data())
def test_pixels_of_a_convolution(emulated, data):
    conv, is_last, batch = Conv(data.draw), data.draw(st.booleans()), data.draw(near_powers(1, MOST_INT))
    x = conv.strides(conv.channels, (conv.height, conv.width), is_last)
    y = conv.strides(conv.num_outputs, tuple(conv.out), is_last)
    assume(max(x[0], y[0]) * batch < 2**62)
    pixels, taps = conv.out[0] * conv.out[1], conv.kernel[0] * conv.kernel[1]
    first_image = data.draw(below(batch))
    number = data.draw(below((batch - first_image) * pixels))
    k = data.draw(below(taps * conv.channels))
    image, row, column = first_image + number // pixels, number % pixels // conv.out[1], number % conv.out[1]
    tap, channel = divmod(k, conv.channels)
    down, right = tap // conv.kernel[1] * conv.dilation, tap % conv.kernel[1] * conv.dilation
    top, left = row * conv.stride - conv.pad[0], column * conv.stride - conv.pad[1]
    begin = image * x[0] + top * x[2] + left * x[3]
    of_column = channel * x[1] + down * x[2] + right * x[3]
    is_inside = 0 <= top + down < conv.height and 0 <= left + right < conv.width
    results = offsets(emulated, "conv_pixel", *conv.numbers, *x, *y, batch, first_image, number, k)
    assert results == [
        image, row, column, image * y[0] + row * y[2] + column * y[3],
        begin, top, left, of_column, down, right, is_inside, begin + of_column,
    ]  # fmt: skip
    assert not is_inside or 0 <= results[-1] < batch * x[0]
    past = offsets(emulated, "conv_pixel", *conv.numbers, *x, *y, batch, first_image, number, taps * conv.channels)
    assert not past[-2]  # a column beyond the weights reads nothing


@drawn
@given(st.data())
def test_readers_of_a_pixel(emulated, data):
    conv, is_last, batch = Conv(data.draw), data.draw(st.booleans()), data.draw(near_powers(1, MOST_INT))
    y = conv.strides(conv.num_outputs, tuple(conv.out), is_last)
    pixels = conv.height * conv.width
    assume(y[0] * batch < 2**62)
    first_image = data.draw(below(batch))
    number = data.draw(below((batch - first_image) * pixels))
    p, q = data.draw(below(conv.kernel[0])), data.draw(below(conv.kernel[1]))
    image, row, column = first_image + number // pixels, number % pixels // conv.width, number % conv.width
    down, more_rows = divmod(row + conv.pad[0] - p * conv.dilation, conv.stride)
    right, more_columns = divmod(column + conv.pad[1] - q * conv.dilation, conv.stride)
    is_read = not more_rows and not more_columns and 0 <= down < conv.out[0] and 0 <= right < conv.out[1]
    assert offsets(emulated, "conv_reader", *conv.numbers, *y, batch, first_image, number, p, q) == [
        image * y[0], row + conv.pad[0], column + conv.pad[1],
        image * y[0] + down * y[2] + right * y[3] if is_read else -1,
    ]  # fmt: skip


@drawn
@given(near_powers(1, MOST_INT), near_powers(1, 2**30 - 1), st.data())
def test_parts_of_images(emulated, batch, pixels, data):
    images, parts, *_ = offsets(emulated, "conv_part", batch, pixels, 0)
    assert parts == ceil_div(images * pixels, 64)
    tiles = ceil_div(batch, images)
    item = data.draw(below(tiles * parts))
    first_image, first = item // parts * images, item % parts * 64
    count = min(images, batch - first_image)
    assert offsets(emulated, "conv_part", batch, pixels, item) == [
        images, parts, tiles, first_image, first, min(first + 64, count * pixels),
    ]  # fmt: skip


@drawn
@given(st.data())
def test_pieces_of_the_gradient_of_values(emulated, data):
    conv, batch = Conv(data.draw), data.draw(near_powers(1, MOST_INT))
    columns = conv.kernel[0] * conv.kernel[1] * conv.channels
    num_results, splits = data.draw(near_powers(1, MOST_INT)), data.draw(st.integers(1, 5000))
    start = data.draw(st.integers(0, num_results))
    blocks, spans = ceil_div(conv.num_outputs, 64), ceil_div(columns, 256)
    piece = data.draw(below(2 * splits * spans * blocks))
    rest, block = divmod(piece, blocks)
    rest, span = divmod(rest, spans)
    wanted, split = divmod(rest, splits)
    pixels = conv.out[0] * conv.out[1] * batch if wanted == 0 else 0
    tiles = ceil_div(pixels, 64)
    assert offsets(
        emulated, "conv_grad_values", *conv.numbers, batch, num_results, splits, start, piece
    ) == [
        2 * splits * spans * blocks, wanted, span, block * 64, split * num_results + (start if wanted else 0),
        num_results - start if wanted else start,
        tiles * split // splits * 64, min(pixels, tiles * (split + 1) // splits * 64),
    ]  # fmt: skip


def test_weights_that_no_32_bits_count(emulated, make_conv):
    """Refused before anything is made."""
    problem = make_conv("smallest")
    problem = replace(problem, weight=problem.weight._replace(index=gather_index(problem.weight.positions)))
    x = torch.zeros(1, 1, 1, 1).expand(1, 2**31 - 256, 1, 1)
    with pytest.raises(ValueError, match="task_conv2d: at most 2147483391 rows and columns of weights"):
        replace(problem, x=x).forward(emulated)


# ---- whole kernels ---------------------------------------------------------------------------------------------------


def far_apart(path: Path, tensor: Tensor, strides: tuple[int, ...]) -> Tensor:
    """The same numbers in a file that has blocks only where something is written."""
    numbers = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, strides, strict=True))
    storage = torch.UntypedStorage.from_file(str(path), True, tensor.element_size() * numbers)
    return torch.empty(0, dtype=tensor.dtype).set_(storage, 0, tensor.shape, strides).copy_(tensor)


FAR = {  # of x and grad_y alike; whichever two numbers lie 2^31 apart
    "task_linear": {"rows": (2**30 + 8, 1)},
    "task_conv2d": {
        "images": (2**31 + 8, 64, 8, 1),
        "channels": (64, 2**28 + 8, 8, 1),
        "rows": (1024, 64, 2**29 + 8, 1),
        "columns_of_channels_last": (64, 1, 2**29 + 64, 2**28 + 8),
    },
}
RESULTS = ("forward", "grad_input", "grad_values")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("op", "how"), [(op, how) for op, ways in FAR.items() for how in ways])
def test_numbers_that_lie_far_apart(emulated, make_linear, make_conv, tmp_path, op, how, dtype):
    if op == "task_linear":
        problem = make_linear((5, 40, 21, 2), dtype=dtype)
    else:
        problem = make_conv((3, 9, 10, 2, (5, 5), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)), dtype=dtype)
    problem = replace(problem, weight=problem.weight._replace(index=gather_index(problem.weight.positions)))
    x, grad_y = (
        far_apart(tmp_path / name, tensor, FAR[op][how])
        for name, tensor in (("x", problem.x), ("grad_y", problem.grad_y))
    )
    far = replace(problem, x=x, grad_y=grad_y)
    for result in RESULTS:
        assert torch.equal(far.get(result, emulated), problem.get(result, emulated)), result
    # Which pixels are summed first goes with the layout.
    torch.testing.assert_close(far.grad_bias(emulated), problem.grad_bias(emulated))
