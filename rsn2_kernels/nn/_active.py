"""Which slot each row belongs to, for layers inside a model that does not pass it on."""

from __future__ import annotations

import contextlib
import threading
from types import TracebackType

import torch
from torch import Tensor

_state = threading.local()


class active:
    """Within the block, task layers that are given no slot use this one.

    Args:
        slots: int64 ``[]`` (all rows belong to one slot) or ``[B]`` (one per row), or an int.

    Blocks nest, and each thread has its own. A compiled model may be called inside a block, or enter one itself; since
    the slot is a tensor, one compilation serves all slots.
    """

    def __init__(self, slots: Tensor | int) -> None:
        if isinstance(slots, bool) or not isinstance(slots, (int, Tensor)):
            raise TypeError(f"active: slots must be an int or an int64 tensor, got {type(slots).__name__}")
        self.slots = slots if isinstance(slots, Tensor) else torch.tensor(slots)
        if self.slots.dtype != torch.int64 or self.slots.dim() > 1:
            raise ValueError(
                f"active: slots must be int64 of shape [] or [B], got {self.slots.dtype} {list(self.slots.shape)}"
            )

    def __enter__(self) -> active:
        self._outer = getattr(_state, "slots", None)
        _state.slots = self.slots
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _state.slots = self._outer


def active_slots() -> Tensor | None:
    """The slots of the innermost block of this thread, or None."""
    slots: Tensor | None = getattr(_state, "slots", None)
    return slots


def checkpoint_contexts() -> tuple[
    contextlib.AbstractContextManager[object], contextlib.AbstractContextManager[object]
]:
    """For activation checkpointing, whose second forward pass runs after the block has ended.

    ``torch.utils.checkpoint.checkpoint(module, x, use_reentrant=False, context_fn=checkpoint_contexts)`` recomputes
    under the slots that were active at the first pass.
    """
    slots = active_slots()
    if slots is None:
        raise RuntimeError("checkpoint_contexts: no slot is active; call the model inside `with active(slots):`")
    return contextlib.nullcontext(), active(slots)
