"""What every layer with slots has: names, the way from the active task to a slot, freezing."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from rsn2_kernels.nn._active import active_slots
from rsn2_kernels.nn._parameters import SlotParameters as SlotParameters

_P = ParamSpec("_P")
_R = TypeVar("_R")


def changes_what_is_held(method: Callable[_P, _R]) -> Callable[_P, _R]:
    """Run a method outside of inference mode, whose tensors could not be trained later, and without a graph."""

    @functools.wraps(method)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with torch.inference_mode(False), torch.no_grad():
            return method(*args, **kwargs)

    return run


class SlotModule(nn.Module):
    """A layer with one part per slot.

    Attributes:
        slot_names: a name per slot, or an empty list when slots are numbers only.
        slot_map: int64 ``[tasks]``, the slot that each active task number stands for in this layer, or None when the
            active numbers are slots themselves. It does not apply to slots passed to ``forward``.
        batch_dim: which dimension of the input counts the rows; 1 for layers inside a transformer with
            ``batch_first=False``.
    """

    slot_map: Tensor | None
    batch_dim: int = 0

    def __init__(self, num_slots: int | Sequence[str]) -> None:
        super().__init__()
        is_list = isinstance(num_slots, Sequence) and not isinstance(num_slots, str)
        if not isinstance(num_slots, int) and not (is_list and all(isinstance(name, str) for name in num_slots)):
            raise TypeError(f"{type(self).__name__}: num_slots must be an int or a list of names, got {num_slots!r}")
        names = [] if isinstance(num_slots, int) else list(num_slots)
        count = num_slots if isinstance(num_slots, int) else len(names)
        if isinstance(num_slots, bool) or count < 0 or len(set(names)) != len(names):
            raise ValueError(
                f"{type(self).__name__}: num_slots must be a number >= 0 or different names, got {num_slots!r}"
            )
        self.num_slots = count
        self.slot_names = names
        self.slot_map = None
        self._frozen: set[int] = set()

    def slot_index(self, slot: int | str) -> int:
        """The number of a slot given by number or name; an unknown one is an error that lists those there are."""
        kind = type(self).__name__
        if isinstance(slot, str):
            if slot not in self.slot_names:
                raise KeyError(
                    f"{kind}: unknown slot {slot!r}; there are {self.slot_names or f'0..{self.num_slots - 1}'}"
                )
            return self.slot_names.index(slot)
        if isinstance(slot, Integral) and not isinstance(slot, (bool, int)):
            slot = int(slot)  # NumPy's
        if isinstance(slot, bool) or not isinstance(slot, int):
            raise TypeError(
                f"{kind}: slot must be an int or a name (or, for rows of several slots, an int64 tensor), "
                f"got {type(slot).__name__}"
            )
        if not self.num_slots:
            raise IndexError(
                f"{kind}: slot must be one of the layer's, which has none (add_slot makes one), got {slot}"
            )
        if not 0 <= slot < self.num_slots:
            raise IndexError(f"{kind}: slot must be in 0..{self.num_slots - 1}, got {slot}")
        return slot

    def resolve_slots(self, slots: Tensor | int | str | None, x: Tensor) -> Tensor:
        """The int64 slots of a call: those passed, else the active ones, else an error."""
        if not isinstance(x, Tensor):
            raise TypeError(f"{type(self).__name__}: x must be a tensor, got {type(x).__name__}")
        if slots is None:
            slots = active_slots()
            if slots is None:
                raise RuntimeError(
                    f"{type(self).__name__}: no slot given and none active; "
                    "call layer(x, slot) or use `with active(slot):`"
                )
            if slots.dim() == 0 and is_host_known(slots) and x.device.type != "cpu":
                slots = torch.full((), int(slots), dtype=torch.int64, device=x.device)  # a copy would wait for it
            slots = slots.to(x.device)
            return slots if self.slot_map is None else self._mapped(slots)
        if isinstance(slots, Tensor):
            return slots
        return torch.full((), self.slot_index(slots), dtype=torch.int64, device=x.device)

    def _mapped(self, tasks: Tensor) -> Tensor:
        """The slots of active task numbers. ``index_select`` refuses numbers below zero, which an index would wrap."""
        assert self.slot_map is not None
        if is_host_known(tasks):
            check_range(f"{type(self).__name__}: active tasks", tasks, len(self.slot_map))
        return self.slot_map.index_select(0, tasks.reshape(-1)).reshape(tasks.shape)

    def parameters_of(self, slot: int | str) -> list[nn.Parameter]:
        """Exactly what training this slot may touch."""
        raise NotImplementedError

    def is_frozen(self, slot: int | str) -> bool:
        return self.slot_index(slot) in self._frozen

    @property
    def frozen(self) -> Tensor:
        """Bool ``[T]``: which slots are frozen, as in a ``state_dict``."""
        return torch.tensor([slot in self._frozen for slot in range(self.num_slots)], dtype=torch.bool)

    def freeze(self, slot: int | str) -> None:
        """Nothing of this slot changes any more: no gradient, no running statistics, no claim or release."""
        number = self.slot_index(slot)
        for parameter in self.parameters_of(number):
            parameter.requires_grad_(False)
            parameter.grad = None
        self._frozen.add(number)
        self._tell_frozen()

    def thaw(self, slot: int | str) -> None:
        """Let a frozen slot train again."""
        number = self.slot_index(slot)
        self._frozen.discard(number)
        self._tell_frozen()
        for parameter in self.parameters_of(number):
            parameter.requires_grad_(True)

    def _tell_frozen(self) -> None:
        for child in self.children():
            if isinstance(child, SlotParameters):
                child.frozen = frozenset(self._frozen)

    def requires_grad_(self, requires_grad: bool = True) -> SlotModule:
        """As in any module, but for frozen slots, which only :meth:`thaw` lets train again."""
        super().requires_grad_(requires_grad)
        for slot in self._frozen:
            for parameter in self.parameters_of(slot):
                parameter.requires_grad_(False)
        return self

    @changes_what_is_held
    def add_slot(self, name: str | None = None) -> int:
        """Append a slot and return its number. Existing Parameters stay the same objects."""
        if (name is None) == bool(self.slot_names) and self.num_slots:
            raise ValueError(
                f"{type(self).__name__}: the slots {'have names' if self.slot_names else 'have no names'}, got {name!r}"
            )
        if name in self.slot_names:
            raise ValueError(f"{type(self).__name__}: there is a slot {name!r} already")
        self._append_slot()
        self.num_slots += 1
        if name is not None:
            self.slot_names.append(name)
        return self.num_slots - 1

    def _append_slot(self) -> None:
        raise NotImplementedError

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SlotModule:
        super()._apply(fn, recurse)
        if self.slot_map is not None:
            self.slot_map = moved_numbers(fn, self.slot_map)
        return self

    def _set_frozen_flags(self, flags: Tensor) -> None:
        self._frozen = {slot for slot in self._frozen if slot < len(flags)}
        for slot, frozen in enumerate(flags.tolist()):
            if frozen:
                self.freeze(slot)
            elif slot in self._frozen:
                self.thaw(slot)
        self._tell_frozen()


def slot_modules(model: nn.Module) -> dict[str, SlotModule]:
    """Every layer with slots in a model, by its qualified name: task layers, normalisation and attention alike.

    What is done for a slot in a whole model is done in all of them: ``for layer in slot_modules(model).values():
    layer.freeze(slot)`` finishes it. Those that claim weights are :class:`~rsn2_kernels.nn.TaskLayer` among them.
    """
    return {name: module for name, module in model.named_modules() if isinstance(module, SlotModule)}


def save_slot_names(layer: SlotModule, destination: dict[str, Tensor], prefix: str) -> None:
    """Names are no tensors: they go where torch keeps a module's version, beside the state."""
    metadata = getattr(destination, "_metadata", None)
    if layer.slot_names and metadata is not None:
        metadata.setdefault(prefix[:-1], {})["slot_names"] = list(layer.slot_names)


