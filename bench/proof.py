"""Results first: nothing is timed that computes something else."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import rsn2_kernels
from rsn2_kernels.testing import assert_as_accurate

from .registry import Alternative

# Ours may err twice as much as PyTorch. Where no kernel of ours is here, plain PyTorch runs, in another order than
# oneDNN's, which is the more accurate one on sums of hundreds of products.
FACTOR = 2.0 if rsn2_kernels.backends().cpu_level else 4.0
WRONG = 0.01  # of the largest result: what others may differ by. It is to find wrong results, not to judge rounding.


def tensors(returned: Any) -> list[Tensor]:
    """What a library returned, as a flat list of strided tensors."""
    if isinstance(returned, Tensor):
        return [returned.detach()]
    if isinstance(returned, (list, tuple)):
        return [tensor for item in returned for tensor in tensors(item)]
    return [torch.from_numpy(returned)]


def wide(module: nn.Module) -> nn.Module:
    """The module in float64."""
    return copy.deepcopy(module).double()


def ours(call: Callable[[], Any], plain: Sequence[Tensor], exact: Sequence[Tensor],
         pick: Callable[[Any], Any] = lambda returned: returned) -> Alternative:  # fmt: skip
    """Our call; its results must be about as close to ``exact`` as PyTorch's, ``plain``, are.

    Args:
        pick: takes the tensors to compare from what the call returned.
    """

    def check() -> None:
        found = tensors(pick(call()))
        if not len(found) == len(plain) == len(exact) > 0:
            raise AssertionError(f"want {len(exact)} results, got {len(found)}")
        for own, other, truth in zip(found, plain, exact, strict=True):
            assert_as_accurate(own, other.detach(), truth.detach(), factor=FACTOR)

    return Alternative(call, check)


def other(call: Callable[[], Any], exact: Sequence[Tensor],
          pick: Callable[[Any], Any] = lambda returned: returned) -> Alternative:  # fmt: skip
    """Someone else's call; refused only when its results are wrong, not when they are rounded."""

    def check() -> None:
        found = tensors(pick(call()))
        if len(found) != len(exact):
            raise AssertionError(f"want {len(exact)} results, got {len(found)}")
        for own, truth in zip(found, exact, strict=True):
            truth = truth.detach()
            if own.shape != truth.shape:
                raise AssertionError(f"want shape {list(truth.shape)}, got {list(own.shape)}")
            error, largest = (own.double() - truth).abs().max().item(), truth.abs().max().item()
            if not error <= WRONG * largest:  # also false for NaN
                raise AssertionError(f"the largest error is {error:.2g}, the largest result {largest:.2g}")

    return Alternative(call, check)
