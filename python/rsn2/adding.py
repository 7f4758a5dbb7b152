"""What a new task brings to a network: its stem, its head, and the slots that it shares with others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from rsn2_kernels.nn import convert_, slot_modules

_PRUNABLE = (nn.Linear, nn.Conv1d, nn.Conv2d)


def check_part(what: str, part: nn.Module | None, prune: bool) -> None:
    """A stem or head must be a module, and be there if it is to be pruned."""
    if part is not None and not isinstance(part, nn.Module):
        raise TypeError(f"add_task: {what} must be a torch.nn.Module or None, got {type(part).__name__}")
    if prune and (part is None or not any(type(module) in _PRUNABLE for module in part.modules())):
        raise ValueError(f"add_task: prune_{what} needs a {what} with a linear or convolutional layer")


def check_owners(parts: Sequence[nn.Module | None], network: nn.Module) -> None:
    """Parameters that two tasks have would change for the one that is finished when the other trains."""
    own = {parameter: name for part in parts if part is not None for name, parameter in part.named_parameters()}
    if own:
        known = {parameter: name for name, parameter in network.named_parameters()}
        for parameter, name in own.items():
            if parameter in known:
                raise ValueError(
                    f"add_task: stem and head must be of this task alone, but {name} is {known[parameter]} already; "
                    "pass a copy (copy.deepcopy)"
                )


def single_slot(part: nn.Module, name: str) -> nn.Module:
    """A stem or head whose linear and convolutional layers belong to slots, of which there is one."""
    if type(part) in _PRUNABLE:
        part = nn.Sequential(part)  # a layer can be replaced only inside of another module
    convert_(part, num_slots=0, where=lambda _, module: type(module) in _PRUNABLE)
    for layer in slot_modules(part).values():
        layer.add_slot(name)
    return part


def shared_slots(layers: Sequence[str], tables: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """The slots that a new task takes over, by layer; ``tables`` has the other task's slots for each pattern."""
    found: dict[str, int] = {}
    for pattern, table in tables.items():
        matched = [name for name in layers if fnmatchcase(name, pattern)]
        if not matched:
            raise ValueError(f"add_task: share pattern {pattern!r} matches no layer; there are {', '.join(layers)}")
        for name in matched:
            if found.setdefault(name, table[name]) != table[name]:
                raise ValueError(f"add_task: share gives layer {name} to two tasks")
    return found


def bytes_of_names(names: Sequence[str]) -> Tensor:
    """The names of all tasks as a tensor, uint8: what a ``state_dict`` holds is read by programs that know no other."""
    return torch.tensor(list("\0".join(names).encode()), dtype=torch.uint8)


def names_of_bytes(encoded: Tensor) -> list[str]:
    text = bytes(encoded.tolist()).decode(errors="replace")
    return text.split("\0") if text else []
