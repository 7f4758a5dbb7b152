"""Class numbers outside of a head, of which torch says that a target is out of bounds, or, on a GPU, much less."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_TAKE_CLASSES = (F.cross_entropy, F.nll_loss)
_TAKE_CLASSES_TOO = (nn.CrossEntropyLoss, nn.NLLLoss)


@contextmanager
def explained(what: str, loss_fn: Callable[..., Any], output: Any, y: Any, where: str) -> Iterator[None]:
    """Compute a loss; if labels lie outside of the head, say so.

    Of losses that are known to take class numbers, labels are checked before; of others, which may take whole numbers
    of any kind, once they have failed.

    Raises:
        ValueError: labels lie outside of the head.
    """
    takes_classes, ignored = _reads(loss_fn)
    if takes_classes:
        _check(what, output, y, ignored, where)
    try:
        yield
    except (IndexError, RuntimeError):
        if not takes_classes:
            _check(what, output, y, ignored, where)
        raise


def _reads(loss_fn: Callable[..., Any]) -> tuple[bool, int]:
    """Whether a loss is known to take class numbers, and which one it ignores."""
    ignored = getattr(loss_fn, "ignore_index", -100)
    while isinstance(loss_fn, functools.partial):
        ignored = loss_fn.keywords.get("ignore_index", ignored)
        loss_fn = loss_fn.func
    return loss_fn in _TAKE_CLASSES or isinstance(loss_fn, _TAKE_CLASSES_TOO), ignored


def _check(what: str, output: Any, y: Any, ignored: int, where: str) -> None:
    if not isinstance(output, Tensor) or not isinstance(y, Tensor) or y.numel() == 0:
        return
    if y.dtype != torch.int64 or output.dim() < 2 or y.shape != output.shape[:1] + output.shape[2:]:
        return
    low, high = y.aminmax()
    if low >= 0 and high < output.shape[1]:
        return
    labels = y[y != ignored]
    wrong = labels[(labels < 0) | (labels >= output.shape[1])]
    if len(wrong):
        raise ValueError(
            f"{what}: labels must be in 0..{output.shape[1] - 1}, since the head has {output.shape[1]} outputs, "
            f"got {int(wrong[0])} ({where})"
        )
