"""Optimizers that hold state of a Parameter whose weights are about to move."""

from __future__ import annotations

import gc
import sys
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from rsn2_kernels.nn._parameters import SlotParameters


class _Sight(NamedTuple):
    """What was seen of an optimizer when its state last fitted the weights."""

    change: int
    state: int  # which object its state was: loading makes another one


_last_change = 0
_changes: weakref.WeakKeyDictionary[SlotParameters, dict[int, int]] = weakref.WeakKeyDictionary()
"""By slot, the last change of the weights that a Parameter stands for. A Parameter that is referred to weakly itself
could not be swapped by ``torch.utils.swap_tensors``."""
_seen: weakref.WeakKeyDictionary[Optimizer, _Sight] = weakref.WeakKeyDictionary()
_forgotten: weakref.WeakSet[Optimizer] = weakref.WeakSet()


def _before_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    sight = _seen.get(optimizer)
    if sight is None or sight.change != _last_change or sight.state != id(optimizer.state):
        _check_fit("step", optimizer)


def _after_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    _seen[optimizer] = _Sight(_last_change, id(optimizer.state))
    _forgotten.discard(optimizer)


register_optimizer_step_pre_hook(_before_step)
register_optimizer_step_post_hook(_after_step)


def forget(optimizer: Optimizer) -> None:
    """Let weights move although ``optimizer`` keeps state of them. It is live again from its next step on."""
    _forgotten.add(optimizer)


def check_state(what: str, parameter: nn.Parameter, optimizer: Optimizer | None) -> None:
    """Refuse to move weights of which a live optimizer keeps state that would not move with them.

    Any optimizer but the one passed is such a one, and the one passed if its state is not one number per weight, or of
    weights that have moved without it.
    """
    for other in _live():
        if isinstance(other, LBFGS) and any(
            parameter is own for group in other.param_groups for own in group["params"]
        ):
            raise RuntimeError(
                f"{what}: a live LBFGS holds this slot's values; its history of directions cannot move with them"
            )
    # An optimizer with state refers to the Parameter twice, as its layer does, beside this function and its call. Of no
    # weights there is no state that could be taken for that of others.
    ask = optimizer is None and parameter.numel() > 0 and sys.getrefcount(parameter) > 4
    if _keep_state_of(parameter, optimizer, ask):
        gc.collect()  # those that only wait for it are not live
        for other in _keep_state_of(parameter, optimizer, ask):
            raise RuntimeError(
                f"{what}: a live {type(other).__name__} keeps state of this slot's values; pass it as optimizer=, "
                "so that its state moves with the weights"
            )
    if optimizer is None:
        return
    _check_fit(what, optimizer)
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


def _live() -> list[Optimizer]:
    return [optimizer for optimizer in _seen if optimizer not in _forgotten]


def _keep_state_of(parameter: nn.Parameter, passed: Optimizer | None, ask: bool) -> list[Optimizer]:
    """The live optimizers beside the one passed that keep state of a Parameter.

    Of those that have not stepped yet, restored ones and copies, no hook of torch tells. The garbage collector knows
    them, but takes a twentieth of a second: ``ask`` it only where there can be one. Whoever passes an optimizer is
    taken to have no other.
    """
    found = [other for other in _live() if other is not passed and other.state.get(parameter)]
    if found or not ask:
        return found
    if not any(isinstance(holder, defaultdict) and holder.get(parameter) for holder in gc.get_referrers(parameter)):
        return []
    return [
        other
        for other in gc.get_objects()
        if issubclass(type(other), Optimizer)
        and other not in _forgotten
        and vars(other).get("state", {}).get(parameter)  # one that is being made has none yet
    ]


def _check_fit(what: str, optimizer: Optimizer) -> None:
    """Refuse an optimizer whose state is of other weights than its Parameters stand for now."""
    sight = _seen.get(optimizer)
    seen = sight.change if sight is not None and sight.state == id(optimizer.state) else None
    for own, changes in [*_changes.items()]:
        for slot, change in changes.items():
            parameter = own[slot]
            state = optimizer.state.get(parameter, {})
            shapes = [value.shape for value in state.values() if isinstance(value, Tensor) and value.dim() > 0]
            if seen is None:  # it was restored: what can be seen is whether it is of as many weights
                has_moved = parameter.shape not in shapes and not isinstance(optimizer, LBFGS)
            else:
                has_moved = change > seen
            if has_moved and shapes:
                raise RuntimeError(
                    f"{what}: {type(optimizer).__name__} keeps state {list(shapes[0])} of weights that slot {slot} "
                    "owned before claim, release or load_state_dict changed them, and it owns "
                    f"{list(parameter.shape)} now; load a state that fits, or drop this one "
                    "(optimizer.state.pop(parameter))"
                )


def note_change(own: SlotParameters, slots: Iterable[int], optimizer: Optimizer | None = None) -> None:
    """Other weights stand behind the Parameters of ``slots`` now; the state of ``optimizer`` has moved with them."""
    global _last_change
    _last_change += 1
    changes = {slot: change for slot, change in _changes.get(own, {}).items() if slot < len(own)}
    _changes[own] = changes | dict.fromkeys(slots, _last_change)
    if optimizer is not None:
        _seen[optimizer] = _Sight(_last_change, id(optimizer.state))


def move_state(optimizer: Optimizer | None, parameter: nn.Parameter, move: Callable[[Tensor], Tensor]) -> None:
    """Apply ``move`` to every per-weight tensor that ``optimizer`` keeps of ``parameter``."""
    if optimizer is None:
        return
    state = optimizer.state.get(parameter, {})
    for key, value in state.items():
        if isinstance(value, Tensor) and value.dim() == 1 and value.shape == parameter.shape:
            state[key] = move(value)
