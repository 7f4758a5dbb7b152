"""What a claim will take, worked out in full before any layer is changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from fractions import Fraction
from typing import Any

from torch import Tensor

from rsn2.network import MultitaskNetwork
from rsn2.procedure.granularity import SINGLE, Granularity, size_for, whole_blocks
from rsn2_kernels.formats import CapacityError, num_kept
from rsn2_kernels.nn import TaskLayer

Share = float | str | Fraction
Keep = Share | Mapping[str, Any] | Callable[[str, str, TaskLayer], Share]
Target = tuple[TaskLayer, int]
"""A layer and a slot of it."""


@dataclass
class Plan:
    """Slots that own nothing yet, how many weights each will own, and which.

    Attributes:
        num_kept: weights of each slot.
        users: the tasks, among those that claim now, that use each slot; more than one where it is shared.
        names: the name of each layer.
        free: bool ``[numel]`` of each layer: what nobody owns and no earlier task of this plan has chosen.
        chosen: ascending flattened indices of each slot, filled as the tasks choose.
    """

    num_kept: dict[Target, int] = field(default_factory=dict)
    users: dict[Target, list[str]] = field(default_factory=dict)
    names: dict[TaskLayer, str] = field(default_factory=dict)
    free: dict[TaskLayer, Tensor] = field(default_factory=dict)
    chosen: dict[Target, Tensor] = field(default_factory=dict)


def make_plan(net: MultitaskNetwork, tasks: Sequence[str], keep: Keep, granularity: Granularity = SINGLE) -> Plan:
    """Which slots will be claimed, and how many weights each gets."""
    plan = Plan()
    _check_keep(net, tasks, keep)
    for task in tasks:
        if net.is_finished(task):
            raise ValueError(f"claim: task {task!r} is finished; thaw it first")
        for name, (layer, slot) in net.task_layers(task).items():
            if layer.values[slot].numel() > 0:
                if len(_tasks_of(net, layer, slot)) < 2:
                    raise ValueError(f"claim: task {task!r} owns weights of layer {name} already; release them first")
                continue  # what it shares was claimed before
            share = share_of(keep, task, name, layer)
            try:
                count = num_kept(share, layer.numel)
            except ValueError as error:
                raise ValueError(f"claim: task {task!r}, layer {name}: {error}") from None
            count = whole_blocks(count, size_for(granularity, name), layer, name)
            if plan.num_kept.setdefault((layer, slot), count) != count:
                first = plan.users[layer, slot][0]
                raise ValueError(
                    f"claim: tasks {first!r} and {task!r} share a slot of layer {name}, but keep gives it "
                    f"{plan.num_kept[layer, slot]} and {count} weights"
                )
            plan.users.setdefault((layer, slot), []).append(task)
            plan.names[layer] = name
    plan.free = {layer: layer.free().flatten() for layer in plan.names}
    return plan


def _tasks_of(net: MultitaskNetwork, layer: TaskLayer, slot: int) -> list[str]:
    return [task for task in net.tasks if (layer, slot) in net.task_layers(task).values()]


def check_capacity(plan: Plan) -> None:
    """Every layer must have room for all the tasks that claim in it."""
    for layer, free in plan.free.items():
        slots = [target for target in plan.num_kept if target[0] is layer]
        wanted, left = sum(plan.num_kept[target] for target in slots), int(free.count_nonzero())
        if wanted > left:
            tasks = ", ".join(repr(plan.users[target][0]) for target in slots)
            raise CapacityError(
                f"claim: layer {plan.names[layer]} has {left} of {layer.numel} weights left, "
                f"but {wanted} are wanted for {tasks}"
            )


def share_of(keep: Keep, task: str, layer_name: str, layer: TaskLayer, *, by_task: bool = True) -> Share:
    """The share that ``keep`` means for one layer of a task."""
    if callable(keep):
        return keep(task, layer_name, layer)
    if not isinstance(keep, Mapping):
        return keep
    if by_task and task in keep:
        return share_of(keep[task], task, layer_name, layer, by_task=False)
    for pattern, share in keep.items():
        if fnmatchcase(layer_name, pattern):
            return share
    raise ValueError(f"claim: keep says nothing of layer {layer_name} of task {task!r}; its keys are {list(keep)}")


def check_patterns(net: MultitaskNetwork, tasks: Sequence[str], argument: str, given: Any) -> None:
    """Every pattern of a dict must match a layer of one of the tasks."""
    layers = list(dict.fromkeys(name for task in tasks for name in net.task_layers(task)))
    for pattern in given if isinstance(given, Mapping) else ():
        if not any(fnmatchcase(name, pattern) for name in layers):
            raise ValueError(f"claim: {argument} pattern {pattern!r} matches no layer; there are {', '.join(layers)}")


def _check_keep(net: MultitaskNetwork, tasks: Sequence[str], keep: Keep, *, by_task: bool = True) -> None:
    """Every key of a dict must be a task or match a layer: a key that does not is a slip of the pen."""
    if not isinstance(keep, Mapping):
        return
    layers = [name for task in tasks for name in net.task_layers(task)]
    for key, share in keep.items():
        is_layer = any(fnmatchcase(name, key) for name in layers)
        is_task = by_task and key in net.tasks
        if is_task and is_layer and not set(keep) <= set(net.tasks):
            raise ValueError(
                f"claim: keep has {key!r}, which is a task and a layer, among {list(keep)}; give dicts by task of "
                "dicts by layer"
            )
        if is_task:
            _check_keep(net, [key], share, by_task=False)
        elif not is_layer:
            raise ValueError(
                f"claim: keep has {key!r}, which is neither a task nor a pattern of a layer; there are tasks "
                f"{', '.join(map(repr, net.tasks))} and layers {', '.join(dict.fromkeys(layers))}"
            )
