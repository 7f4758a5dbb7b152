"""How the rows of several tasks go through a trunk in one pass, and what tasks have in common is computed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rsn2.pooling import is_pair_maximum, pair_maximum
from rsn2_kernels.nn import TaskConv1d, TaskConv2d, TaskLinear, active, slot_modules

SlotTable = Sequence[dict[str, int]]
"""The slot of each task in each layer of the trunk, by the task's number and the layer's name."""


def run_trunk(trunk: nn.Module, slots: SlotTable, groups: list[list[int]], inputs: list[Tensor]) -> dict[int, Tensor]:
    """The trunk's outputs for each task.

    Args:
        trunk: with task layers, or compiled.
        slots: the tasks' slots.
        groups: the numbers of tasks that have one input; each task in one group.
        inputs: what each group brings, ``[rows of the group, ...]``.

    Tasks of one group share the pass as long as their slots agree: through all layers, or, where the trunk is a
    ``torch.nn.Sequential``, up to where they part.
    """
    x, sizes = _joined(inputs), [len(part) for part in inputs]
    whole: list[tuple[nn.Module, list[str]]] = [(trunk, [])]
    for stage, names in _stages(trunk) if max(map(len, groups)) > 1 else whole:
        split = [_by_slots(group, slots, names) for group in groups]
        if sum(map(len, split)) > len(groups):
            parts = x.split(sizes)
            repeated = [part for part, subgroups in zip(parts, split, strict=True) for _ in subgroups]
            x, sizes = _joined(repeated), [len(part) for part in repeated]
            groups = [group for subgroups in split for group in subgroups]
        with active(_rows_of(groups, sizes, x.device)):
            y = _through(stage, x)
        if not isinstance(y, Tensor) or len(y) != len(x):
            got = list(y.shape) if isinstance(y, Tensor) else type(y).__name__
            raise ValueError(
                f"MultitaskNetwork: the trunk must give a tensor of {len(x)} rows, as it got, but gave {got}"
            )
        x = y
    # Outputs of a dense head may depend on where its rows lie in memory; alone and mixed they must be the same. And a
    # head that works in place must not change what another one gets.
    parts = [x] if len(groups) == 1 else [part.clone() for part in x.split(sizes)]
    return {
        number: part if place == 0 else part.clone()
        for group, part in zip(groups, parts, strict=True)
        for place, number in enumerate(group)
    }


def rows_by_task(ids: Tensor, num_rows: int, tasks: Sequence[str]) -> dict[int, Tensor]:
    """The rows of each task that is present in ``ids``, int64 ``[num_rows]`` of task numbers."""
    if ids.dtype != torch.int64 or list(ids.shape) != [num_rows]:
        raise ValueError(
            f"MultitaskNetwork: task must be int64 [{num_rows}], one number per row, got {ids.dtype} {list(ids.shape)}"
        )
    present = ids.unique().tolist()
    unknown = [number for number in present if not 0 <= number < len(tasks)]
    if unknown:
        raise IndexError(
            f"MultitaskNetwork: task numbers must be in 0..{len(tasks) - 1}, got {unknown}; "
            f"there are {', '.join(map(repr, tasks))}"
        )
    return {number: (ids == number).nonzero().squeeze(1) for number in present}


def check_rows(tasks: Sequence[str], inputs: Sequence[Any]) -> None:
    """What comes to the trunk, one input per task named, must fit into one batch."""
    first = inputs[0]
    for task, x in zip(tasks, inputs, strict=True):
        if not isinstance(x, Tensor) or x.dim() == 0:
            got = list(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(
                f"MultitaskNetwork: the trunk's input must be a tensor of rows, got {got} from task {task!r}"
            )
        if (x.shape[1:], x.dtype, x.device) != (first.shape[1:], first.dtype, first.device):
            raise ValueError(
                f"MultitaskNetwork: rows of all tasks must fit together, but after the stems task {tasks[0]!r} has "
                f"{first.dtype} {list(first.shape)} on {first.device} and task {task!r} {x.dtype} {list(x.shape)} on "
                f"{x.device}; give tasks of other shapes a stem"
            )


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _rows_of(groups: list[list[int]], sizes: list[int], device: torch.device) -> Tensor:
    """The task number that stands for each row: int64 ``[]`` for one group, else ``[B]``."""
    if len(groups) == 1:
        return torch.full((), groups[0][0], device=device)
    # Made where they are wanted: a copy from the host would wait for the device.
    return torch.cat([torch.full((size,), group[0], device=device) for group, size in zip(groups, sizes, strict=True)])


def _by_slots(group: list[int], slots: SlotTable, names: list[str]) -> list[list[int]]:
    """A group cut into those that have the same slot in each of these layers."""
    if len(group) == 1:
        return [group]
    parts: dict[tuple[int, ...], list[int]] = {}
    for number in group:
        parts.setdefault(tuple(slots[number][name] for name in names), []).append(number)
    return list(parts.values())


def _stages(trunk: nn.Module, prefix: str = "") -> list[tuple[nn.Module, list[str]]]:
    """The trunk as modules that run one after another, each with its layers' names."""
    if _is_plain_sequence(trunk):
        children = [(name, child) for name, child in trunk._modules.items() if child is not None]  # one may come twice
        return [stage for name, child in children for stage in _stages(child, f"{prefix}{name}.")]
    inner = slot_modules(getattr(trunk, "_orig_mod", trunk))
    return [(trunk, [f"{prefix}{name}".removesuffix(".") for name in inner])]


def _through(module: nn.Module, x: Tensor) -> Tensor:
    """``module(x)``; where a task layer stands before a ReLU in a plain sequence, both are computed in one product, and
    a 2x2 maximum on the CPU is computed faster than torch does.
    """
    if is_pair_maximum(module, x) and not _is_watched(module):
        return pair_maximum(x, module.stride if isinstance(module.stride, int) else module.stride[0])  # type: ignore
    if not _is_plain_sequence(module):
        y: Tensor = module(x)
        return y
    children = [child for child in module._modules.values() if child is not None]
    place = 0
    while place < len(children):
        child, following = children[place], children[place + 1 : place + 2]
        if following and _is_fusible(child, following[0]):
            x = child.forward_relu(x)  # type: ignore[operator]  # it is a task layer
            place += 2
        else:
            x = _through(child, x)
            place += 1
    return x


def _is_plain_sequence(module: nn.Module) -> bool:
    return type(module) is nn.Sequential and len(module) > 0 and not _is_watched(module)


def _is_fusible(layer: nn.Module, following: nn.Module) -> bool:
    """Whether nobody would notice that the two modules are computed at once."""
    if type(following) is not nn.ReLU or type(layer) not in (TaskLinear, TaskConv1d, TaskConv2d):
        return False
    return not _is_watched(layer) and not _is_watched(following)


def _is_watched(module: nn.Module) -> bool:
    """Whether it matters that the module itself is called: it has hooks, is compiled, or its forward was replaced."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return (
        any(hooks)
        or module._compiled_call_impl is not None
        or "forward" in module.__dict__
        or torch.nn.modules.module._has_any_global_hook()
    )
