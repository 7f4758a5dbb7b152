"""Putting task layers into a model in place of its own, with every parameter and buffer accounted for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from rsn2_kernels.nn import _obstacles
from rsn2_kernels.nn._slots import SlotModule
from rsn2_kernels.nn.batch_norm import TaskBatchNorm1d, TaskBatchNorm2d
from rsn2_kernels.nn.multihead_attention import TaskMultiheadAttention
from rsn2_kernels.nn.normalization import TaskGroupNorm, TaskLayerNorm
from rsn2_kernels.nn.task_conv import TaskConv1d, TaskConv2d
from rsn2_kernels.nn.task_embedding import TaskEmbedding
from rsn2_kernels.nn.task_linear import TaskLinear

CONVERSIONS: dict[type[nn.Module], Any] = {
    nn.Linear: TaskLinear,
    nn.modules.linear.NonDynamicallyQuantizableLinear: TaskLinear,
    nn.Conv1d: TaskConv1d,
    nn.Conv2d: TaskConv2d,
    nn.BatchNorm1d: TaskBatchNorm1d,
    nn.BatchNorm2d: TaskBatchNorm2d,
    nn.LayerNorm: TaskLayerNorm,
    nn.GroupNorm: TaskGroupNorm,
    nn.MultiheadAttention: TaskMultiheadAttention,
}
_CLAIMED = (TaskLinear, TaskConv1d, TaskConv2d, TaskMultiheadAttention)
_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_is_full_backward_hook",
)


class ConversionError(ValueError):
    """The model has modules that cannot be converted; ``obstacles`` is one sentence for each. Nothing was changed."""

    def __init__(self, obstacles: Sequence[str]) -> None:
        super().__init__("convert_: nothing was changed, since\n  " + "\n  ".join(obstacles))
        self.obstacles = tuple(obstacles)


@dataclass(frozen=True)
class Conversion:
    """What became of one module.

    Attributes:
        name: its qualified name; ``""`` is the model itself.
        was: its class before.
        became: its class now; the same when it was kept.
        kind: ``"claimed"`` (weights to be claimed by slots), ``"per slot"`` (a copy per slot), ``"frozen"`` (shared by
            all tasks, ``requires_grad`` False) or ``"shared"`` (shared by all tasks, and trains with every one of
            them).
        num_parameters: how many numbers its Parameters had.
        num_buffer_values: how many its buffers had.
        was_frozen: whether some of its Parameters did not require a gradient. What slots claim or copy of them trains
            all the same, until ``freeze(slot)``.
    """

    name: str
    was: str
    became: str
    kind: str
    num_parameters: int
    num_buffer_values: int
    was_frozen: bool = False

    @property
    def thaws(self) -> bool:
        """Whether slots train what was frozen before."""
        return self.was_frozen and self.kind in ("claimed", "per slot")


_MEANING = {
    "claimed": "each weight belongs to the slot that claims it; a bias per slot",
    "per slot": "a copy per slot",
    "frozen": "shared by all tasks, requires_grad False",
    "shared": "SHARED BY ALL TASKS: what one task trains here, or a buffer takes up, changes every other task",
}


@dataclass(frozen=True)
class ConversionReport:
    """What ``convert_`` did with every module that has parameters or buffers. Prints as a table."""

    entries: tuple[Conversion, ...]

    def __iter__(self) -> Iterator[Conversion]:
        return iter(self.entries)

    def of_kind(self, kind: str) -> list[Conversion]:
        return [entry for entry in self.entries if entry.kind == kind]

    @property
    def num_parameters(self) -> int:
        """How many numbers the model's Parameters had."""
        return sum(entry.num_parameters for entry in self.entries)

    @property
    def num_buffer_values(self) -> int:
        return sum(entry.num_buffer_values for entry in self.entries)

    def __str__(self) -> str:
        head = ("module", "was", "became", "parameters", "buffers", "kind")
        rows = [(e.name or "(the model)", e.was, e.became, f"{e.num_parameters:,}", f"{e.num_buffer_values:,}",
                 f"{e.kind}, was frozen" if e.thaws else e.kind) for e in self.entries]  # fmt: skip
        widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
        lines = []
        for row in (head, *rows):
            cells = [
                cell.rjust(w) if c in (3, 4) else cell.ljust(w)
                for c, (cell, w) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append("  ".join(cells).rstrip())
        lines.append("")
        for kind, meaning in _MEANING.items():
            found = self.of_kind(kind)
            if found:
                parameters, buffers = sum(e.num_parameters for e in found), sum(e.num_buffer_values for e in found)
                lines.append(f"{len(found)} {kind} ({parameters:,} parameters, {buffers:,} in buffers): {meaning}")
        thawed = sum(e.thaws for e in self.entries)
        if thawed:
            lines.append(f"{thawed} WERE FROZEN: slots train what they claim or copy of these, until freeze(slot)")
        lines.append(
            f"{len(rows)} modules, {self.num_parameters:,} parameters and {self.num_buffer_values:,} numbers in buffers"
        )
        return "\n".join(lines)


def convert_(model: nn.Module, num_slots: int | Sequence[str], *, where: Callable[[str, nn.Module], bool] | None = None,
             embedding: str = "shared") -> ConversionReport:  # fmt: skip
    """Replace a model's layers by task layers, in place. Its class and ``forward`` stay; the slot comes by ``active``.

    ``Linear``, ``Conv1d``, ``Conv2d`` become task layers whose base weights are the model's (all free until claimed);
    ``BatchNorm1d``, ``BatchNorm2d``, ``LayerNorm``, ``GroupNorm`` get a copy per slot; ``MultiheadAttention`` becomes
    :class:`~rsn2_kernels.nn.TaskMultiheadAttention`, and the transformer layers of ``torch.nn`` always call their
    children; ``Embedding`` is shared and frozen, or gets a table per slot. What a slot claims or copies trains, also
    where the model's own Parameters were frozen (the report says which were): ``freeze(slot)`` ends that, and ``where``
    keeps a module as it is. :func:`~rsn2_kernels.nn.slot_modules` has all that are replaced.

    Args:
        model: changed in place.
        num_slots: how many slots each layer gets, or their names; 0 is allowed, ``add_slot`` appends. A ``state_dict``
            holds slots by number; other names, or another order of them, are refused when it is loaded, as long as
            its metadata are there (``torch.save`` keeps them, safetensors does not).
        where: asked for every module that has parameters or buffers of its own, by qualified name (a
            ``MultiheadAttention`` as a whole); False keeps it dense and *shared by all tasks*: unless frozen it trains
            with every task, so that tasks change each other there.
        embedding: ``"shared"`` or ``"per_slot"``.

    Returns:
        A report that lists every module with parameters or buffers. Modules with buffers only are kept, and listed.

    Raises:
        ConversionError: (a ValueError) lists the modules that stand in the way: tied weights, one module at several
            places, parametrizations, lazy or quantized modules, already converted layers, modules with parameters of
            their own that have no task version and are not excluded by ``where``, and plain attributes (a list, say)
            that hold a layer to be replaced, since ``forward`` might go on with the old one. Nothing is changed then.
        ValueError, TypeError: an argument is not what it should be.

    A mixed batch takes the first dimension of what reaches a layer for its rows (transformer layers with
    ``batch_first=False`` are known to be otherwise; set ``layer.batch_dim`` of others).
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"convert_: model must be a torch.nn.Module, got {type(model).__name__}")
    if where is not None and not callable(where):
        raise TypeError(f"convert_: where must be callable with a name and a module, got {type(where).__name__}")
    if embedding not in ("shared", "per_slot"):
        raise ValueError(f"convert_: embedding must be 'shared' or 'per_slot', got {embedding!r}")
    SlotModule(num_slots)  # refuses what is no number of slots
    conversions = dict(CONVERSIONS)
    if embedding == "per_slot":
        conversions[nn.Embedding] = TaskEmbedding
    units = list(_units(model))
    wanted = {name for name, module in units if where is None or where(name, module)}
    replaced = {name: module for name, module in units if name in wanted and type(module) in conversions}
    found = _obstacles.find(model, units, wanted, tuple({**conversions, nn.Embedding: None}))
    found += _obstacles.plain_references(model, replaced)
    if found:
        raise ConversionError(found)

    # All new layers are made before the first is put in place: whatever fails leaves the model as it was.
    entries, made = [], []
    for name, module in units:
        new: nn.Module = module
        kind = "shared"
        if name in replaced:
            new = conversions[type(module)].from_dense(module, num_slots=num_slots)
            new.train(module.training)
            kind = "claimed" if isinstance(new, _CLAIMED) else "per slot"
            made.append((name, module, new))
        elif (name in wanted and type(module) is nn.Embedding) or _is_frozen(module):
            kind = "frozen"
        parameters, buffers = _own_tensors(module)
        entries.append(Conversion(name, type(module).__name__, type(new).__name__, kind,
                                  _count(parameters), _count(buffers),
                                  not all(p.requires_grad for p in parameters)))  # fmt: skip
    for name, old, new in made:
        for hooks in _HOOKS:
            setattr(new, hooks, getattr(old, hooks))
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, new)
    for name, module in units:
        if name in wanted and type(module) is nn.Embedding and embedding == "shared":
            module.weight.requires_grad_(False)
    if made:
        _use_children(model)
    return ConversionReport(tuple(entries))


def _own_tensors(module: nn.Module) -> tuple[list[nn.Parameter], list[torch.Tensor]]:
    """The parameters and buffers of a module without its children, or of an attention as a whole."""
    recurse = _obstacles.is_one(module)
    return list(module.parameters(recurse)), list(module.buffers(recurse))


def _count(tensors: Sequence[torch.Tensor]) -> int:
    return sum(0 if is_lazy(tensor) else tensor.numel() for tensor in tensors)  # a lazy one has no size yet


def _units(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules that are converted or kept as one, at every place where they stand."""
    inside: tuple[str, ...] = ()
    for name, module in model.named_modules(remove_duplicate=False):
        if inside and name.startswith(inside):
            continue
        if _obstacles.is_one(module):
            inside += (f"{name}." if name else "",)
        parameters, buffers = _own_tensors(module)
        stateless = isinstance(module, nn.modules.batchnorm._NormBase)  # their statistics must be per slot even so
        if parameters or buffers or stateless or _obstacles.has_hidden_state(module):
            yield name, module


def _is_frozen(module: nn.Module) -> bool:
    parameters, _ = _own_tensors(module)
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)


def _use_children(model: nn.Module) -> None:
    """Make torch's transformer layers call their children, and tell those which dimension counts the rows."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False
        if isinstance(module, nn.TransformerEncoderLayer):
            # In eval they hand all weights to one fused kernel, unless the activation is none that it knows.
            module.activation_relu_or_gelu = 0
        if isinstance(module, (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)):
            batch_first, children = module.self_attn.batch_first, module.modules()
        elif isinstance(module, (nn.TransformerEncoder, nn.TransformerDecoder)) and module.norm is not None:
            batch_first, children = module.layers[0].self_attn.batch_first, module.norm.modules()
        else:
            continue
        attentions = [m for m in module.modules() if isinstance(m, TaskMultiheadAttention)]
        within = {child for attention in attentions for child in attention.modules()}
        for child in children:
            if isinstance(child, SlotModule) and child not in within:
                child.batch_dim = 0 if batch_first else 1