def check_slot_state(layer: SlotModule, given: dict[str, Tensor], metadata: Mapping[str, Any]) -> list[str]:
    """What is wrong with the part of a loaded state that all layers with slots have."""
    frozen, slot_map, names = given["frozen"], given.get("slot_map"), metadata.get("slot_names")
    found = []
    if frozen.dim() != 1 or frozen.dtype != torch.bool:
        found.append(f"frozen must be bool [T], got {frozen.dtype} {list(frozen.shape)}")
    elif layer.slot_names and len(frozen) != layer.num_slots:
        found.append(f"the layer has slots {layer.slot_names}, the state {names or f'{len(frozen)} slots'}")
    elif layer.slot_names and names and names != layer.slot_names:
        found.append(f"the layer has slots {layer.slot_names}, the state {names}")
    if slot_map is not None and (slot_map.dim() != 1 or slot_map.dtype != torch.int64):
        found.append(f"slot_map must be int64 [tasks], got {slot_map.dtype} {list(slot_map.shape)}")
    return found


def moved_numbers(fn: Callable[[Tensor], Tensor], numbers: Tensor) -> Tensor:
    """What ``fn`` of :meth:`torch.nn.Module._apply` makes of whole numbers that describe a layer.

    They follow to its device only: they keep their dtype where weights get another, their values where these are left
    undefined (``to_empty``), and the memory that they have where there are no weights (the meta device).
    """
    device = fn(numbers[:0]).device
    return numbers if device.type == "meta" else numbers.to(device)


def taken_from(given: Tensor, present: Tensor, as_given: bool) -> Tensor:
    """A copy of a loaded tensor, with device and float dtype of the ``present`` one unless ``as_given``."""
    given = given.detach()
    if as_given:
        return given.clone()
    dtype = present.dtype if given.is_floating_point() else given.dtype
    return given.to(present.device, dtype, copy=True)


def is_host_known(tensor: Tensor) -> bool:
    """Whether Python may look at the numbers: never while tracing, nor where that would wait for a device."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def check_range(what: str, numbers: Tensor, end: int) -> None:
    """``numbers`` must be in ``0..end-1``; IndexError with the first bound that is broken. Waits for a device."""
    if numbers.numel() == 0:
        return
    low, high = (int(numbers),) * 2 if numbers.dim() == 0 else (int(bound) for bound in numbers.aminmax())
    if low < 0 or high >= end:
        raise IndexError(f"{what} must be in 0..{end - 1}, got {low if low < 0 else high}")
