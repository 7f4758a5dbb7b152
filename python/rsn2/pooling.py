"""The maximum of 2x2 neighbours on the CPU, as two vectorised maxima.

``torch.nn.MaxPool2d`` goes through contiguous ``[B, C, H, W]`` one element at a time (torch 2.13): where convolutions
are sparse, most of a training step would be pooling. Here each operation takes rows of the batch that stay in the
cache until the next one reads them; which element was the larger is looked at again for the gradient, which is sooner
done than written down.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_BYTES_AT_ONCE = 2**20
"""Of the input, per thread: what a core's second cache holds."""


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
    if torch.is_grad_enabled() and x.requires_grad:
        y: Tensor = _PairMaximum.apply(x, stride)
        return y
    return _maxima(x, stride)


def _num_pairs(length: int, stride: int) -> int:
    return (length - 2) // stride + 1


def _pairs(x: Tensor, dim: int, stride: int) -> tuple[Tensor, Tensor]:
    """First and second of all pairs along a dimension, views of ``x``."""
    last = (_num_pairs(x.shape[dim], stride) - 1) * stride
    whole = [slice(None)] * x.dim()
    first, second = list(whole), list(whole)
    first[dim] = slice(0, last + 1, stride)
    second[dim] = slice(1, last + 2, stride)
    return x[tuple(first)], x[tuple(second)]


def _parts(shape: torch.Size, element_size: int) -> Iterator[slice]:
    """Rows of the batch that are gone through at once."""
    row = shape[1:].numel() * element_size
    at_once = max(1, _BYTES_AT_ONCE * torch.get_num_threads() // max(row, 1))
    return (slice(start, min(start + at_once, shape[0])) for start in range(0, shape[0], at_once))


def _maxima(x: Tensor, stride: int) -> Tensor:
    num_rows, num_channels, height, width = x.shape
    y = x.new_empty(num_rows, num_channels, _num_pairs(height, stride), _num_pairs(width, stride))
    for part in _parts(x.shape, x.element_size()):
        of_columns = torch.maximum(*_pairs(x[part], 3, stride))
        torch.maximum(*_pairs(of_columns, 2, stride), out=y[part])
    return y


def _spread(gradient: Tensor, x: Tensor, found: Tensor, dim: int, stride: int) -> None:
    """Write to ``found`` the gradient with respect to ``x``, given that of the maxima of its pairs."""
    first, second = _pairs(x, dim, stride)
    # masked_fill and where take several times as long as products, and arithmetic in every other element as copies.
    if stride == 2:
        first, second = first.contiguous(), second.contiguous()
    is_second = torch.gt(second, first, out=torch.empty_like(gradient))
    of_second = is_second.mul_(gradient)
    of_first = gradient - of_second
    first, second = _pairs(found, dim, stride)
    if stride == 1:  # all elements but the first are the second of a pair, all but the last the first of one
        found.narrow(dim, 0, 1).zero_()
        second.copy_(of_second)
        first.add_(of_first)
    else:
        found.narrow(dim, 2 * first.shape[dim], found.shape[dim] - 2 * first.shape[dim]).zero_()
        second.copy_(of_second)
        first.copy_(of_first)


class _PairMaximum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x)
        ctx.stride = stride
        return _maxima(x, stride)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,), (x,) = gradients, ctx.saved_tensors
        found = torch.empty_like(x)
        for part in _parts(x.shape, x.element_size()):
            of_columns = torch.maximum(*_pairs(x[part], 3, ctx.stride))
            gradient_of_columns = torch.empty_like(of_columns)
            _spread(gradient[part], of_columns, gradient_of_columns, 2, ctx.stride)
            _spread(gradient_of_columns, x[part], found[part], 3, ctx.stride)
        return found, None
