"""What of a network belongs to some of its tasks: the part that training them changes, and that nothing else is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rsn2.network import MultitaskNetwork
from rsn2_kernels import formats
from rsn2_kernels.nn import SlotModule, TaskLayer

Part = dict[str, dict[str, Any]]
"""By layer of the trunk, by slot, its tensors; and by stem or head, its ``state_dict``."""


def part_of(net: MultitaskNetwork, tasks: Sequence[str]) -> Part:
    """A copy of the tasks' slots that are not frozen, and of their stems and heads."""
    live = _live_part(net, tasks)  # views, of which a file would hold all that they are views of
    slots = {
        name: {slot: _cloned(tensors) for slot, tensors in numbered.items()} for name, numbered in live["slots"].items()
    }
    return {"slots": slots, "modules": {name: _cloned(tensors) for name, tensors in live["modules"].items()}}


def _cloned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor.detach().clone() for key, tensor in tensors.items()}


def _live_part(net: MultitaskNetwork, tasks: Sequence[str]) -> Part:
    layers = net.trunk_layers()
    slots = {
        name: {slot: _of_slot(layers[name], slot) for slot in numbers}
        for name, numbers in _slots_of(net, tasks).items()
    }
    modules = {name: dict(module.state_dict()) for name, module in _modules_of(net, tasks).items()}
    return {"slots": slots, "modules": modules}


def tensors_of(net: MultitaskNetwork, tasks: Sequence[str]) -> list[Tensor]:
    """All numbers that training the tasks changes, as tensors that share memory with them, in an order of their own."""
    part = _live_part(net, tasks)
    of_slots = [slot for slots in part["slots"].values() for slot in slots.values()]
    dicts = [*of_slots, *part["modules"].values()]
    return [tensor for tensors in dicts for key, tensor in tensors.items() if key != "segment"]


def put_back(net: MultitaskNetwork, tasks: Sequence[str], part: Part) -> None:
    """Give the tasks what ``part_of`` gave. Nothing of other tasks is changed.

    Raises:
        ValueError: it is the part of another network, or weights have another owner now. Nothing is changed then.
    """
    layers, modules = net.trunk_layers(), _modules_of(net, tasks)
    expected = {name: list(numbers) for name, numbers in _slots_of(net, tasks).items()}
    found = {name: list(numbers) for name, numbers in part["slots"].items()}
    if found != expected or set(part["modules"]) != set(modules):
        raise ValueError(f"its slots are {found}, those here {expected}")
    states = {name: _merged(name, layers[name], given) for name, given in part["slots"].items()}
    for name, module in modules.items():
        _check_module(name, module, part["modules"][name])
    for name, state in states.items():
        layers[name].load_state_dict(state)
    for name, module in modules.items():
        module.load_state_dict(part["modules"][name])


def ownership(net: MultitaskNetwork, tasks: Sequence[str], *, exact: bool) -> str:
    """Which weights the tasks own, or how many, in a few letters."""
    found = hashlib.sha256()
    for task in tasks:
        for name, (layer, slot) in net.task_layers(task).items():
            found.update(f"{name} {layer.values[slot].numel()} ".encode())
            if exact:
                found.update(layer.owned(slot).cpu().numpy().tobytes())
    return found.hexdigest()[:12]


def _slots_of(net: MultitaskNetwork, tasks: Sequence[str]) -> dict[str, list[int]]:
    """The slots of the trunk that these tasks can change."""
    return {
        name: sorted({slot for slot in (net.slot_of(task, name) for task in tasks) if not layer.is_frozen(slot)})
        for name, layer in net.trunk_layers().items()
    }


def _modules_of(net: MultitaskNetwork, tasks: Sequence[str]) -> dict[str, nn.Module]:
    return {f"{kind} of {task}": module for task in tasks for kind, module in net.own_modules(task).items()}


def _of_slot(layer: SlotModule, slot: int) -> dict[str, Tensor]:
    if not isinstance(layer, TaskLayer):
        return {key: rows[slot] for key, rows in layer.state_dict().items() if _is_by_slot(key)}
    found = {"values": layer.values[slot].detach(), "segment": formats.segment(layer.positions, slot)}
    return found if layer.bias is None else found | {"bias": layer.bias[slot].detach()}


def _is_by_slot(key: str) -> bool:
    """Whether an entry of a layer's state has a row for every slot."""
    return key not in ("frozen", "slot_map") and not key.startswith("base_")


def _merged(name: str, layer: SlotModule, given: Mapping[int, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The layer's present state with other slots."""
    state: dict[str, Tensor] = layer.state_dict()
    rows = [key for key in state if _is_by_slot(key)]
    if isinstance(layer, TaskLayer):
        rows = [key for key in rows if key == "bias"]
        segments = [formats.segment(layer.positions, slot) for slot in range(layer.num_slots)]
        values = [value.detach() for value in layer.values]
        for slot, tensors in given.items():
            segments[slot] = tensors["segment"].to(layer.positions.device)
            values[slot] = tensors["values"].to(values[slot])
        counts = [len(part) for part in values]
        _, *size = formats.shape_of(layer.positions)
        state |= {"values": torch.cat(values), "positions": formats.join(segments, counts, *size)}
        if problems := formats.problems(state["values"], state["positions"]):
            raise ValueError(f"layer {name}: {'; '.join(problems)}")
    for key in rows:
        state[key] = state[key].clone()
        for slot, tensors in given.items():
            if tensors[key].shape != state[key][slot].shape:
                raise ValueError(f"layer {name}: {key} must be {list(state[key][slot].shape)}, "
                                 f"got {list(tensors[key].shape)}")  # fmt: skip
            state[key][slot] = tensors[key]
    return state


def _check_module(name: str, module: nn.Module, given: Mapping[str, Any]) -> None:
    present = {key: getattr(value, "shape", None) for key, value in module.state_dict().items()}
    came = {key: getattr(value, "shape", None) for key, value in given.items()}
    if came != present:
        raise ValueError(f"the {name} must have {present}, got {came}")
