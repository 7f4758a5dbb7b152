"""Optimizers that hold state of a Parameter whose weights are about to move."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

_stepped: weakref.WeakSet[Optimizer] = weakref.WeakSet()


def _remember(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    _stepped.add(optimizer)


register_optimizer_step_post_hook(_remember)


def check_state(what: str, parameter: nn.Parameter, optimizer: Optimizer | None) -> None:
    """Refuse to move weights of which a live optimizer keeps state that would not move with them.

    Any optimizer but the one passed is such a one, and the one passed if its state is not one number per weight.
    """
    for other in _stepped:
        if other is not optimizer and other.state.get(parameter):
            raise RuntimeError(
                f"{what}: a live {type(other).__name__} keeps state of this slot's values; pass it as optimizer=, "
                "so that its state moves with the weights"
            )
        if isinstance(other, LBFGS) and any(
            parameter is own for group in other.param_groups for own in group["params"]
        ):
            raise RuntimeError(
                f"{what}: a live LBFGS holds this slot's values; its history of directions cannot move with them"
            )
    if optimizer is None:
        return
    for key, value in optimizer.state.get(parameter, {}).items():
        is_per_weight = isinstance(value, Tensor) and value.shape == parameter.shape
        is_one_number = not isinstance(value, (list, tuple, dict)) and (
            not isinstance(value, Tensor) or value.dim() == 0
        )
        if not is_per_weight and not is_one_number and value is not None:
            raise RuntimeError(
                f"{what}: {type(optimizer).__name__} keeps {key!r}, which is not one number per weight and cannot move "
                "with them"
            )


def move_state(optimizer: Optimizer | None, parameter: nn.Parameter, move: Callable[[Tensor], Tensor]) -> None:
    """Apply ``move`` to every per-weight tensor that ``optimizer`` keeps of ``parameter``."""
    if optimizer is None:
        return
    state = optimizer.state.get(parameter, {})
    for key, value in state.items():
        if isinstance(value, Tensor) and value.dim() == 1 and value.shape == parameter.shape:
            state[key] = move(value)
