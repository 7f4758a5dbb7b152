"""What every layer with slots has: names, the way from the active task to a slot, freezing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rsn2_kernels.nn._active import active_slots


class SlotParameters(nn.ParameterList):
    """One Parameter per slot. The layer saves and loads them itself, as one tensor for all slots."""

    def _save_to_state_dict(self, destination: dict[str, Tensor], prefix: str, keep_vars: bool) -> None:
        return

    def _load_from_state_dict(self, *args: object, **kwargs: object) -> None:
        return


class SlotModule(nn.Module):
    """A layer with one part per slot.

    Attributes:
        slot_names: a name per slot, or an empty list when slots are numbers only.
        slot_map: int64 ``[tasks]``, the slot that each active task number stands for in this layer, or None when the active
            numbers are slots themselves. It does not apply to slots passed to ``forward``.
    """

    slot_map: Tensor | None

    def __init__(self, num_slots: int | Sequence[str]) -> None:
        super().__init__()
        names = [] if isinstance(num_slots, int) else list(num_slots)
        count = num_slots if isinstance(num_slots, int) else len(names)
        if isinstance(num_slots, bool) or count < 0 or len(set(names)) != len(names):
            raise ValueError(
                f"{type(self).__name__}: num_slots must be a number >= 0 or different names, got {num_slots!r}"
            )
        self.num_slots = count
        self.slot_names = names
        self.register_buffer("slot_map", None, persistent=False)
        self._frozen: set[int] = set()

    def slot_index(self, slot: int | str) -> int:
        """The number of a slot given by number or name; an unknown one is an error that lists those there are."""
        kind = type(self).__name__
        if isinstance(slot, str):
            if slot not in self.slot_names:
                raise KeyError(f"{kind}: unknown slot {slot!r}; there are {self.slot_names or f'0..{self.num_slots - 1}'}")
            return self.slot_names.index(slot)
        if isinstance(slot, bool) or not isinstance(slot, int):
            raise TypeError(f"{kind}: slot must be an int or a name, got {type(slot).__name__}")
        if not 0 <= slot < self.num_slots:
            raise IndexError(f"{kind}: slot must be in 0..{self.num_slots - 1}, got {slot}")
        return slot

    def resolve_slots(self, slots: Tensor | int | str | None, x: Tensor) -> Tensor:
        """The int64 slots of a call: those passed, else the active ones, else an error."""
        if slots is None:
            slots = active_slots()
            if slots is None:
                raise RuntimeError(
                    f"{type(self).__name__}: no slot given and none active; call layer(x, slot) or use `with active(slot):`"
                )
            slots = slots.to(x.device)
            return slots if self.slot_map is None else self.slot_map[slots]
        if isinstance(slots, Tensor):
            return slots
        return torch.full((), self.slot_index(slots), dtype=torch.int64, device=x.device)

    def parameters_of(self, slot: int | str) -> list[nn.Parameter]:
        """Exactly what training this slot may touch."""
        raise NotImplementedError

    def is_frozen(self, slot: int | str) -> bool:
        return self.slot_index(slot) in self._frozen

    def freeze(self, slot: int | str) -> None:
        """Nothing of this slot changes any more: no gradient, no running statistics, no claim or release."""
        number = self.slot_index(slot)
        for parameter in self.parameters_of(number):
            parameter.requires_grad_(False)
            parameter.grad = None
        self._frozen.add(number)

    def thaw(self, slot: int | str) -> None:
        """Let a frozen slot train again."""
        number = self.slot_index(slot)
        self._frozen.discard(number)
        for parameter in self.parameters_of(number):
            parameter.requires_grad_(True)

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

    def _frozen_flags(self) -> Tensor:
        return torch.tensor([slot in self._frozen for slot in range(self.num_slots)], dtype=torch.bool)

    def _set_frozen_flags(self, flags: Tensor) -> None:
        for slot, frozen in enumerate(flags.tolist()):
            if frozen:
                self.freeze(slot)
            elif slot in self._frozen:
                self.thaw(slot)


def slot_modules(model: nn.Module) -> dict[str, SlotModule]:
    """Every layer with slots in a model, by its qualified name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, SlotModule)}
