"""Modules as data: what a file says of a trunk, a stem or a head, so that it can be built again without running pickled
code.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

import rsn2_kernels.nn as task_nn

_NOT_SAID = {"self", "device", "dtype", "num_slots", "base", "base_bias", "_weight", "_freeze"}
_HOMES: dict[str, Any] = {"torch.nn": nn, "rsn2_kernels.nn": task_nn}


class NotDescribableError(ValueError):
    """The module is more than layers of torch.nn and of this project, one after another."""


def describe(module: nn.Module) -> dict[str, Any]:
    """Class and arguments of a layer, or of all layers of a ``torch.nn.Sequential``; can be written as JSON.

    Raises:
        NotDescribableError: it is some other module, or its arguments cannot be read off it.
    """
    kind = type(module)
    if kind is nn.Sequential:
        children = {name: child for name, child in module._modules.items() if child is not None}  # one may come twice
        if len({id(child) for child in children.values() if child.state_dict()}) < sum(
            bool(child.state_dict()) for child in children.values()
        ):
            raise NotDescribableError("a layer with weights stands in the torch.nn.Sequential twice")
        return {"class": "torch.nn.Sequential", "children": {name: describe(m) for name, m in children.items()}}
    home = next((name for name, place in _HOMES.items() if getattr(place, kind.__name__, None) is kind), None)
    if home is None:
        raise NotDescribableError(f"{kind.__name__} is no layer of torch.nn or rsn2_kernels.nn")
    arguments = {}
    for name, parameter in inspect.signature(kind).parameters.items():
        if name in _NOT_SAID or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        value = getattr(module, name, inspect.Parameter.empty)
        arguments[name] = value is not None if name == "bias" and not isinstance(value, bool) else value
        if not _is_plain(arguments[name]):
            raise NotDescribableError(f"the argument {name} of {kind.__name__} cannot be read off it")
    description = {"class": f"{home}.{kind.__name__}", "arguments": arguments}
    if home == "torch.nn":
        with torch.device("meta"):
            again = build(description)
        if _outline(again) != _outline(module):
            raise NotDescribableError(f"{kind.__name__} does not come out the same from {arguments}")
    return description


def build(description: dict[str, Any]) -> nn.Module:
    """The module of a description, with fresh weights, and without slots.

    Raises:
        ValueError: the description is none.
    """
    home, _, name = str(description.get("class")).rpartition(".")
    if (home, name) == ("torch.nn", "Sequential"):
        module = nn.Sequential()
        for child, inner in description["children"].items():
            module.add_module(child, build(inner))
        return module
    kind = getattr(_HOMES.get(home), name, None)
    if not isinstance(kind, type) or not issubclass(kind, nn.Module):
        raise ValueError(f"there is no layer {description.get('class')!r}")
    arguments = {name: tuple(v) if isinstance(v, list) else v for name, v in description["arguments"].items()}
    if issubclass(kind, task_nn.SlotModule):
        return kind(**arguments, num_slots=0)
    return kind(**arguments)


def _is_plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _outline(module: nn.Module) -> tuple[str, dict[str, torch.Size]]:
    return module.extra_repr(), {name: tensor.shape for name, tensor in module.state_dict().items()}
