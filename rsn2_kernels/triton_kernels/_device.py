"""What the kernels share on the device: where weights stand, which rows a work item has, where a pixel stands.

The kernels see one geometry. A weight matrix ``[O, K]`` with ``K = taps * C`` is convolved with images; a linear layer
is the case of one tap and one pixel, and ``IS_CONV`` leaves out what that does not need: 0 is linear, 1 a convolution,
2 one of 2^31 pixels or more, whose numbers are divided in 64 bits. A *pixel* is one place of one
image, numbered image by image, the images in the order of their slots.
"""

from __future__ import annotations

import triton
import triton.language as tl

# mypy: ignore-errors
# ruff: noqa: E741

SIZES = ["num_items", "num_pixels", "O", "K", "C", "H", "W", "OH", "OW", "Q", "stride_h", "stride_w", "pad_h", "pad_w",
         "dil_h", "dil_w"]  # fmt: skip
"""Arguments that no machine code is specialised on, so that a new batch size or layer compiles nothing. Strides are."""


@triton.jit
def table_of(index, slot, O, K):
    """Where the table of ``slot`` begins, 0 when it owns nothing; -1 when there is no such slot, or for other sizes."""
    fits = (tl.load(index) == 1) & (tl.load(index + 2) == O) & (tl.load(index + 3) == K)
    fits = fits & (slot >= 0) & (slot < tl.load(index + 1))
    at = index + 8 + tl.where(fits, slot, 0)
    return tl.load(at, mask=fits, other=-1).to(tl.int64)


@triton.jit
def row_bounds(index, table, o, span, O, K):
    """Places in ``values`` of the first and past the last weight of rows ``o`` inside a span; ``o`` of any shape."""
    spans = (K + 255) // 256
    tiles = ((O + 15) // 16).to(tl.int64) * spans
    tile = (o >> 4).to(tl.int64) * spans + span
    place = o & 15
    row_starts = (index + table).to(tl.pointer_type(tl.uint16), bitcast=True)
    tile_starts = index + table + tiles * 8
    is_row = o < O
    base = tl.load(tile_starts + tile, mask=is_row, other=0)
    end = tl.load(tile_starts + tile + 1, mask=is_row, other=0)
    first = base + tl.load(row_starts + tile * 16 + place, mask=is_row, other=0).to(tl.int32)
    has_next = is_row & (place < 15)
    after = base + tl.load(row_starts + tile * 16 + place + 1, mask=has_next, other=0).to(tl.int32)
    return first, tl.where(has_next, after, end)


@triton.jit(do_not_specialize=["num_rows"])
def assert_slots(slots, index, num_rows, SIZE: tl.constexpr):
    """Stop the device when a row's slot is out of range; started with ``debug=True``, or else it does nothing."""
    row = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    slot = tl.load(slots + row, mask=row < num_rows, other=0)
    tl.device_assert((row >= num_rows) | ((slot >= 0) & (slot < tl.load(index + 1))), "slots: an id is out of range")


@triton.jit
def columns_of(index):
    """The column bytes."""
    return (index + tl.load(index + 7)).to(tl.pointer_type(tl.uint8), bitcast=True)


@triton.jit
def search(columns, first, last, wanted):
    """The place of the column ``wanted`` (inside the span, outside it for none) among a row's weights, and whether it
    is there. ``first``, ``last`` and ``wanted`` are broadcast against each other.
    """
    low = first + wanted * 0
    high = last + wanted * 0
    length = tl.max(tl.max(last - first, 1), 0)
    while length > 0:  # a bisection, as many steps as the longest row needs
        middle = low + ((high - low) >> 1)
        is_open = low < high
        column = tl.load(columns + middle, mask=is_open, other=0).to(tl.int32)
        low = tl.where(is_open & (column < wanted), middle + 1, low)
        high = tl.where(is_open & (column >= wanted), middle, high)
        length = length >> 1
    is_inside = low < last
    column = tl.load(columns + low, mask=is_inside, other=0).to(tl.int32)
    return low, is_inside & (column == wanted)


@triton.jit
def item_of(number, items, slots, num_items, num_pixels, BM: tl.constexpr, MIXED: tl.constexpr):
    """Slot, first pixel and past the last pixel of a work item."""
    if MIXED:
        slot = tl.load(items + number)
        first = tl.load(items + num_items + number)
        end = tl.load(items + num_items + number + num_items)  # place by place: twice their number may not fit 32 bits
    else:
        slot = tl.load(slots)
        first = (slot * 0 + number) * BM  # in 64 bits
        end = first * 0 + num_pixels
    return slot, first, end


@triton.jit
def pixel_of(m, order, is_live, height, width, MIXED: tl.constexpr, IS_CONV: tl.constexpr):
    """Image, row and column of pixels ``m``; ``order`` says which image is the how manieth."""
    if IS_CONV == 2:
        per_image = height.to(tl.int64) * width
        image = m // per_image
        rest = m - image * per_image
        row = rest // width
        column = rest - row * width
    elif IS_CONV:
        per_image = height * width
        number = m.to(tl.int32)
        image = number // per_image
        rest = number - image * per_image
        image = image.to(tl.int64)
        row = rest // width
        column = rest - row * width
    else:
        image = m
        row = (m * 0).to(tl.int32)
        column = row
    if MIXED:
        image = tl.load(order + image, mask=is_live, other=0)
    return image, row, column


@triton.jit
def load_window(x, k, image, row, column, mask, C, H, W, Q, stride_h, stride_w, pad_h, pad_w, dil_h, dil_w,
                xb, xc, xh, xw, IS_CONV: tl.constexpr):  # fmt: skip
    """What weights of column ``k`` are multiplied by at output pixels, zero outside ``mask`` and outside the image."""
    if IS_CONV:
        tap = k // C
        c = k - tap * C
        p = tap // Q
        h = row * stride_h - pad_h + p * dil_h
        w = column * stride_w - pad_w + (tap - p * Q) * dil_w
        mask = mask & (h >= 0) & (h < H) & (w >= 0) & (w < W)
        at = image * xb + c.to(tl.int64) * xc + h.to(tl.int64) * xh + w.to(tl.int64) * xw
    else:
        at = image * xb + k.to(tl.int64) * xc
    return tl.load(x + at, mask=mask, other=0)


@triton.jit
def dot(a, b, acc, PRECISION: tl.constexpr):
    """``acc + a @ b``; in float64, which has no such instruction everywhere, by multiplying out."""
    if PRECISION == "float64":
        acc += tl.sum(a[:, :, None] * b[None, :, :], 1)
    else:
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
    return acc
