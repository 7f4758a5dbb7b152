"""The base of all task layers: who owns which weight, and how that changes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from rsn2_kernels import formats
from rsn2_kernels.formats import CapacityError
from rsn2_kernels.nn import _state
from rsn2_kernels.nn._optimizers import check_state, move_state
from rsn2_kernels.nn._slots import check_range
from rsn2_kernels.nn._storage import Storage
from rsn2_kernels.ops._checks import check_slots

_Combine = Callable[[Tensor, Tensor], Tensor]
_Places = tuple[Tensor, Tensor | None]


def _moved(combine: _Combine, zeros: Tensor, order: Tensor, state: Tensor) -> Tensor:
    """An optimizer's state of a slot whose weights change; what comes to it starts at zero."""
    return combine(state, zeros.to(state.dtype))[order]


class TaskLayer(Storage):
    """A layer whose weights are owned by slots, each weight by one at most (Eq. 3 of the paper).

    All values stand in one flat buffer; ``values[t]`` are Parameters that view slot ``t``'s part of it, so that an
    optimizer's step is seen by the operator without a copy, and so are ``bias[t]`` of the ``[T, O]`` bias. They stay
    the same objects through claim, release, ``.to``, ``load_state_dict`` and ``deepcopy`` of other objects: an
    optimizer made before a claim trains what is claimed later.

    Args:
        weight_shape: shape of the layer's weight, ``[O, ...]``.
        num_slots: how many, or their names.
        bias: whether each slot has a bias ``[O]``.
        base: where claims take their starting values from.
        base_bias: starting bias of every slot, or None for the distribution of ``torch.nn.Linear``.
    """

    def forward_relu(self, x: Tensor, slots: Tensor | int | str | None = None) -> Tensor:
        """``relu(forward(x, slots))``, the same bits, computed with the product."""
        return self._run(x, slots, "relu")

    def _run(self, x: Tensor, slots: Tensor | int | str | None, activation: str) -> Tensor:
        raise NotImplementedError

    def _check_probe(self, x: Tensor, slots: Tensor) -> None:
        """What the operator checks of slots, for the products that do not go through it."""
        check_slots(type(self).__name__, slots, x.shape[0])
        check_range(f"{type(self).__name__}: slots", slots, self.num_slots)

    # Changes of ownership.

    def claim(self, slot: int | str, mask: Tensor, *, values: Tensor | None = None, gain: float = 1.0,
              optimizer: Optimizer | None = None) -> None:  # fmt: skip
        """Give free weights to a slot, besides what it owns already.

        Args:
            slot: number or name.
            mask: bool, shape of the weight: the weights to claim.
            values: starting values, shape of the weight, read where ``mask`` is set; the base weights when None.
            gain: factor on the base weights.
            optimizer: a live optimizer over this slot's values; its state moves with the weights, new ones start at
                zero.

        Raises:
            ValueError: the mask does not fit, weights are taken (CapacityError), or the slot is frozen.
            RuntimeError: a backward pass is running, or a live optimizer with state was not passed.
            Nothing is changed then.
        """
        number = self._check_change("claim", slot, mask, optimizer)
        new = mask.to(self.positions.device).flatten().nonzero().squeeze(1)
        if values is None:
            start = None if gain == 1 else self._base_values(new, gain)
        elif tuple(values.shape) == self.weight_shape and values.is_floating_point():
            start = values.detach().to(self.positions.device).reshape(-1)[new]
        else:
            raise ValueError(
                f"claim: values must be float {list(self.weight_shape)}, got {values.dtype} {list(values.shape)}"
            )
        self._give({number: (new, start)}, optimizer)

    def claim_places(self, claims: Mapping[int, _Places] | Mapping[str, _Places], *,
                     optimizer: Optimizer | None = None) -> None:  # fmt: skip
        """Give free weights to several slots at once: what ``claim`` does for each, but indices are derived once.

        Args:
            claims: by slot the flattened indices of the weights, ascending int64 ``[n]``, and their starting values
                ``[n]``, or None for the base weights.
            optimizer: as for :meth:`claim`.

        Raises:
            ValueError, RuntimeError: as for :meth:`claim`; nothing is changed then.
        """
        numbers = {self._check_change("claim_places", slot, None, optimizer): given for slot, given in claims.items()}
        if len(numbers) < len(claims):
            raise ValueError(f"claim_places: a slot must be named once, got {list(claims)}")
        for places, values in numbers.values():
            is_ascending = places.dtype == torch.int64 and places.dim() == 1 and bool((places[1:] > places[:-1]).all())
            if not is_ascending or len(places) and (places[0] < 0 or places[-1] >= self.numel):
                raise ValueError(f"claim_places: indices must be ascending int64 [n] in 0..{self.numel - 1}")
            if values is not None and (values.shape != places.shape or not values.is_floating_point()):
                raise ValueError(
                    f"claim_places: values must be float {list(places.shape)}, got {values.dtype} {list(values.shape)}"
                )
        device = self.positions.device
        self._give(
            {
                number: (places.to(device), None if values is None else values.detach().to(device))
                for number, (places, values) in numbers.items()
            },
            optimizer,
        )

    def _give(self, claims: Mapping[int, _Places], optimizer: Optimizer | None) -> None:
        free = self.free().flatten()
        changes: dict[int, tuple[Tensor, _Combine, Tensor]] = {}
        for number, (new, values) in claims.items():
            available = free[new]
            if not bool(available.all()):
                taken = new[~available]
                owned = {s: changes[s][0] if s in changes else self.owned(s) for s in range(self.num_slots)}
                owners = [self._label(s) for s in owned if bool(torch.isin(owned[s], taken).any())]
                raise CapacityError(
                    f"claim: mask must be free weights only, but {len(taken)} of its {len(new)} are taken "
                    f"by slot {', '.join(owners)}; {int(free.sum())} of {self.numel} are free "
                    "(layer.free() says which)"
                )
            free[new] = False
            start = self._base_values(new) if values is None else values.to(self.flat_values.dtype)
            if not bool(start.isfinite().all()):
                raise ValueError("claim: values must be finite")
            old = self.owned(number)
            indices = torch.cat([old, new]) if len(old) else new
            changes[number] = (indices, lambda kept, fresh: torch.cat([kept, fresh]), start)
        self._replace(changes, optimizer)

    def _base_values(self, places: Tensor, gain: float = 1.0) -> Tensor:
        kind = self.flat_values.dtype
        return self.base.at(places, kind) if gain == 1 else (self.base.at(places, torch.float64) * gain).to(kind)

    def release(self, slot: int | str, mask: Tensor | None = None, *, optimizer: Optimizer | None = None) -> None:
        """Make weights of a slot free again: those of ``mask`` (bool, shape of the weight), or all.

        Raises:
            ValueError: the mask does not fit, names weights that the slot does not own, or the slot is frozen.
            RuntimeError: as for :meth:`claim`.
        """
        number = self._check_change("release", slot, mask, optimizer)
        old = self.owned(number)
        gone = torch.ones_like(old, dtype=torch.bool)
        if mask is not None:
            wanted = mask.to(self.positions.device).flatten()
            gone = wanted[old]
            if int(gone.sum()) != int(wanted.sum()):
                raise ValueError(
                    f"release: mask must name weights of slot {self._label(number)}, "
                    f"but {int(wanted.sum()) - int(gone.sum())} of its {int(wanted.sum())} are not"
                )
        start = self.flat_values.new_zeros(0)
        combine: _Combine = lambda kept, fresh: torch.cat([kept[~gone], fresh])  # noqa: E731
        self._replace({number: (old[~gone], combine, start)}, optimizer)

    def _label(self, slot: int) -> str:
        return repr(self.slot_names[slot]) if self.slot_names else str(slot)

    def _check_change(self, what: str, slot: int | str, mask: Tensor | None, optimizer: Optimizer | None) -> int:
        number = self.slot_index(slot)
        if torch._C._current_graph_task_id() != -1:
            raise RuntimeError(f"{what}: weights cannot change owners while a backward pass is running")
        if mask is None and what == "claim" or mask is not None and not isinstance(mask, Tensor):
            raise TypeError(f"{what}: mask must be a bool tensor {list(self.weight_shape)}, got {type(mask).__name__}")
        if mask is not None and (mask.dtype != torch.bool or tuple(mask.shape) != self.weight_shape):
            raise ValueError(
                f"{what}: mask must be bool {list(self.weight_shape)}, got {mask.dtype} {list(mask.shape)}"
            )
        if number in self._frozen:
            raise ValueError(f"{what}: slot {self._label(number)} is frozen; thaw it first")
        check_state(what, self.values[number], optimizer)
        return number

    def _replace(self, changes: Mapping[int, tuple[Tensor, _Combine, Tensor]], optimizer: Optimizer | None) -> None:
        """Make ``indices`` (flattened, any order) what a slot owns; ``combine(old, start)`` are their values."""
        num_outputs, num_columns = self.weight_shape[0], self._num_columns()
        parts = [value.detach() for value in self.values]
        segments = [formats.segment(self.positions, s) for s in range(self.num_slots)]
        moves = []
        for slot, (indices, combine, start) in changes.items():
            segments[slot], order = self._encoded(indices)
            parts[slot] = combine(parts[slot], start)[order]
            if optimizer is not None:  # of millions of weights, not kept for nothing
                moves.append((self.values[slot], functools.partial(_moved, combine, torch.zeros_like(start), order)))
        counts = [len(part) for part in parts]
        positions = formats.join(segments, counts, num_outputs, num_columns)
        index, flat_values = self._derive_index(positions), torch.cat(parts)
        # A graph recorded before the change must not be differentiated after it: autograd refuses, seeing the version.
        torch.autograd.graph.increment_version(self.flat_values)
        for value, move in moves:
            move_state(optimizer, value, move)
        self.positions, self.index, self.flat_values = positions, index, flat_values
        for slot in changes:
            self.values[slot].grad = None
        self._tie()

    def _encoded(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The segment of a slot that owns ``indices``, in any order, and the order of its values among them."""
        packed = self._to_packed(indices)
        ranking = None if bool((packed[1:] > packed[:-1]).all()) else packed.argsort()
        flat = packed if ranking is None else packed[ranking]
        words, order = formats.encode_slot(flat, self.weight_shape[0], self._num_columns())
        return words, order if ranking is None else ranking[order]

    def read(self, slot: int | str, owners: Sequence[int | str]) -> None:
        """Let the rows of ``slot`` also read the weights of other, frozen slots, without gradients to them.

        This is how PackNet and ExSSNeT use earlier tasks' weights. An empty list ends it. The copy that the kernels
        read is made here; owners must be frozen, so that it stays true.
        """
        number = self.slot_index(slot)
        numbers = tuple(sorted({self.slot_index(owner) for owner in owners}))
        if number in self._frozen:
            raise ValueError(
                f"read: slot {self._label(number)} is frozen, so that what it reads cannot change; thaw it first"
            )
        for owner in numbers:
            if owner == number or owner not in self._frozen:
                raise ValueError(f"read: slot {self._label(owner)} must be another, frozen slot to be read")
        self._reads[number] = numbers
        self._refresh_frozen()

    def reads(self, slot: int | str) -> tuple[int, ...]:
        """The other slots whose weights the rows of ``slot`` read, ascending; see :meth:`read`."""
        return self._reads.get(self.slot_index(slot), ())

    def thaw(self, slot: int | str) -> None:
        number = self.slot_index(slot)
        readers = [self._label(reader) for reader, owners in self._reads.items() if number in owners]
        if readers:
            raise ValueError(
                f"thaw: slot {self._label(number)} is read by slot {', '.join(readers)}, so that it must stay frozen"
            )
        super().thaw(slot)

    def add_slot(self, name: str | None = None) -> int:
        number = super().add_slot(name)
        self._refresh_frozen()  # it has a part for every slot
        return number

    def _refresh_frozen(self) -> None:
        self._reads = {reader: owners for reader, owners in self._reads.items() if owners}
        if not self._reads:
            self.frozen_values = self.frozen_positions = self.frozen_index = None
            return
        segments, parts = [], []
        for slot in range(self.num_slots):
            owners = self._reads.get(slot, ())
            indices = torch.cat([self.owned(owner) for owner in owners] or [self.positions.new_zeros(0)])
            values = torch.cat([self.values[owner].detach() for owner in owners] or [self.flat_values[:0]])
            words, order = self._encoded(indices)
            segments.append(words)
            parts.append(values[order])
        counts = [len(part) for part in parts]
        self.frozen_positions = formats.join(segments, counts, self.weight_shape[0], self._num_columns())
        self.frozen_index = self._derive_index(self.frozen_positions)
        self.frozen_values = torch.cat(parts)

    def _save_to_state_dict(self, destination: dict[str, Tensor], prefix: str, keep_vars: bool) -> None:
        _state.save(self, destination, prefix, keep_vars)

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
        as_given = bool(local_metadata.get("assign_to_params_buffers", False))
        _state.load(self, state_dict, prefix, as_given, missing_keys, error_msgs)
        known = {prefix + name for name in _state.NAMES}
        own = ("values.", "bias.")
        for key in state_dict:
            rest = key[len(prefix) :]
            if key.startswith(prefix) and key not in known and ("." not in rest or rest.startswith(own)):
                unexpected_keys.append(key)
