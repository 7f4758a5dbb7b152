"""How a public function calls its operator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def call(op: torch._ops.OpOverload, *args: Any) -> Tensor:
    """``op(*args)``; where nothing can want a gradient, past the operator's autograd kernel.

    That kernel is Python, which costs 4 microseconds: as much as a small product. Whoever traces sees the whole
    operator, and so do the transforms of torch.func, which are refused there.
    """
    if (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or (torch.is_grad_enabled() and torch._C._any_requires_grad(*args))
    ):
        y: Tensor = op(*args)
        return y
    with torch._C._AutoDispatchBelowAutograd():
        y = op(*args)
    return y
