"""One task of a network as an ordinary model."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from torch import nn

from rsn2_kernels.nn import SlotModule, slot_modules


def dense_copy(module: nn.Module, slot_of: Callable[[str], int]) -> nn.Module:
    """A copy in which every layer with slots is the ordinary layer that computes what one slot computes.

    Args:
        module: with layers with slots, or without.
        slot_of: the slot of each layer, by its name in ``module``.

    Raises:
        ValueError: the layers of one attention have different slots.
    """
    replaced: dict[int, Any] = {}  # what copy.deepcopy takes for copied already
    for name, part in module.named_modules():
        if not hasattr(part, "to_dense"):
            continue
        inner = [name] if isinstance(part, SlotModule) else [f"{name}.{of}".lstrip(".") for of in slot_modules(part)]
        slots = {slot_of(layer) for layer in inner}
        if len(slots) > 1:
            raise ValueError(f"to_dense: the layers of {name} must have one slot, got {sorted(slots)}")
        replaced.setdefault(id(part), part.to_dense(slots.pop()))
    found: nn.Module = copy.deepcopy(module, replaced)
    return found


def as_sequence(stem: nn.Module, trunk: nn.Module, head: nn.Module) -> nn.Sequential:
    """The three, where each is more than nothing."""
    parts = OrderedDict(stem=stem, trunk=trunk, head=head)
    return nn.Sequential(OrderedDict((name, part) for name, part in parts.items() if not isinstance(part, nn.Identity)))
