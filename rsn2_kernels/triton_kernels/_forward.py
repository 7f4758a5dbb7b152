"""The forward kernels: ``y = activation(W[slot] x + bias[slot])`` for every pixel."""

from __future__ import annotations

import triton
import triton.language as tl

from rsn2_kernels.triton_kernels._device import (
    SIZES,
    columns_of,
    dot,
    item_of,
    load_window,
    pixel_of,
    row_bounds,
    search,
    table_of,
)

# mypy: ignore-errors
# ruff: noqa: E741


@triton.jit
def _add_lists(acc, values, index, table, panel, x, m_image, m_row, m_column, is_live, O, K,
               C, H, W, Q, stride_h, stride_w, pad_h, pad_w, dil_h, dil_w, xb, xc, xh, xw,
               J: tl.constexpr, IS_CONV: tl.constexpr):  # fmt: skip
    """``acc[r, j, m]`` plus the products of pixel ``m`` with every ``J``-th weight of row ``r``, from ``j`` on."""
    o = panel * 16 + tl.arange(0, 16)
    columns = columns_of(index)
    spans = tl.where(table > 0, (K + 255) // 256, 0)
    for span in range(0, spans):
        first, last = row_bounds(index, table, o, span, O, K)
        longest = tl.max(last - first, 0)
        for j in range(0, longest, J):
            at = first[:, None] + j + tl.arange(0, J)[None, :]  # [16, J]
            is_owned = at < last[:, None]
            k = span * 256 + tl.load(columns + at, mask=is_owned, other=0).to(tl.int32)
            weight = tl.load(values + at, mask=is_owned, other=0).to(acc.dtype)
            window = load_window(
                x, k[:, :, None], m_image[None, None, :], m_row[None, None, :], m_column[None, None, :],
                is_owned[:, :, None] & is_live[None, None, :], C, H, W, Q, stride_h, stride_w, pad_h, pad_w,
                dil_h, dil_w, xb, xc, xh, xw, IS_CONV,
            )  # fmt: skip
            acc += weight[:, :, None] * window.to(acc.dtype)
    return acc


@triton.jit
def _add_tiles(acc, values, index, table, o, x, m_image, m_row, m_column, is_live, O, K,
               C, H, W, Q, stride_h, stride_w, pad_h, pad_w, dil_h, dil_w, xb, xc, xh, xw,
               BC: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr, IS_CONV: tl.constexpr):  # fmt: skip
    """``acc[o, m]`` plus all products, ``BC`` columns at a time, decoded or, in blocks, as they stand in memory."""
    columns = columns_of(index)
    spans = tl.where(table > 0, (K + 255) // 256, 0)
    for span in range(0, spans):
        first, last = row_bounds(index, table, o, span, O, K)
        if BLOCK:
            lead = tl.min(first, 0)
            num_pieces = tl.max(last - first, 0) // BC
        else:
            lead = 0
            num_pieces = (tl.minimum(K - span * 256, 256) + BC - 1) // BC
        for piece in range(0, num_pieces):
            if BLOCK:
                begin = tl.load(columns + lead + piece * BC).to(tl.int32)
                place = first[:, None] + piece * BC + tl.arange(0, BC)[None, :]
                weight = tl.load(values + place)
            else:
                begin = piece * BC
                wanted = begin + tl.arange(0, BC)
                place, is_owned = search(columns, first[:, None], last[:, None], wanted[None, :])
                weight = tl.load(values + place, mask=is_owned, other=0)
            k = span * 256 + begin + tl.arange(0, BC)
            window = load_window(
                x, k[:, None], m_image[None, :], m_row[None, :], m_column[None, :],
                (k < K)[:, None] & is_live[None, :], C, H, W, Q, stride_h, stride_w, pad_h, pad_w, dil_h, dil_w,
                xb, xc, xh, xw, IS_CONV,
            )  # fmt: skip
            acc = dot(weight.to(window.dtype), window, acc, PRECISION)
    return acc


@triton.jit
def _finish(acc, table, slot, bias, bias_slots, y, o, m_image, m_row, m_column, is_live, O, yb, yo, yh, yw,
            HAS_BIAS: tl.constexpr, RELU: tl.constexpr):  # fmt: skip
    """Bias, ReLU (which keeps NaN), NaN where there is no such slot, or none of the bias; and into ``y``."""
    is_slot = table >= 0
    if HAS_BIAS:
        is_slot = is_slot & (slot < bias_slots)
        acc += tl.load(bias + tl.where(is_slot, slot, 0) * O + o, mask=(o < O) & is_slot, other=0).to(acc.dtype)[
            :, None
        ]
    if RELU:
        acc = tl.where(acc < 0, 0, acc)
    acc = tl.where(is_slot, acc, float("nan"))
    at = (m_image * yb + m_row.to(tl.int64) * yh + m_column.to(tl.int64) * yw)[None, :] + o.to(tl.int64)[:, None] * yo
    tl.store(y + at, acc.to(y.dtype.element_ty), mask=(o < O)[:, None] & is_live[None, :])


@triton.jit(do_not_specialize=[*SIZES, "bias_slots"])
def forward_lists(x, values, index, frozen_values, frozen_index, bias, bias_slots, slots, items, num_used, order, y,
                  num_items, num_pixels, O, K, C, H, W, OH, OW, Q, stride_h, stride_w, pad_h, pad_w, dil_h, dil_w,
                  xb, xc, xh, xw, yb, yo, yh, yw,
                  J: tl.constexpr, BM: tl.constexpr, ACC: tl.constexpr, MIXED: tl.constexpr, IS_CONV: tl.constexpr,
                  HAS_BIAS: tl.constexpr, HAS_FROZEN: tl.constexpr, RELU: tl.constexpr):  # fmt: skip
    """A program computes 16 outputs of BM pixels of a slot, for one work item after another: it walks over the owned
    weights of its 16 rows, J of each at a time, and gathers what they are multiplied by, so that time goes with the
    weights owned.
    """
    used = tl.load(num_used) if MIXED else num_items
    for item in range(tl.program_id(1), used, tl.num_programs(1)):
        panel = tl.program_id(0)
        slot, begin, end = item_of(item, items, slots, num_items, num_pixels, BM, MIXED)
        m = begin + tl.arange(0, BM)
        is_live = m < end
        image, row, column = pixel_of(m, order, is_live, OH, OW, MIXED, IS_CONV)
        table = table_of(index, slot, O, K)
        acc = tl.zeros([16, J, BM], ACC)
        acc = _add_lists(
            acc, values, index, table, panel, x, image, row, column, is_live, O, K, C, H, W, Q, stride_h, stride_w,
            pad_h, pad_w, dil_h, dil_w, xb, xc, xh, xw, J, IS_CONV,
        )  # fmt: skip
        if HAS_FROZEN:
            acc = _add_lists(
                acc, frozen_values, frozen_index, table_of(frozen_index, slot, O, K), panel, x, image, row, column,
                is_live, O, K, C, H, W, Q, stride_h, stride_w, pad_h, pad_w, dil_h, dil_w, xb, xc, xh, xw, J, IS_CONV,
            )  # fmt: skip
        o = panel * 16 + tl.arange(0, 16)
        _finish(
            tl.sum(acc, 1),
            table,
            slot,
            bias,
            bias_slots,
            y,
            o,
            image,
            row,
            column,
            is_live,
            O,
            yb,
            yo,
            yh,
            yw,
            HAS_BIAS,
            RELU,
        )


@triton.jit(do_not_specialize=[*SIZES, "bias_slots"])
def forward_tiles(x, values, index, frozen_values, frozen_index, bias, bias_slots, slots, items, num_used, order, y,
                  num_items, num_pixels, O, K, C, H, W, OH, OW, Q, stride_h, stride_w, pad_h, pad_w, dil_h, dil_w,
                  xb, xc, xh, xw, yb, yo, yh, yw,
                  BO: tl.constexpr, BC: tl.constexpr, BM: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr,
                  ACC: tl.constexpr, MIXED: tl.constexpr, IS_CONV: tl.constexpr, HAS_BIAS: tl.constexpr,
                  HAS_FROZEN: tl.constexpr, RELU: tl.constexpr):  # fmt: skip
    """A program computes BO outputs of BM pixels of a slot, for one work item after another: it walks over the
    columns, BC at a time, and multiplies tiles of weights on the tensor cores. BLOCK: only over the blocks that the
    slot owns, of BO x BC weights each.
    """
    used = tl.load(num_used) if MIXED else num_items
    for item in range(tl.program_id(1), used, tl.num_programs(1)):
        o = tl.program_id(0) * BO + tl.arange(0, BO)
        slot, begin, end = item_of(item, items, slots, num_items, num_pixels, BM, MIXED)
        m = begin + tl.arange(0, BM)
        is_live = m < end
        image, row, column = pixel_of(m, order, is_live, OH, OW, MIXED, IS_CONV)
        table = table_of(index, slot, O, K)
        acc = tl.zeros([BO, BM], ACC)
        acc = _add_tiles(
            acc, values, index, table, o, x, image, row, column, is_live, O, K, C, H, W, Q, stride_h, stride_w,
            pad_h, pad_w, dil_h, dil_w, xb, xc, xh, xw, BC, BLOCK, PRECISION, IS_CONV,
        )  # fmt: skip
        if HAS_FROZEN:
            acc = _add_tiles(
                acc, frozen_values, frozen_index, table_of(frozen_index, slot, O, K), o, x, image, row, column,
                is_live, O, K, C, H, W, Q, stride_h, stride_w, pad_h, pad_w, dil_h, dil_w, xb, xc, xh, xw, BC, BLOCK,
                PRECISION, IS_CONV,
            )  # fmt: skip
        _finish(
            acc, table, slot, bias, bias_slots, y, o, image, row, column, is_live, O, yb, yo, yh, yw, HAS_BIAS, RELU
        )
