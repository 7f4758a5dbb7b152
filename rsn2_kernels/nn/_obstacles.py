"""What keeps a model from being converted."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MethodType

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from rsn2_kernels.nn._slots import SlotModule
from rsn2_kernels.nn.multihead_attention import TaskMultiheadAttention
from rsn2_kernels.ops._checks import FLOATS

_QUANTIZED = ("torch.ao.", "torch.nn.quantized", "torch.nn.intrinsic", "torch.nn.qat")
_OF_ATTENTION = {
    "in_proj_weight",
    "q_proj_weight",
    "k_proj_weight",
    "v_proj_weight",
    "in_proj_bias",
    "bias_k",
    "bias_v",
}
_OWN_BUFFERS = {"running_mean", "running_var", "num_batches_tracked"}


def has_hidden_state(module: nn.Module) -> bool:
    """Whether a module keeps weights that are not its own Parameters or buffers: quantized and parametrized ones do."""
    is_quantized = type(module).__module__.startswith(_QUANTIZED) and hasattr(module, "_packed_params")
    return is_quantized or parametrize.is_parametrized(module)


def is_one(module: nn.Module) -> bool:
    """Whether a module is converted, kept or refused together with all that it contains."""
    if isinstance(module, (nn.MultiheadAttention, SlotModule, TaskMultiheadAttention)):
        return True
    return has_hidden_state(module)


def find(model: nn.Module, units: Sequence[tuple[str, nn.Module]], wanted: set[str],
         known: tuple[type[nn.Module], ...]) -> list[str]:  # fmt: skip
    """One sentence for everything that stands in the way; ``wanted`` names the units to be converted."""
    found = []
    for name, module in units:
        if name in wanted:
            problem = _problem(module, known)
            if problem:
                found.append(f"{name or '(the model)'} ({type(module).__name__}): {problem}")
            elif module is model and type(module) in known:
                task_class = type(module).__name__
                found.append(f"(the model) ({task_class}): it is itself the layer; use the task layer's from_dense")
    return found + _shared_modules(units, wanted) + _shared_parameters(model, units, wanted)


def plain_references(model: nn.Module, replaced: Mapping[str, nn.Module]) -> list[str]:
    """One sentence for every attribute, unknown to torch as a child, that holds what is going to be replaced."""
    place_of = {
        part: ".".join(filter(None, (name, inner)))
        for name, module in replaced.items()
        for inner, part in module.named_modules()
    }
    found, registered = [], set(model.modules())
    for name, module in model.named_modules():
        if module in place_of:
            continue
        for attribute, value in vars(module).items():
            if attribute == "_modules":
                continue
            places = [place_of[held] for held in _held(value, registered, set()) if held in place_of]
            if places:
                found.append(
                    f"{name or '(the model)'} ({type(module).__name__}): its plain attribute {attribute!r} holds "
                    f"{' and '.join(dict.fromkeys(places))}, and would keep the dense layer; use an nn.ModuleList or "
                    "ModuleDict, or remove it"
                )
    return found


def _held(value: object, registered: set[nn.Module], seen: set[int]) -> Iterator[nn.Module]:
    """The modules in a value, and in the collections, methods, partial functions and unknown modules it is made of."""
    if id(value) in seen:
        return
    parts: Iterable[object] = ()
    if isinstance(value, nn.Module):
        yield value
        parts = () if value in registered else (vars(value),)
    elif isinstance(value, dict):
        parts = (*value, *value.values())
    elif isinstance(value, (list, tuple, set, frozenset, deque)):
        parts = value
    elif isinstance(value, MethodType):
        parts = (value.__self__,)
    elif isinstance(value, functools.partial):
        parts = (value.func, *value.args, *value.keywords.values())
    else:
        return
    seen.add(id(value))
    for part in parts:
        yield from _held(part, registered, seen)


def _is_plain(parameter: nn.Parameter) -> bool:
    return type(parameter.data) is Tensor and parameter.layout == torch.strided


def _problem(module: nn.Module, known: tuple[type[nn.Module], ...]) -> str:
    if isinstance(module, (SlotModule, TaskMultiheadAttention)):
        return "it is converted already"
    parts = list(module.modules()) if isinstance(module, nn.MultiheadAttention) else [module]
    if any(parametrize.is_parametrized(part) for part in parts):
        return "it is parametrized; remove that first (torch.nn.utils.parametrize.remove_parametrizations)"
    if isinstance(module, LazyModuleMixin):
        return "it is lazy; run the model once, so that it knows its shapes"
    if type(module).__module__.startswith(_QUANTIZED):
        return "it is quantized; convert the float model"
    for name, parameter in module.named_parameters():
        if not _is_plain(parameter) or parameter.dtype not in FLOATS:
            kind = f"{type(parameter.data).__name__} of {parameter.dtype}, {parameter.layout}"
            return f"its {name} must be a plain dense float tensor, got {kind}; quantized weights cannot be claimed"
    own = [name for name, _ in module.named_parameters(recurse=False)]
    if type(module) not in known:
        if own:
            return f"there is no task version of it, and it has parameters of its own: {', '.join(own)}"
        if isinstance(module, _NormBase) and module.track_running_stats:
            return "there is no task version of it, and its running statistics would mix those of all tasks"
        return ""
    strange = set(own) - (_OF_ATTENTION if type(module) is nn.MultiheadAttention else {"weight", "bias"})
    strange |= {name for name, _ in module.named_buffers(recurse=False)} - _OWN_BUFFERS
    if strange:
        return f"it has more than a {type(module).__name__} has: {', '.join(sorted(strange))}"
    if "forward" in vars(module):
        return "its forward was replaced"
    if isinstance(module, nn.MultiheadAttention) and module.bias_k is not None:
        return "add_bias_kv=True has no task version"
    if isinstance(module, nn.Embedding):
        options = [name for name in ("max_norm", "scale_grad_by_freq", "sparse") if getattr(module, name)]
        if options:
            return f"an Embedding with {', '.join(options)} has no task version"
    return ""


def _shared_modules(units: Sequence[tuple[str, nn.Module]], wanted: set[str]) -> list[str]:
    places: dict[nn.Module, list[str]] = {}
    for name, module in units:
        places.setdefault(module, []).append(name)
    return [
        f"{' and '.join(names)} ({type(module).__name__}) are one module at several places"
        for module, names in places.items()
        if len(names) > 1 and wanted.intersection(names)
    ]


def _shared_parameters(model: nn.Module, units: Sequence[tuple[str, nn.Module]], wanted: set[str]) -> list[str]:
    seen: dict[object, dict[str, nn.Module]] = {}
    modules: set[nn.Module] = set()
    for place, module in units:
        if module in modules:
            continue
        modules.add(module)
        recurse = is_one(module)
        for name, parameter in module.named_parameters(recurse=recurse):
            key: object = id(parameter)
            if not is_lazy(parameter) and _is_plain(parameter) and parameter.numel() > 0 and not parameter.is_meta:
                key = (parameter.device, parameter.data_ptr())  # two that view the same memory are tied as well
            seen.setdefault(key, {})[f"{place}.{name}" if place else name] = module
    found = []
    unit_of = {module: name for name, module in units}
    for users in seen.values():
        if len(users) > 1 and any(unit_of[module] in wanted for module in users.values()):
            found.append(f"{' and '.join(users)} are tied: one Parameter at several places")
    return found
