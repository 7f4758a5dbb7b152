"""The maximum of 2x2 neighbours on the CPU, as two vectorised maxima.

``torch.nn.MaxPool2d`` goes through contiguous ``[B, C, H, W]`` one element at a time (torch 2.13): where convolutions
are sparse, most of a training step would be pooling.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def is_pair_maximum(module: nn.Module, x: Tensor) -> bool:
    """Whether :func:`pair_maximum` gives what this module gives for ``x``, and sooner."""
    return (
        type(module) is nn.MaxPool2d
        and (_both(module.kernel_size), _both(module.padding), _both(module.dilation)) == (2, 0, 1)
        and _both(module.stride) in (1, 2)
        and not module.ceil_mode
        and not module.return_indices
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and x.dim() == 4
        and x.is_contiguous()
        and min(x.shape[2:]) >= 2
    )


def _both(size: Any) -> int:
    """A size of pooling that is the same in both directions; -1 where it is not."""
    if isinstance(size, int):
        return size
    return int(size[0]) if size[0] == size[1] else -1


def pair_maximum(x: Tensor, stride: int) -> Tensor:
    """``torch.nn.functional.max_pool2d(x, 2, stride)`` for ``[B, C, H, W]``, the gradient included: of equal elements
    the first takes it.
    """
    y: Tensor = _PairMaximum.apply(x, stride)
    return y


def _pairs(x: Tensor, dim: int, stride: int) -> tuple[Tensor, Tensor]:
    """First and second of all pairs along a dimension, views of ``x``."""
    num_pairs = (x.shape[dim] - 2) // stride + 1
    whole = [slice(None)] * x.dim()
    first, second = list(whole), list(whole)
    first[dim] = slice(0, (num_pairs - 1) * stride + 1, stride)
    second[dim] = slice(1, (num_pairs - 1) * stride + 2, stride)
    return x[tuple(first)], x[tuple(second)]


def _spread(gradient: Tensor, from_second: Tensor, shape: torch.Size, dim: int, stride: int) -> Tensor:
    """The gradient of all pairs' maxima with respect to what the pairs were taken from."""
    found = gradient.new_zeros(shape)
    first, second = _pairs(found, dim, stride)
    # masked_fill and where take several times as long as products.
    if stride == 1:
        torch.mul(gradient, from_second, out=second)
        first.addcmul_(gradient, 1 - from_second)
    else:  # arithmetic in every other element is slow, copies are not
        of_second = gradient * from_second
        second.copy_(of_second)
        first.copy_(gradient - of_second)
    return found


def _is_larger(a: Tensor, b: Tensor, stride: int) -> Tensor:
    """Where it is: as 1 and 0 where arithmetic follows at once, which would make numbers of booleans first."""
    return torch.gt(a, b, out=a.new_empty(a.shape)) if stride == 1 else a > b


class _PairMaximum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, stride: int) -> Tensor:
        left, right = _pairs(x, 3, stride)
        rows = torch.maximum(left, right)
        upper, lower = _pairs(rows, 2, stride)
        ctx.save_for_backward(_is_larger(right, left, stride), _is_larger(lower, upper, stride))
        ctx.stride, ctx.shapes = stride, (x.shape, rows.shape)
        return torch.maximum(upper, lower)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        from_right, from_lower = ctx.saved_tensors
        of_x, of_rows = ctx.shapes
        rows = _spread(gradients[0], from_lower, of_rows, 2, ctx.stride)
        return _spread(rows, from_right, of_x, 3, ctx.stride), None
