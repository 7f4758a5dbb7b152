"""Claiming by vectors and blocks instead of single weights, which tensor cores can multiply as they stand."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from rsn2.procedure.score import largest
from rsn2_kernels.formats import CapacityError
from rsn2_kernels.nn import TaskLayer

Size = tuple[int, int]
Granularity = Size | Mapping[str, Size]
"""Rows and columns of a block; by pattern of layer names, where single weights are what no pattern matches."""

SINGLE = (1, 1)


def size_for(granularity: Granularity, layer_name: str) -> Size:
    """The block size of a layer."""
    if not isinstance(granularity, Mapping):
        return granularity
    return next((granularity[pattern] for pattern in granularity if fnmatchcase(layer_name, pattern)), SINGLE)


def check_granularity(granularity: Any, scope: str | Mapping[str, str]) -> None:
    """Sizes are pairs of positive numbers; blocks are chosen tensor by tensor."""
    sizes = list(granularity.values()) if isinstance(granularity, Mapping) else [granularity]
    for size in sizes:
        if not (isinstance(size, tuple) and len(size) == 2 and all(type(n) is int and n > 0 for n in size)):
            raise ValueError(f"claim: granularity must be (rows, columns), both positive, got {size!r}")
    if any(size != SINGLE for size in sizes) and scope != "tensor":
        raise ValueError(f"claim: granularity {granularity!r} needs scope 'tensor', got {scope!r}")


def whole_blocks(count: int, size: Size, layer: TaskLayer, name: str) -> int:
    """The weights in as many whole blocks as ``count`` weights make.

    Raises:
        ValueError: that is not one block, or the layer's weight matrix is not made of whole blocks: for a convolution
            of output channels x (kernel position, input channel), where a block stays inside one kernel position.
    """
    rows, columns = size
    if size == SINGLE:
        return count
    outputs, inputs = layer.weight_shape[0], layer.weight_shape[1]
    if outputs % rows or inputs % columns or getattr(layer, "groups", 1) != 1:
        raise ValueError(
            f"claim: granularity {size} must divide the {outputs} outputs and {inputs} inputs of layer {name}, which "
            f"must not be grouped; give sizes by layer, {{pattern: (rows, columns)}}"
        )
    if count < rows * columns:
        raise ValueError(f"claim: {count} weights of layer {name} are less than one block of {rows} x {columns}")
    return count // (rows * columns) * rows * columns


def largest_blocks(layer: TaskLayer, name: str, scores: Tensor, k: int, allowed: Tensor, size: Size) -> Tensor:
    """The ``k`` weights, in whole aligned blocks, whose blocks' scores sum to the most; ties go to the lower block.

    Args:
        layer: whose weight it is.
        name: of the layer.
        scores: ``[numel]``, not negative by meaning.
        k: a multiple of the block's weights.
        allowed: bool ``[numel]``; a block is free when all of its weights are.
        size: rows and columns of a block.

    Returns:
        Ascending int64 ``[k]``.

    Raises:
        CapacityError: fewer whole blocks are free.
    """
    rows, columns = size
    place = layer._to_packed(torch.arange(layer.numel, device=scores.device))  # where each weight stands in [O, K]
    shape = (layer.weight_shape[0] // rows, rows, -1, columns)
    sums = torch.zeros_like(scores, dtype=torch.float64).index_copy_(0, place, scores.double())
    sums = sums.view(shape).sum((1, 3))
    is_free = torch.zeros_like(allowed).index_copy_(0, place, allowed).view(shape).all(3).all(1)
    num_blocks, num_free = k // (rows * columns), int(is_free.sum())
    if num_blocks > num_free:
        raise CapacityError(
            f"claim: layer {name} has {num_free} whole blocks of {rows} x {columns} left, but {num_blocks} are wanted"
        )
    chosen = torch.zeros_like(is_free).flatten()
    chosen[largest(sums.flatten(), num_blocks, is_free.flatten())] = True
    mask = chosen.view(len(is_free), 1, -1, 1).expand(-1, rows, -1, columns).reshape(-1)
    return mask[place].nonzero().squeeze(1)
