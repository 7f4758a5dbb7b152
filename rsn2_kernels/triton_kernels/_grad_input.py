"""The gradient of the input: ``grad_x = W[slot]^T grad_y`` for every pixel of the input."""

from __future__ import annotations

import triton
import triton.language as tl

from rsn2_kernels.triton_kernels._device import SIZES, columns_of, dot, item_of, pixel_of, row_bounds, search, table_of

# mypy: ignore-errors
# ruff: noqa: E741


@triton.jit
def _load_outputs(grad_y, o, image, row, column, p, q, is_live, O, OH, OW, stride_h, stride_w, pad_h, pad_w,
                  dil_h, dil_w, yb, yo, yh, yw, IS_CONV: tl.constexpr):  # fmt: skip
    """``grad_y[o, m]`` at the output pixel that kernel entry ``(p, q)`` reaches from input pixel ``m``, or zero."""
    at = image * yb
    if IS_CONV:
        h = row + pad_h - p * dil_h
        w = column + pad_w - q * dil_w
        oh = h // stride_h
        ow = w // stride_w
        is_live = is_live & (h >= 0) & (w >= 0) & (oh * stride_h == h) & (ow * stride_w == w) & (oh < OH) & (ow < OW)
        at += oh.to(tl.int64) * yh + ow.to(tl.int64) * yw
    return tl.load(grad_y + at[None, :] + o.to(tl.int64)[:, None] * yo, mask=(o < O)[:, None] & is_live[None, :],
                   other=0)  # fmt: skip


@triton.jit
def _add_rows(acc, values, index, table, c, grad_y, image, row, column, p, q, k_first, is_live, O, K, C, OH, OW,
              stride_h, stride_w, pad_h, pad_w, dil_h, dil_w, yb, yo, yh, yw,
              BO: tl.constexpr, BC: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr,
              IS_CONV: tl.constexpr):  # fmt: skip
    """``acc[c, m]`` plus the products with all rows of one kernel entry, whose columns begin at ``k_first``."""
    columns = columns_of(index)
    first_column = k_first + tl.min(c, 0)
    last_column = k_first + tl.minimum(tl.max(c, 0), C - 1)
    first_span = first_column >> 8
    end_span = tl.where(table > 0, (last_column >> 8) + 1, first_span)
    for span in range(first_span, end_span):
        local = k_first + c - span * 256
        wanted = tl.where(c < C, local, -1)
        for begin in range(0, O, BO):
            o = begin + tl.arange(0, BO)
            first, last = row_bounds(index, table, o, span, O, K)
            if BLOCK:
                lead = tl.min(first, 0)
                count = tl.max(last - first, 0)
                place = tl.arange(0, 256 // BC) * BC
                is_block = place < count
                column_of_block = tl.load(columns + lead + place, mask=is_block, other=0).to(tl.int32)
                start = tl.min(local, 0)
                if tl.max((is_block & (column_of_block == start)).to(tl.int32), 0) > 0:
                    rank = tl.sum((is_block & (column_of_block < start)).to(tl.int32), 0)
                    at = first[None, :] + rank * BC + tl.arange(0, BC)[:, None]  # [BC, BO]
                    grad = _load_outputs(
                        grad_y, o, image, row, column, p, q, is_live, O, OH, OW, stride_h, stride_w, pad_h, pad_w,
                        dil_h, dil_w, yb, yo, yh, yw, IS_CONV,
                    )  # fmt: skip
                    acc = dot(tl.load(values + at).to(grad.dtype), grad, acc, PRECISION)
            else:
                at, is_owned = search(columns, first[None, :], last[None, :], wanted[:, None])  # [BC, BO]
                weight = tl.load(values + at, mask=is_owned, other=0)
                grad = _load_outputs(
                    grad_y, o, image, row, column, p, q, is_live, O, OH, OW, stride_h, stride_w, pad_h, pad_w,
                    dil_h, dil_w, yb, yo, yh, yw, IS_CONV,
                )  # fmt: skip
                acc = dot(weight.to(grad.dtype), grad, acc, PRECISION)
    return acc


@triton.jit(do_not_specialize=[*SIZES, "P"])
def grad_input(grad_y, values, index, frozen_values, frozen_index, slots, items, num_used, order, grad_x,
               num_items, num_pixels, O, K, C, H, W, OH, OW, P, Q, stride_h, stride_w, pad_h, pad_w, dil_h, dil_w,
               xb, xc, xh, xw, yb, yo, yh, yw,
               BO: tl.constexpr, BC: tl.constexpr, BM: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr,
               ACC: tl.constexpr, MIXED: tl.constexpr, IS_CONV: tl.constexpr, HAS_FROZEN: tl.constexpr):  # fmt: skip
    """A program computes BC channels of BM input pixels of a slot, for one work item after another: it walks over the
    kernel's entries and the rows, BO at a time, multiplying tiles of transposed weights on the tensor cores. BLOCK:
    only blocks that the slot owns.

    No list of a column's weights exists, and adding along rows' lists would need atomic additions, which have no order.
    """
    used = tl.load(num_used) if MIXED else num_items
    for item in range(tl.program_id(1), used, tl.num_programs(1)):
        c = tl.program_id(0) * BC + tl.arange(0, BC)
        slot, begin, end = item_of(item, items, slots, num_items, num_pixels, BM, MIXED)
        m = begin + tl.arange(0, BM)
        is_live = m < end
        image, row, column = pixel_of(m, order, is_live, H, W, MIXED, IS_CONV)
        table = table_of(index, slot, O, K)
        acc = tl.zeros([BC, BM], ACC)
        for tap in range(0, P * Q):
            p = tap // Q
            q = tap - p * Q
            acc = _add_rows(
                acc, values, index, table, c, grad_y, image, row, column, p, q, tap * C, is_live, O, K, C, OH, OW,
                stride_h, stride_w, pad_h, pad_w, dil_h, dil_w, yb, yo, yh, yw, BO, BC, BLOCK, PRECISION, IS_CONV,
            )  # fmt: skip
            if HAS_FROZEN:
                acc = _add_rows(
                    acc, frozen_values, frozen_index, table_of(frozen_index, slot, O, K), c, grad_y, image, row,
                    column, p, q, tap * C, is_live, O, K, C, OH, OW, stride_h, stride_w, pad_h, pad_w, dil_h, dil_w,
                    yb, yo, yh, yw, BO, BC, BLOCK, PRECISION, IS_CONV,
                )  # fmt: skip
        acc = tl.where(table >= 0, acc, float("nan"))
        at = (image * xb + row.to(tl.int64) * xh + column.to(tl.int64) * xw)[None, :] + c.to(tl.int64)[:, None] * xc
        tl.store(grad_x + at, acc.to(grad_x.dtype.element_ty), mask=(c < C)[:, None] & is_live[None, :])
