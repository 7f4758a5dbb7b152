"""Which slot each row belongs to, for layers inside a model that does not pass it on."""

from __future__ import annotations

import contextlib
import threading
from numbers import Integral
from types import TracebackType

import torch
from torch import Tensor

_state = threading.local()


class active:
    """Within the block, task layers that are given no slot use this one.

    Args:
        slots: int64 ``[]`` (all rows belong to one slot) or ``[B]`` (one per row), or an int. Not a name: the layers
            of a model need not have the same.

    Blocks nest, each thread has its own, and one object may open several of them. A compiled model may be called inside
    a block, or enter one itself; since the slot is a tensor, one compilation serves all slots.
    """

    def __init__(self, slots: Tensor | int) -> None:
        if not isinstance(slots, Tensor):
            if isinstance(slots, bool) or not isinstance(slots, Integral):  # NumPy's are among these
                raise TypeError(
                    "active: slots must be an int or an int64 tensor"
                    + (", since a name is known to one layer only" if isinstance(slots, str) else "")
                    + f", got {repr(slots) if isinstance(slots, str) else type(slots).__name__}"
                )
            slots = torch.tensor(int(slots))
        self.slots = slots
        if self.slots.dtype != torch.int64 or self.slots.dim() > 1:
            raise ValueError(
                f"active: slots must be int64 of shape [] or [B], got {self.slots.dtype} {list(self.slots.shape)}"
            )

    def __enter__(self) -> active:
        # What the block hides is kept with the thread: the object may be in use in another block, or another thread.
        _state.outer = (getattr(_state, "slots", None), getattr(_state, "outer", None))
        _state.slots = self.slots
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _state.slots, _state.outer = _state.outer


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
