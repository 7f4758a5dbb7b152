"""Layers of which every slot has a row of its own: an affine transformation, running statistics, a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rsn2_kernels.nn._gather import gather_rows
from rsn2_kernels.nn._slots import (
    SlotModule,
    SlotParameters,
    changes_what_is_held,
    check_range,
    check_slot_state,
    is_host_known,
    save_slot_names,
    taken_from,
)
from rsn2_kernels.ops._checks import check_slots


class _Part(NamedTuple):
    """The rows of one slot."""

    slot: int
    x: Tensor
    weight: Tensor | None
    bias: Tensor | None


def joined(results: Sequence[Tensor], order: Tensor | None, dim: int = 0) -> Tensor:
    """What was computed of parts, in the order that the rows had."""
    y = torch.cat(list(results), dim)
    if order is None:
        return y
    return y[order.argsort()] if dim == 0 else y.index_select(dim, order.argsort())


class RowLayer(SlotModule):
    """A layer whose slots have a row each of every kind of tensor: nothing is shared, so that nothing needs claiming.

    The rows of one kind stand in one flat tensor ``[T, ...]``; those that train are viewed by Parameters, one per slot
    (``layer.weight[t]``), which stay the same objects through ``.to``, ``load_state_dict`` and ``add_slot``. A new slot
    starts from the base row, which is torch's starting value or, in a converted layer, the model's.

    What Parameters view is no buffer: whoever copies or averages Parameters and buffers one after another, as
    ``torch.optim.swa_utils`` does, would write the same memory twice. Nor is what the layer does not have: torch's
    export miscounts those that are None.

    Args:
        num_slots: how many, or their names.
        trained: the base row of each kind that trains, or None where the layer has no such kind.
        tracked: the same of each kind that is no Parameter.
    """

    @changes_what_is_held
    def __init__(self, num_slots: int | Sequence[str], trained: dict[str, Tensor | None],
                 tracked: dict[str, Tensor | None] | None = None) -> None:  # fmt: skip
        super().__init__(num_slots)
        tracked = tracked or {}
        self._trained = tuple(kind for kind, row in trained.items() if row is not None)
        self._tracked = tuple(kind for kind, row in tracked.items() if row is not None)
        for kind, row in {**trained, **tracked}.items():
            base = None if row is None else row.detach().clone()
            rows = None if base is None else base.expand(self.num_slots, *base.shape).clone()
            self._keep(f"base_{kind}", base)
            if kind in tracked:
                self._keep(kind, rows)
            else:
                setattr(self, f"flat_{kind}", rows)
                setattr(self, kind, None if rows is None else SlotParameters([nn.Parameter(part) for part in rows]))

    def _keep(self, name: str, tensor: Tensor | None) -> None:
        if tensor is None:
            setattr(self, name, None)
        else:
            self.register_buffer(name, tensor, persistent=False)

    def _flat_name(self, kind: str) -> str:
        return f"flat_{kind}" if kind in self._trained else kind

    def _flat(self, kind: str) -> Tensor:
        return getattr(self, self._flat_name(kind))

    def _start_from(self, dense: nn.Module) -> None:
        """Make the tensors of ``dense`` the base, and what every slot has."""
        for kind in (*self._trained, *self._tracked):
            row = getattr(dense, kind).detach()
            getattr(self, f"base_{kind}").copy_(row)
            self._flat(kind).copy_(row.expand(self.num_slots, *row.shape))

    def _into(self, dense: nn.Module, slot: int | str) -> Any:
        """Give ``dense`` what ``slot`` has."""
        number = self.slot_index(slot)
        with torch.no_grad():
            for kind in (*self._trained, *self._tracked):
                getattr(dense, kind).copy_(self._flat(kind)[number])
        return dense.train(self.training)

    def parameters_of(self, slot: int | str) -> list[nn.Parameter]:
        number = self.slot_index(slot)
        return [getattr(self, kind)[number] for kind in self._trained]

    def _rows(self, kind: str, slots: Tensor) -> Tensor | None:
        """The rows of ``slots`` (``[]`` or ``[n]``), through which gradients reach the Parameters."""
        if kind not in self._trained:
            return None
        parameters: SlotParameters = getattr(self, kind)
        flat = self._flat(kind)
        if parameters.were_replaced():
            return torch.stack(parameters.checked(list(flat.unbind())))[slots]
        trainable, wanted = parameters.trainable()
        if slots.dim() == 0 and is_host_known(slots) and len(wanted) < 2:
            slot = int(slots)
            if wanted in ([], [slot]):  # the usual case: all slots but that one are frozen
                return trainable[0] if wanted else flat[slot]
        rows = gather_rows(flat.flatten(1), slots, trainable, wanted)
        return rows.reshape(*slots.shape, *flat.shape[1:])

    def _by_slot(self, x: Tensor, slots: Tensor, dim: int = 0) -> tuple[list[_Part], Tensor | None]:
        """The rows of each slot that is present, and the order that they were taken in, for :func:`joined`.

        ``dim`` counts the rows of ``x``. What is computed of a part has the bits that it has alone.
        """
        present, counts = slots.unique_consecutive(return_counts=True)
        order = None
        if not bool((present[1:] > present[:-1]).all()):
            order = slots.argsort(stable=True)
            present, counts = slots[order].unique_consecutive(return_counts=True)
            x = x[order] if dim == 0 else x.index_select(dim, order)  # an index keeps channels_last
        weights, biases = self._rows("weight", present), self._rows("bias", present)
        nothing = [None] * len(present)
        parts = zip(
            present.tolist(),
            x.split(counts.tolist(), dim),
            nothing if weights is None else weights,
            nothing if biases is None else biases,
            strict=True,
        )
        return list(map(_Part._make, parts)), order

    def _of_no_rows(self, x: Tensor, slots: Tensor) -> Tensor:
        """An empty batch ``[0, C, ...]``, which leads the Parameters to gradients of zeros."""
        weight, bias = self._rows("weight", slots), self._rows("bias", slots)
        if weight is None or bias is None:
            return x.clone()
        shape = [*x.shape[:2], *[1] * (x.dim() - 2)]
        return torch.addcmul(bias.reshape(shape), x, weight.reshape(shape)).to(x.dtype)

    def _checked_slots(self, slots: Tensor | int | str | None, x: Tensor) -> Tensor:
        """The slots of a call, in range where looking does not wait for a device."""
        slots = self.resolve_slots(slots, x)
        kind = type(self).__name__
        check_slots(kind, slots, x.shape[self.batch_dim] if x.dim() > self.batch_dim else 0)
        for name in (*self._trained, *self._tracked):
            if self._flat(name).device != x.device:
                raise ValueError(f"{kind}: x must be on the layer's device {self._flat(name).device}, got {x.device}")
        if is_host_known(slots):
            check_range(f"{kind}: slots", slots, self.num_slots)
        return slots

    def _append_slot(self) -> None:
        for kind in (*self._trained, *self._tracked):
            base: Tensor = getattr(self, f"base_{kind}")
            setattr(self, self._flat_name(kind), torch.cat([self._flat(kind), base[None]]))
        for kind in self._trained:
            getattr(self, kind).append(nn.Parameter(self._flat(kind)[-1]))
        self._tie()

    def _tie(self) -> None:
        """Point every Parameter at its row of the flat tensors, which hold the truth."""
        for kind in self._trained:
            getattr(self, kind).tie(list(self._flat(kind).unbind()))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> RowLayer:
        with torch.no_grad():  # what can fail comes before anything is changed
            moved = {f"flat_{kind}": fn(self._flat(kind)) for kind in self._trained}
        super()._apply(fn, recurse)
        for name, rows in moved.items():
            setattr(self, name, rows)
        self._tie()
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._tie()

    # In a state_dict: one tensor of every kind, the base rows, and which slots are frozen.

    def _save_to_state_dict(self, destination: dict[str, Tensor], prefix: str, keep_vars: bool) -> None:
        for kind in self._trained:
            getattr(self, kind).check_memory()
        state = {kind: self._flat(kind) for kind in (*self._trained, *self._tracked)}
        state |= {f"base_{kind}": getattr(self, f"base_{kind}") for kind in (*self._trained, *self._tracked)}
        state["frozen"] = self.frozen
        if self.slot_map is not None:
            state["slot_map"] = self.slot_map
        for name, tensor in state.items():
            destination[prefix + name] = tensor if keep_vars else tensor.detach()
        save_slot_names(self, destination, prefix)

    @changes_what_is_held
    def _load_from_state_dict(
        self,
        state_dict: dict[str, Tensor],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        kinds = (*self._trained, *self._tracked)
        names = {"frozen", *kinds, *(f"base_{kind}" for kind in kinds)}
        given = {name: state_dict[prefix + name] for name in (*names, "slot_map") if prefix + name in state_dict}
        for key in state_dict:
            if key.startswith(prefix) and key[len(prefix) :] not in given:
                unexpected_keys.append(key)
        missing_keys.extend(prefix + name for name in sorted(names - set(given)))
        if any(name not in given for name in ("frozen", *kinds)):
            unexpected_keys.extend(prefix + name for name in given)  # none of them can be taken without those
            return
        found = check_slot_state(self, given, local_metadata)
        num_slots = given["frozen"].numel()
        for kind in kinds:
            row = list(getattr(self, f"base_{kind}").shape)
            for name, shape in ((kind, [num_slots, *row]), (f"base_{kind}", row)):
                if name in given and list(given[name].shape) != shape:
                    found.append(f"{name} must be {shape}, got {list(given[name].shape)}")
        if found:
            error_msgs.extend(f"{prefix}: {problem}" for problem in found)
            return
        as_given = bool(local_metadata.get("assign_to_params_buffers", False))
        self._resize(num_slots)
        for kind in kinds:
            for target, name in ((self._flat_name(kind), kind), (f"base_{kind}", f"base_{kind}")):
                if name in given:  # of new slots only: the layer keeps its own
                    setattr(self, target, taken_from(given[name], getattr(self, target), as_given))
        self._tie()
        slot_map = given.get("slot_map")
        if slot_map is not None:
            slot_map = taken_from(slot_map, self._flat(kinds[0]) if kinds else slot_map, as_given)
        self.slot_map = slot_map
        self._set_frozen_flags(given["frozen"])

    def _resize(self, num_slots: int) -> None:
        for kind in self._trained:
            getattr(self, kind).resize(num_slots, self._flat(kind))
        self.num_slots = num_slots
