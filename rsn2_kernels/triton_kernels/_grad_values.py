"""The gradient of a slot's owned values: ``grad_y^T x`` over the slot's pixels, only where it owns a weight."""

from __future__ import annotations

import triton
import triton.language as tl

from rsn2_kernels.triton_kernels._device import (
    SIZES,
    columns_of,
    dot,
    load_window,
    pixel_of,
    row_bounds,
    search,
    table_of,
)

# mypy: ignore-errors
# ruff: noqa: E741


@triton.jit
def _pixels_of_slot(slot, lowest, slots, starts, num_pixels, per_image, MIXED: tl.constexpr):
    """The first pixel of a slot and past its last."""
    if MIXED:
        begin = tl.load(starts + slot - lowest) * per_image
        end = tl.load(starts + slot - lowest + 1) * per_image
    else:
        begin = slot.to(tl.int64) * 0
        end = tl.where(tl.load(slots) == slot, begin + num_pixels, begin)
    return begin, end


@triton.jit
def _num_values(index, table, O, K):
    """How many values the slot owns."""
    tiles = ((O + 15) // 16).to(tl.int64) * ((K + 255) // 256)
    count = tiles * 0
    if table > 0:
        count = tl.load(index + table + tiles * 9).to(tl.int64) - tl.load(index + table + tiles * 8)
    return count


@triton.jit
def _spoil(grad, first, num_owned):
    """Gradients that no value has are NaN: of a slot that is not there, and those past the values of one that owns
    fewer than the caller said.
    """
    step = 128 * tl.num_programs(0)
    for start in range(first + 128 * tl.program_id(0), num_owned, step):
        at = start + tl.arange(0, 128)
        tl.store(grad + at, tl.full([128], float("nan"), tl.float32).to(grad.dtype.element_ty), mask=at < num_owned)


@triton.jit
def _place_of(index, table, O, K):
    """Where the slot's values begin in the flat tensor of all."""
    tiles = ((O + 15) // 16).to(tl.int64) * ((K + 255) // 256)
    return tl.load(index + table + tiles * 8)


@triton.jit
def _load_grads(grad_y, o, image, row, column, is_live, O, yb, yo, yh, yw):
    """``grad_y[o, m]``."""
    at = image * yb + row.to(tl.int64) * yh + column.to(tl.int64) * yw
    return tl.load(grad_y + at[None, :] + o.to(tl.int64)[:, None] * yo, mask=(o < O)[:, None] & is_live[None, :],
                   other=0)  # fmt: skip


@triton.jit(do_not_specialize=[*SIZES, "slot", "lowest", "num_owned", "grad"])
def grad_values_lists(x, grad_y, index, slots, starts, order, grad, slot, lowest, num_owned, num_pixels,
                      O, K, C, H, W, OH, OW, Q, stride_h, stride_w, pad_h, pad_w, dil_h, dil_w,
                      xb, xc, xh, xw, yb, yo, yh, yw, J: tl.constexpr, BM: tl.constexpr, ACC: tl.constexpr,
                      MIXED: tl.constexpr, IS_CONV: tl.constexpr):  # fmt: skip
    """One program is 16 rows of one span and J owned weights of each: it gathers the inputs of those weights alone,
    walking over the slot's pixels BM at a time. Programs past the longest row end at once.
    """
    spans = (K + 255) // 256
    panel = tl.program_id(0) // spans
    span = tl.program_id(0) - panel * spans
    table = table_of(index, slot, O, K)
    if tl.program_id(1) == 0:
        _spoil(grad, _num_values(index, table, O, K), num_owned)
    if table > 0:
        o = panel * 16 + tl.arange(0, 16)
        first, last = row_bounds(index, table, o, span, O, K)
        at = first[:, None] + tl.program_id(1) * J + tl.arange(0, J)[None, :]
        is_owned = at < last[:, None]
        if tl.program_id(1) * J < tl.max(last - first, 0):
            k = span * 256 + tl.load(columns_of(index) + at, mask=is_owned, other=0).to(tl.int32)
            acc = tl.zeros([16, J, BM], ACC)
            begin, end = _pixels_of_slot(slot, lowest, slots, starts, num_pixels, OH.to(tl.int64) * OW, MIXED)
            for start in range(begin, end, BM):
                m = start + tl.arange(0, BM).to(tl.int64)
                is_live = m < end
                image, row, column = pixel_of(m, order, is_live, OH, OW, MIXED, IS_CONV)
                grads = _load_grads(grad_y, o, image, row, column, is_live, O, yb, yo, yh, yw)
                window = load_window(
                    x, k[:, :, None], image[None, None, :], row[None, None, :], column[None, None, :],
                    is_owned[:, :, None] & is_live[None, None, :], C, H, W, Q, stride_h, stride_w, pad_h, pad_w,
                    dil_h, dil_w, xb, xc, xh, xw, IS_CONV,
                )  # fmt: skip
                acc += grads.to(ACC)[:, None, :] * window.to(ACC)
            place = at - _place_of(index, table, O, K)
            total = tl.sum(acc, 2)
            tl.store(grad + place, total.to(grad.dtype.element_ty), mask=is_owned & (place < num_owned))


@triton.jit(do_not_specialize=[*SIZES, "slot", "lowest", "num_owned", "grad"])
def grad_values_tiles(x, grad_y, index, slots, starts, order, grad, slot, lowest, num_owned, num_pixels,
                      O, K, C, H, W, OH, OW, Q, stride_h, stride_w, pad_h, pad_w, dil_h, dil_w,
                      xb, xc, xh, xw, yb, yo, yh, yw, BO: tl.constexpr, BC: tl.constexpr, BM: tl.constexpr,
                      BLOCK: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr, MIXED: tl.constexpr,
                      IS_CONV: tl.constexpr):  # fmt: skip
    """One program is a tile of BO x BC weights: the dense product over the slot's pixels on the tensor cores, BM at a
    time, of which only what is owned is stored. BLOCK: the program is one block that the slot owns, or ends at once.
    """
    spans = (K + 255) // 256
    panel = tl.program_id(0) // spans
    span = tl.program_id(0) - panel * spans
    piece = tl.program_id(1)
    table = table_of(index, slot, O, K)
    if tl.program_id(1) == 0:
        _spoil(grad, _num_values(index, table, O, K), num_owned)
    if table > 0:
        o = panel * BO + tl.arange(0, BO)
        first, last = row_bounds(index, table, o, span, O, K)
        if BLOCK:
            count = tl.max(last - first, 0)
            place = first[:, None] + piece * BC + tl.arange(0, BC)[None, :]
            is_owned = (place < last[:, None]) & (piece * BC < count)
            lead = tl.load(columns_of(index) + tl.min(first, 0) + piece * BC, mask=piece * BC < count, other=0)
            k = span * 256 + lead.to(tl.int32) + tl.arange(0, BC)
            is_needed = piece * BC < count
        else:
            wanted = piece * BC + tl.arange(0, BC)
            place, is_owned = search(columns_of(index), first[:, None], last[:, None], wanted[None, :])
            k = span * 256 + wanted
            is_needed = tl.max(tl.max(is_owned.to(tl.int32), 1), 0) > 0
        if is_needed:
            acc = tl.zeros([BO, BC], ACC)
            begin, end = _pixels_of_slot(slot, lowest, slots, starts, num_pixels, OH.to(tl.int64) * OW, MIXED)
            for start in range(begin, end, BM):
                m = start + tl.arange(0, BM).to(tl.int64)
                is_live = m < end
                image, row, column = pixel_of(m, order, is_live, OH, OW, MIXED, IS_CONV)
                grads = _load_grads(grad_y, o, image, row, column, is_live, O, yb, yo, yh, yw)
                window = load_window(
                    x, k[None, :], image[:, None], row[:, None], column[:, None],
                    (k < K)[None, :] & is_live[:, None], C, H, W, Q, stride_h, stride_w, pad_h, pad_w, dil_h, dil_w,
                    xb, xc, xh, xw, IS_CONV,
                )  # fmt: skip
                acc = dot(grads, window, acc, PRECISION)
            place = place - _place_of(index, table, O, K)
            tl.store(grad + place, acc.to(grad.dtype.element_ty), mask=is_owned & (place < num_owned))
