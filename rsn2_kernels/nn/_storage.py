"""Where the weights of a task layer stand: one flat buffer of values, and the Parameters that view it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from rsn2_kernels import formats
from rsn2_kernels.formats import PackedWeight, SeededBase, StoredBase
from rsn2_kernels.nn._slots import SlotModule, SlotParameters


class Storage(SlotModule):
    """Values, positions and biases of all slots of a layer, and what is asked of them. See :class:`TaskLayer`."""

    flat_values: Tensor
    positions: Tensor
    index: Tensor
    flat_bias: Tensor | None
    base_weight: Tensor | None
    base_bias: Tensor | None
    frozen_values: Tensor | None
    frozen_positions: Tensor | None
    frozen_index: Tensor | None

    def __init__(
        self,
        weight_shape: Sequence[int],
        num_slots: int | Sequence[str],
        bias: bool,
        base: SeededBase | StoredBase,
        base_bias: Tensor | None,
        device: Any,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(num_slots)
        self.weight_shape = tuple(weight_shape)
        self.numel = int(torch.Size(self.weight_shape).numel())
        num_outputs = self.weight_shape[0]
        self.base_seed = base if isinstance(base, SeededBase) else None
        stored = None if isinstance(base, SeededBase) else base.weight.detach().to(device=device, dtype=dtype).clone()
        self.register_buffer("base_weight", stored, persistent=False)
        given = None if base_bias is None else base_bias.detach().to(device=device, dtype=dtype).clone()
        self.register_buffer("base_bias", given, persistent=False)
        self.register_buffer("flat_values", torch.zeros(0, device=device, dtype=dtype), persistent=False)
        positions = formats.empty_positions(self.num_slots, num_outputs, self._num_columns()).to(device)
        self.register_buffer("positions", positions, persistent=False)
        self.register_buffer("index", self._derive_index(positions), persistent=False)
        self.register_buffer("frozen_values", None, persistent=False)
        self.register_buffer("frozen_positions", None, persistent=False)
        self.register_buffer("frozen_index", None, persistent=False)
        self._reads: dict[int, tuple[int, ...]] = {}
        self.values = SlotParameters([nn.Parameter(self.flat_values[:0]) for _ in range(self.num_slots)])
        flat_bias = None
        if bias:
            flat_bias = torch.empty(self.num_slots, num_outputs, device=device, dtype=dtype)
        self.register_buffer("flat_bias", flat_bias, persistent=False)
        self.bias = None
        if flat_bias is not None:
            for slot in range(self.num_slots):
                flat_bias[slot] = self._starting_bias(slot)
            self.bias = SlotParameters([nn.Parameter(row) for row in flat_bias])
        self.probe: Tensor | None = None
        """A dense weight that stands in for every slot's while Algorithm 1 scores weights; None otherwise."""

    # What a kind of layer says of itself.

    def _num_columns(self) -> int:
        raise NotImplementedError

    def _to_packed(self, flat: Tensor) -> Tensor:
        """Flattened indices of the weight -> ``row * K + column`` of the packed matrix."""
        return flat

    def _from_packed(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Rows and columns of the packed matrix -> flattened indices of the weight."""
        return rows * self._num_columns() + columns

    def _derive_index(self, positions: Tensor) -> Tensor:
        raise NotImplementedError

    def _fan_in(self) -> int:
        return self.numel // self.weight_shape[0]

    # Who owns what.

    @property
    def base(self) -> SeededBase | StoredBase:
        """Where claims take their starting values from."""
        if self.base_seed is not None:
            return self.base_seed
        assert self.base_weight is not None
        return StoredBase(self.base_weight)

    def owned(self, slot: int | str) -> Tensor:
        """Flattened indices of the weights that a slot owns, in the order of its values, int64 ``[N]``."""
        return self._from_packed(*formats.coordinates(self.positions, self.slot_index(slot)))

    def mask(self, slot: int | str) -> Tensor:
        """Bool, shape of the weight: what the slot owns."""
        mask = torch.zeros(self.numel, dtype=torch.bool, device=self.positions.device)
        mask[self.owned(slot)] = True
        return mask.reshape(self.weight_shape)

    def free(self) -> Tensor:
        """Bool, shape of the weight: what no slot owns."""
        free = torch.ones(self.numel, dtype=torch.bool, device=self.positions.device)
        for slot in range(self.num_slots):
            free[self.owned(slot)] = False
        return free.reshape(self.weight_shape)

    def density(self, slot: int | str) -> float:
        """Share of all weights that the slot owns."""
        return self.values[self.slot_index(slot)].numel() / self.numel

    def parameters_of(self, slot: int | str) -> list[nn.Parameter]:
        number = self.slot_index(slot)
        return [self.values[number]] + ([] if self.bias is None else [self.bias[number]])

    # Modules, Parameters and buffers are taken out of torch's tables: by name, each would cost half a microsecond of
    # every call.

    def packed(self) -> PackedWeight:
        """The packed weight as the operators take it, with the Parameters that want a gradient."""
        buffers = self._buffers
        own: SlotParameters = self._modules["values"]  # type: ignore[assignment]
        flat, positions, index = buffers["flat_values"], buffers["positions"], buffers["index"]
        assert flat is not None and positions is not None and index is not None
        shape = (self.num_slots, self.weight_shape[0], self._num_columns())
        if own.were_replaced():
            starts = formats.value_starts(positions)
            parts = own.checked(flat.tensor_split(starts[1:-1]) if self.num_slots else [])
            return PackedWeight(torch.cat(parts), positions, index, shape)
        trainable, slots = own.trainable()
        if not slots:
            return PackedWeight(flat, positions, index, shape)
        filled = [place for place, value in enumerate(trainable) if value.numel() > 0]
        if len(filled) < len(slots):
            trainable, slots = [trainable[place] for place in filled], [slots[place] for place in filled]
        return PackedWeight(flat, positions, index, shape, tuple(trainable), tuple(slots))

    def packed_frozen(self) -> PackedWeight | None:
        """The second store that slots read besides their own weights, if any."""
        if self._buffers["frozen_values"] is None:
            return None
        assert self.frozen_values is not None
        assert self.frozen_positions is not None and self.frozen_index is not None
        shape = (self.num_slots, self.weight_shape[0], self._num_columns())
        return PackedWeight(self.frozen_values, self.frozen_positions, self.frozen_index, shape)

    def packed_bias(self) -> tuple[Tensor | None, list[Tensor], list[int]]:
        """The bias of all slots ``[T, O]``, the Parameters that view it and want a gradient, and their slots."""
        flat = self._buffers["flat_bias"]
        if flat is None:
            return None, [], []
        own: SlotParameters = self._modules["bias"]  # type: ignore[assignment]
        if own.were_replaced():
            return torch.stack(own.checked(flat.unbind())), [], []
        return flat, *own.trainable()

    # The views.

    def _starting_bias(self, slot: int) -> Tensor:
        if self.base_bias is not None:
            return self.base_bias
        num_outputs = self.weight_shape[0]
        seed = 0 if self.base_seed is None else self.base_seed.seed
        draws = SeededBase(seed, "uniform", self._fan_in() ** -0.5)
        first = self.numel + slot * num_outputs
        indices = torch.arange(first, first + num_outputs, device=self.positions.device)
        return draws.at(indices, self.flat_values.dtype)

    def _append_slot(self) -> None:
        num_outputs = self.weight_shape[0]
        segments = [formats.segment(self.positions, slot) for slot in range(self.num_slots)]
        counts = [value.numel() for value in self.values]
        empty = self.positions.new_zeros(0)
        positions = formats.join([*segments, empty], [*counts, 0], num_outputs, self._num_columns())
        self.positions = positions.to(self.flat_values.device)
        self.index = self._derive_index(self.positions)
        self.values.append(nn.Parameter(self.flat_values[:0]))
        if self.bias is not None:
            assert self.flat_bias is not None
            row = self._starting_bias(self.num_slots).to(self.flat_bias.dtype)
            self.flat_bias = torch.cat([self.flat_bias, row[None]])
            self.bias.append(nn.Parameter(self.flat_bias[-1]))
        self._tie()

    def _tie(self) -> None:
        """Point every Parameter at its part of the flat buffers, which hold the truth."""
        starts = formats.value_starts(self.positions)
        self.values.tie([self.flat_values[first:last] for first, last in pairwise(starts)])
        if self.bias is not None:
            assert self.flat_bias is not None
            self.bias.tie(self.flat_bias.unbind())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Storage:
        device = self.positions.device
        super()._apply(fn, recurse)
        if self.positions.device != device:
            self.index = self._derive_index(self.positions)
            if self.frozen_positions is not None:
                self.frozen_index = self._derive_index(self.frozen_positions)
        self._tie()
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._tie()
