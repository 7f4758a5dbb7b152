"""How a task layer appears in a ``state_dict``: one tensor of values, its positions, and what claims to come need."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rsn2_kernels import formats
from rsn2_kernels.formats import SeededBase
from rsn2_kernels.formats.base import INITIALIZERS
from rsn2_kernels.nn._optimizers import note_change
from rsn2_kernels.nn._slots import check_slot_state, save_slot_names, taken_from

if TYPE_CHECKING:
    from rsn2_kernels.nn._store import TaskLayer


def encode_seed(base: SeededBase) -> Tensor:
    """A seeded base as three int64: seed, number of the initializer, bits of the scale."""
    seed, scale = struct.unpack("<qq", struct.pack("<Qd", base.seed, base.scale))
    return torch.tensor([seed, INITIALIZERS.index(base.initializer), scale], dtype=torch.int64)


def decode_seed(encoded: Tensor) -> SeededBase:
    seed, initializer, scale = encoded.tolist()
    unsigned, number = struct.unpack("<Qd", struct.pack("<qq", seed, scale))
    return SeededBase(unsigned, INITIALIZERS[initializer], number)


def save(layer: TaskLayer, destination: dict[str, Tensor], prefix: str, keep_vars: bool) -> None:
    """Add the layer's tensors to ``destination``."""
    layer._check_memory()
    state = {"values": layer.flat_values, "positions": layer.positions, "frozen": layer.frozen}
    if layer.flat_bias is not None:
        state["bias"] = layer.flat_bias
    if layer.base_seed is not None:
        state["base_seed"] = encode_seed(layer.base_seed)
    if layer.base_weight is not None:
        state["base_weight"] = layer.base_weight
    if layer.base_bias is not None:
        state["base_bias"] = layer.base_bias
    if layer.slot_map is not None:
        state["slot_map"] = layer.slot_map
    if layer._reads:
        pairs = [(reader, owner) for reader, owners in layer._reads.items() for owner in owners]
        state["reads"] = torch.tensor(pairs, dtype=torch.int64)
    for name, tensor in state.items():
        destination[prefix + name] = tensor if keep_vars else tensor.detach()
    save_slot_names(layer, destination, prefix)


_REQUIRED = ("values", "positions", "frozen")
_OPTIONAL = ("bias", "base_seed", "base_weight", "base_bias", "slot_map", "reads")
_FLOATS = ("values", "bias", "base_weight", "base_bias")
NAMES = (*_REQUIRED, *_OPTIONAL)


def load(layer: TaskLayer, state: dict[str, Tensor], prefix: str, metadata: Mapping[str, Any], missing: list[str],
         unexpected: list[str], errors: list[str]) -> None:  # fmt: skip
    """Take the layer's tensors out of ``state``; slots may own other counts than now, and there may be more or fewer.

    They get the layer's device and dtype, or keep their own (where ``metadata`` says ``assign=True``). Everything
    is checked before anything is changed. Where only what claims to come start from is absent, the layer keeps its own
    and takes the rest, as torch's modules do, which are not told whether a missing key is an error.
    """
    as_given = bool(metadata.get("assign_to_params_buffers", False))
    given = {name: state[prefix + name] for name in NAMES if prefix + name in state}
    absent = [name for name in _REQUIRED if name not in given]
    if layer.flat_bias is not None and "bias" not in given:
        absent.append("bias")
    base = [] if "base_seed" in given or "base_weight" in given else [_name_of_base(layer)]
    missing.extend(prefix + name for name in absent + base)
    if absent:
        unexpected.extend(prefix + name for name in given)  # none of them can be taken without those
        return
    if layer.flat_values.is_meta and not as_given:
        errors.append(
            f"{prefix}: the layer is on the meta device, where nothing can be copied to; pass assign=True, or move it "
            "first (to_empty)"
        )
        return
    without = [name for name, tensor in given.items() if tensor.is_meta and not (as_given and name in _FLOATS)]
    if without:
        errors.append(f"{prefix}: {', '.join(without)} have no numbers to be loaded, being on the meta device")
        return
    found = formats.problems(given["values"], given["positions"])
    if not found:
        num_slots, *size = formats.shape_of(given["positions"])
        expected = [layer.weight_shape[0], layer._num_columns()]
        if size != expected:
            found.append(f"the weight must be {expected}, got {size}")
        elif layer.flat_bias is not None and not _is_float(given["bias"], (num_slots, layer.weight_shape[0])):
            came = f"{given['bias'].dtype} {list(given['bias'].shape)}"
            found.append(f"bias must be float [{num_slots}, {layer.weight_shape[0]}], got {came}")
        elif given["frozen"].shape != (num_slots,):
            found.append(f"frozen must be bool [{num_slots}], got {list(given['frozen'].shape)}")
        elif "base_weight" in given and given["base_weight"].shape != layer.weight_shape:
            found.append(f"base_weight must be {list(layer.weight_shape)}, got {list(given['base_weight'].shape)}")
        elif "base_bias" in given and given["base_bias"].shape != layer.weight_shape[:1]:
            found.append(f"base_bias must be [{layer.weight_shape[0]}], got {list(given['base_bias'].shape)}")
        found += (
            check_slot_state(layer, given, metadata) + _problems_of_seed(given) + _problems_of_reads(given, num_slots)
        )
    if found:
        errors.extend(f"{prefix}: {problem}" for problem in found)
        return
    _assign(layer, given, num_slots, as_given)


