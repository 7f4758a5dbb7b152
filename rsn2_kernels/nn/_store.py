"""The base of all task layers: who owns which weight, and how that changes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from rsn2_kernels import formats
from rsn2_kernels.formats import CapacityError
from rsn2_kernels.nn import _state
from rsn2_kernels.nn._optimizers import check_state, move_state, note_change
from rsn2_kernels.nn._reading import ReadingStorage
from rsn2_kernels.nn._slots import changes_what_is_held, check_range
from rsn2_kernels.ops._checks import check_slots

_Combine = Callable[[Tensor, Tensor], Tensor]
_Places = tuple[Tensor, Tensor | None]


def _moved(combine: _Combine, zeros: Tensor, order: Tensor, state: Tensor) -> Tensor:
    """An optimizer's state of a slot whose weights change; what comes to it starts at zero."""
    return combine(state, zeros.to(state.dtype))[order]


class TaskLayer(ReadingStorage):
    """A layer whose weights are owned by slots, each weight by one at most (Eq. 3 of the paper).

    All values stand in one flat buffer; ``values[t]`` are Parameters that view slot ``t``'s part of it, so that an
    optimizer's step is seen by the operator without a copy, and so are ``bias[t]`` of the ``[T, O]`` bias. They stay
    the same objects through claim, release, ``.to``, ``load_state_dict`` and ``deepcopy`` of other objects: an
    optimizer made before a claim trains what is claimed later. Only what comes to or from the meta device is new, as in
    any module.

    Limits: a compiled ``forward`` does not see that a Parameter's ``.data`` was replaced, which is an error otherwise.
    ``pickle`` writes the flat buffer once for every Parameter, ``torch.save`` once.

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

    @changes_what_is_held
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
            RuntimeError: a backward pass is running, a live optimizer with state was not passed, the state of the one
                passed is of other weights, the layer is on the meta device, or the memory of a Parameter was replaced.
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

    @changes_what_is_held
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

    @changes_what_is_held
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
        if self.flat_values.is_meta:
            raise RuntimeError(
                f"{what}: the layer is on the meta device, where it has no values; load a state with assign=True, or "
                "move it (to_empty) and load one"
            )
        self._check_memory()
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
        note_change(self.values, changes, optimizer)

    def _save_to_state_dict(self, destination: dict[str, Tensor], prefix: str, keep_vars: bool) -> None:
        _state.save(self, destination, prefix, keep_vars)

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
        _state.load(self, state_dict, prefix, local_metadata, missing_keys, unexpected_keys, error_msgs)
        known = {prefix + name for name in _state.NAMES}
        own = ("values.", "bias.")
        for key in state_dict:
            rest = key[len(prefix) :]
            if key.startswith(prefix) and key not in known and ("." not in rest or rest.startswith(own)):
                unexpected_keys.append(key)
