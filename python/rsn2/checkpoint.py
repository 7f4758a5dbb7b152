"""Networks in files: packed, without pickled code, and readable task by task.

A file is in the safetensors format. Its tensors are the entries of the network's ``state_dict``; of a task layer these
are ``values`` and ``positions`` in the packed format (:mod:`rsn2_kernels.formats.packed`), ``bias`` ``[T, O]``,
``frozen`` ``[T]``, and what claims to come start from: ``base_seed``, or ``base_weight`` and ``base_bias``. Who owns
which weight stands in ``positions`` alone. The metadata entry ``format`` is ``rsn2 network, version 1``, and
``network`` is JSON: the tasks in order with name, whether finished, slot in every layer of the trunk, stem, head, and
which Parameters of these never train (``fixed``); the trunk; and why the network
is closed, if it is. Modules are described by class and arguments (:mod:`rsn2.architecture`), or are null where the one
who loads has to bring them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from rsn2.adding import bytes_of_names
from rsn2.architecture import NotDescribableError, build, describe
from rsn2.network import MultitaskNetwork
from rsn2_kernels import formats
from rsn2_kernels.formats import SeededBase
from rsn2_kernels.nn import SlotModule, TaskLayer, slot_modules
from rsn2_kernels.nn._state import encode_seed

_FORMAT = "rsn2 network, version 1"
_BASE = ("base_seed", "base_weight", "base_bias")
Parts = Mapping[str, nn.Module]


def save(net: MultitaskNetwork, path: str | PathLike[str], *, closed: bool = False) -> None:
    """Write a network to one file.

    Args:
        net: the network.
        path: the file; one that is there is replaced once the new one is complete.
        closed: leave out what only new tasks need, the base weights: smaller, but the network that is loaded takes no
            more.

    Raises:
        OSError: the file cannot be written; one that was there is as it was.
    """
    trunk = getattr(net.trunk, "_orig_mod", net.trunk)
    state = {**trunk.state_dict(prefix="trunk."), **net.stems.state_dict(prefix="stems.")}
    state |= net.heads.state_dict(prefix="heads.")
    dropped = set()
    for name, layer in _slot_layers(trunk, net.stems, net.heads).items():
        dropped.add(f"{name}.slot_map")
        if (closed or net.closed) and isinstance(layer, TaskLayer):
            dropped |= {f"{name}.{base}" for base in _BASE}
    reason = net.closed or ("it was saved closed, without base weights" if closed else "")
    tasks = [
        {
            "name": name,
            "finished": net.is_finished(name),
            "slots": {layer: net.slot_of(name, layer) for layer in net.trunk_layers()},
            "stem": _described(net.stems[number]),
            "head": _described(net.heads[number]),
            "fixed": net.fixed_parameters(name),
        }
        for number, name in enumerate(net.tasks)
    ]
    table = {"tasks": tasks, "trunk": _described(trunk), "closed": reason}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items() if name not in dropped}
    path = Path(path)
    beside = path.with_name(path.name + ".next")
    try:
        save_file(tensors, beside, metadata={"format": _FORMAT, "network": json.dumps(table)})
        with open(beside, "rb") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    except (OSError, SafetensorError) as error:
        if path.parent.is_dir():
            beside.unlink(missing_ok=True)
        raise OSError(f"save: could not write {path}: {error}") from error


def load(path: str | PathLike[str], tasks: Sequence[str] | None = None, *,
         trunk: nn.Module | Callable[[], nn.Module] | None = None, stems: Parts | None = None,
         heads: Parts | None = None, device: torch.device | str = "cpu") -> MultitaskNetwork:  # fmt: skip
    """Read a network, or some of its tasks, from a file that ``net.save`` wrote.

    Layers of torch.nn, and a ``torch.nn.Sequential`` of them, are built from the file. No code is stored there: any
    other trunk, stem or head has to be passed, as it was given to ``MultitaskNetwork`` and ``add_task``; its weights
    are replaced.

    Args:
        path: the file.
        tasks: only these tasks. Nothing but their bytes is read, so that the network is closed: which weights the
            others own is not known. Tasks whose weights they read (:func:`rsn2.read_weights`) must be among them.
        trunk: the trunk, or a function that makes one.
        stems, heads: by task.
        device: where the network goes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or something else, or what is passed does not fit; a part that must be passed is
            not.
        KeyError: an unknown task; the message lists those there are.
    """
    path = Path(path)
    if isinstance(tasks, str) or (tasks is not None and not tasks):
        raise ValueError(f"load: tasks must be a list of names, or None for all, got {tasks!r}")
    if not path.is_file():
        raise FileNotFoundError(f"load: there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            table = _table(path, file.metadata())
            names = [task["name"] for task in table["tasks"]]
            unknown = [task for task in (tasks or ()) if task not in names]
            if unknown:
                raise KeyError(f"load: unknown task {', '.join(map(repr, unknown))}; {path} has {names}")
            chosen = [number for number, name in enumerate(names) if tasks is None or name in tasks]
            with torch.random.fork_rng(devices=[]):  # fresh weights are drawn, to be replaced
                net = _empty_network(path, table, chosen, trunk, stems or {}, heads or {})
            state = _read(file, table, net, chosen)
    except SafetensorError as error:
        raise ValueError(f"load: {path} is damaged or no safetensors file: {error}") from error
    try:
        net.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise ValueError(f"load: {path} does not fit the modules: {error}") from error
    net.to(device)
    net._map_slots()
    net.closed = table["closed"]
    if len(chosen) < len(names):
        net.closed = f"only some of the tasks of {path} were loaded"
    return net


def _slot_layers(trunk: nn.Module, stems: nn.Module, heads: nn.Module) -> dict[str, SlotModule]:
    parts = (("trunk", trunk), ("stems", stems), ("heads", heads))
    return {f"{kind}.{name}".removesuffix("."): m for kind, part in parts for name, m in slot_modules(part).items()}


def _described(part: nn.Module) -> dict[str, Any] | None:
    try:
        return describe(part)
    except NotDescribableError:
        return None


def _table(path: Path, metadata: dict[str, str] | None) -> dict[str, Any]:
    found = (metadata or {}).get("format")
    if found != _FORMAT:
        raise ValueError(f"load: {path} must be a file of net.save, format {_FORMAT!r}, but its format is {found!r}")
    assert metadata is not None
    table: dict[str, Any] = json.loads(metadata["network"])
    return table


def _empty_network(
    path: Path, table: dict[str, Any], chosen: list[int], trunk: Any, stems: Parts, heads: Parts
) -> MultitaskNetwork:
    """The network of the file with fresh weights: parts that were passed, others as the file describes them."""
    if trunk is None:
        trunk = _built(path, table["trunk"], "trunk=")
    elif not isinstance(trunk, nn.Module):
        trunk = trunk()
    layers: dict[str, int] = next((task["slots"] for task in table["tasks"]), {})
    asked: dict[str, bool] = {}

    def where(name: str, module: nn.Module) -> bool:
        asked[name] = any(layer == name or layer.startswith(f"{name}.") for layer in layers)
        return asked[name]

    try:
        net = MultitaskNetwork(trunk, where=where if layers else None)
    except ValueError as error:
        if asked and not any(asked.values()):  # there was nothing to convert
            raise ValueError(f"load: {path} has the layers {', '.join(layers)}, and the trunk none of them") from error
        raise
    if layers and set(layers) != set(net.trunk_layers()):
        raise ValueError(f"load: {path} has the layers {', '.join(layers)}, the trunk {', '.join(net.trunk_layers())}")
    first_user: dict[tuple[str, int], str] = {}
    for number in chosen:
        task = table["tasks"][number]
        name = task["name"]
        stem = stems[name] if name in stems else _built(path, task["stem"], f"stems={{{name!r}: ...}}")
        head = heads[name] if name in heads else _built(path, task["head"], f"heads={{{name!r}: ...}}")
        share = {layer: first_user[layer, slot] for layer, slot in task["slots"].items() if (layer, slot) in first_user}
        net.add_task(name, stem=stem, head=head, share=share)
        for fixed in task.get("fixed", ()):
            kind, _, parameter = fixed.partition(".")
            (stem if kind == "stem" else head).get_parameter(parameter).requires_grad_(False)
        for part in (stem, head):
            for module in slot_modules(part).values():
                module.add_slot(name)
        for item in task["slots"].items():
            first_user.setdefault(item, name)
    return net


def _built(path: Path, description: dict[str, Any] | None, argument: str) -> nn.Module:
    if description is None:
        raise ValueError(
            f"load: {path} does not say how to build this part, which is no plain layer of torch.nn; pass {argument}"
        )
    return build(description)


def _read(file: Any, table: dict[str, Any], net: MultitaskNetwork, chosen: list[int]) -> dict[str, Tensor]:
    """The state of the chosen tasks, under the names that it has in ``net``."""
    is_whole = len(chosen) == len(table["tasks"])
    tasks = [table["tasks"][number] for number in chosen]
    state = {
        "tasks": bytes_of_names([task["name"] for task in tasks]),
        "finished": torch.tensor([bool(task["finished"]) for task in tasks]),
    }
    for name in net.trunk_layers():
        slots = list(dict.fromkeys(table["tasks"][number]["slots"][name] for number in chosen))
        prefix = f"trunk.{name}."
        entries = [key for key in file.keys() if key.startswith(prefix) and "." not in key[len(prefix) :]]
        if is_whole:
            state |= {key: file.get_tensor(key) for key in entries}
        else:
            state |= _read_slots(file, prefix, {key[len(prefix) :] for key in entries}, slots)
    new_number = {number: place for place, number in enumerate(chosen)}
    for key in file.keys():
        kind, number, rest = (*key.split(".", 2), "", "")[:3]
        if kind in ("stems", "heads") and int(number) in new_number:
            state[f"{kind}.{new_number[int(number)]}.{rest}"] = file.get_tensor(key)
        elif kind == "trunk" and not any(key.startswith(f"trunk.{name}.") for name in net.trunk_layers()):
            state[key] = file.get_tensor(key)
    for name, layer in _slot_layers(net.trunk, net.stems, net.heads).items():
        if isinstance(layer, TaskLayer) and not any(f"{name}.{base}" in state for base in _BASE[:2]):
            state[f"{name}.base_seed"] = encode_seed(SeededBase(0, "uniform", 0.0))  # of a closed network, never used
    return state


def _read_slots(file: Any, prefix: str, entries: set[str], slots: list[int]) -> dict[str, Tensor]:
    """The part of a trunk layer that belongs to ``slots``, which are numbered anew in this order."""
    state: dict[str, Tensor] = {}
    if "reads" in entries:
        pairs = [pair for pair in file.get_tensor(prefix + "reads").tolist() if pair[0] in slots]
        if missing := sorted({owner for _, owner in pairs if owner not in slots}):
            raise ValueError(
                f"load: of layer {prefix[:-1]} a task reads the weights of slots {missing}; load the tasks that own "
                "them, too"
            )
        if pairs:
            numbered = [[slots.index(slot) for slot in pair] for pair in pairs]
            state[prefix + "reads"] = torch.tensor(numbered, dtype=torch.int64)
        entries = entries - {"reads"}
    if "positions" in entries:
        positions, values = file.get_slice(prefix + "positions"), file.get_slice(prefix + "values")
        _, num_slots, num_rows, num_columns = positions[:4].tolist()
        words = positions[4 : 5 + num_slots].tolist()
        starts = positions[5 + num_slots : 6 + 2 * num_slots].tolist()
        segments = [positions[words[slot] : words[slot + 1]] for slot in slots]
        parts = [values[starts[slot] : starts[slot + 1]] for slot in slots]
        state[prefix + "positions"] = formats.join(segments, [len(part) for part in parts], num_rows, num_columns)
        state[prefix + "values"] = torch.cat(parts)
        entries = entries - {"positions", "values", *_BASE}
    for entry in entries:
        if entry.startswith("base_"):
            state[prefix + entry] = file.get_tensor(prefix + entry)
        else:
            rows = file.get_slice(prefix + entry)
            state[prefix + entry] = torch.cat([rows[slot : slot + 1] for slot in slots])
    return state