def _name_of_base(layer: TaskLayer) -> str:
    return "base_seed" if layer.base_weight is None else "base_weight"


def _is_float(tensor: Tensor, shape: tuple[int, ...]) -> bool:
    return tensor.is_floating_point() and tuple(tensor.shape) == shape


def _problems_of_seed(given: dict[str, Tensor]) -> list[str]:
    seed = given.get("base_seed")
    if seed is None or (seed.dtype == torch.int64 and seed.shape == (3,) and 0 <= int(seed[1]) < len(INITIALIZERS)):
        return []
    return [f"base_seed must be int64 [seed, initializer in 0..{len(INITIALIZERS) - 1}, bits of the scale], got {seed}"]


def _problems_of_reads(given: dict[str, Tensor], num_slots: int) -> list[str]:
    reads = given.get("reads")
    if reads is None:
        return []
    if reads.dim() != 2 or reads.shape[1] != 2 or reads.dtype != torch.int64:
        return [f"reads must be int64 [n, 2], got {reads.dtype} {list(reads.shape)}"]
    frozen = given["frozen"].tolist()
    return [
        f"reads must name pairs of a slot and another, frozen one in 0..{num_slots - 1}, got {[reader, owner]}"
        for reader, owner in reads.tolist()
        if not (0 <= reader < num_slots and 0 <= owner < len(frozen) and frozen[owner] and reader != owner)
    ]


def _assign(layer: TaskLayer, given: dict[str, Tensor], num_slots: int, as_given: bool) -> None:
    values = taken_from(given["values"], layer.flat_values, as_given)
    layer.values.resize(num_slots, values)
    if layer.bias is not None:
        assert layer.flat_bias is not None
        layer.bias.resize(num_slots, values)
        layer.flat_bias = taken_from(given["bias"], layer.flat_bias, as_given).contiguous()
    layer.num_slots = num_slots
    torch.autograd.graph.increment_version(layer.flat_values)
    before, layer.flat_values = layer.positions, values
    where = layer.positions.device if values.is_meta else values.device
    layer.positions = given["positions"].detach().to(where, copy=True)
    layer.index = layer._derive_index(layer.positions)
    if "base_seed" in given or "base_weight" in given:
        layer.base_seed = decode_seed(given["base_seed"]) if "base_seed" in given else None
        layer.base_weight = layer.base_bias = None
    layer.slot_map = None
    for name in ("base_weight", "base_bias", "slot_map"):
        if name in given:
            setattr(layer, name, taken_from(given[name], values, as_given))
    layer._tie()
    note_change(layer.values, _changed(layer, before))
    layer._reads = {}
    layer._set_frozen_flags(given["frozen"])
    for reader, owner in given.get("reads", torch.zeros(0, 2)).tolist():
        layer._reads[int(reader)] = (*layer._reads.get(int(reader), ()), int(owner))
    layer._refresh_frozen()


def _changed(layer: TaskLayer, before: Tensor) -> list[int]:
    """The slots that owned other weights by the positions of ``before``."""
    now = layer.positions.to(before.device)
    common = min(layer.num_slots, formats.shape_of(before)[0])
    return [
        slot
        for slot in range(layer.num_slots)
        if slot >= common or not torch.equal(formats.segment(now, slot), formats.segment(before, slot))
    ]
