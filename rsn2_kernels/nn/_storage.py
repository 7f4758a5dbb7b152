"""Where the weights of a task layer stand: one flat buffer of values, and the Parameters that view it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from rsn2_kernels import formats
from rsn2_kernels.formats import PackedWeight, SeededBase, StoredBase
from rsn2_kernels.nn._slots import SlotModule, SlotParameters, changes_what_is_held, moved_numbers

_FLOATS = ("flat_values", "flat_bias", "base_weight", "base_bias", "frozen_values")


class Storage(SlotModule):
    """Values, positions and biases of all slots of a layer, and what is asked of them. See :class:`TaskLayer`.

    None of its tensors is a buffer. The flat ones are the memory of the Parameters: whoever copies or averages
    Parameters and buffers one after another, as ``torch.optim.swa_utils`` does, would write it twice. Positions and
    what is derived from them must never be averaged. Those stay on the CPU where the layer is on the meta device, of
    which numbers cannot be read.
    """

    flat_values: Tensor
    positions: Tensor
    index: Tensor
    flat_bias: Tensor | None
    base_weight: Tensor | None
    base_bias: Tensor | None
    frozen_values: Tensor | None
    frozen_positions: Tensor | None
    frozen_index: Tensor | None

    @changes_what_is_held
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
        flat = torch.zeros(0, device=device, dtype=dtype)
        self.flat_values = flat
        self.base_seed = base if isinstance(base, SeededBase) else None
        self.base_weight = None if isinstance(base, SeededBase) else base.weight.detach().to(flat, copy=True)
        self.base_bias = None if base_bias is None else base_bias.detach().to(flat, copy=True)
        where = torch.device("cpu") if flat.is_meta else flat.device
        with where:
            positions = formats.empty_positions(self.num_slots, num_outputs, self._num_columns())
            self.positions = positions.to(where)
            self.index = self._derive_index(self.positions)
        self.frozen_values = self.frozen_positions = self.frozen_index = None
        self._reads: dict[int, tuple[int, ...]] = {}
        self.values = SlotParameters([nn.Parameter(flat[:0]) for _ in range(self.num_slots)])
        self.flat_bias = None
        self.bias = None
        if bias:
            self.flat_bias = flat.new_empty(self.num_slots, num_outputs)
            for slot in range(self.num_slots):
                self.flat_bias[slot] = self._starting_bias(slot)
            self.bias = SlotParameters([nn.Parameter(row) for row in self.flat_bias])
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

    def _label(self, slot: int) -> str:
        return repr(self.slot_names[slot]) if self.slot_names else str(slot)

    # Modules are taken out of torch's tables: by name, each would cost half a microsecond of every call.

    def packed(self) -> PackedWeight:
        """The packed weight as the operators take it, with the Parameters that want a gradient."""
        own: SlotParameters = self._modules["values"]  # type: ignore[assignment]
        flat, positions, index = self.flat_values, self.positions, self.index
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
        if self.frozen_values is None:
            return None
        assert self.frozen_positions is not None and self.frozen_index is not None
        shape = (self.num_slots, self.weight_shape[0], self._num_columns())
        return PackedWeight(self.frozen_values, self.frozen_positions, self.frozen_index, shape)

    def packed_bias(self) -> tuple[Tensor | None, list[Tensor], list[int]]:
        """The bias of all slots ``[T, O]``, the Parameters that view it and want a gradient, and their slots."""
        flat = self.flat_bias
        if flat is None:
            return None, [], []
        own: SlotParameters = self._modules["bias"]  # type: ignore[assignment]
        if own.were_replaced():
            return torch.stack(own.checked(flat.unbind())), [], []
        return flat, *own.trainable()

    def _encoded(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The segment of a slot that owns ``indices``, in any order, and the order of its values among them."""
        packed = self._to_packed(indices)
        ranking = None if bool((packed[1:] > packed[:-1]).all()) else packed.argsort()
        flat = packed if ranking is None else packed[ranking]
        words, order = formats.encode_slot(flat, self.weight_shape[0], self._num_columns())
        return words, order if ranking is None else ranking[order]

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
        self.positions = positions.to(self.positions.device)
        self.index = self._derive_index(self.positions)
        self.values.append(nn.Parameter(self.flat_values[:0]))
        if self.bias is not None:
            assert self.flat_bias is not None
            row = self._starting_bias(self.num_slots).to(self.flat_bias)
            self.flat_bias = torch.cat([self.flat_bias, row[None]])
            self.bias.append(nn.Parameter(self.flat_bias[-1]))
        self._tie()

    def _check_memory(self) -> None:
        """Refuse to look at values of which somebody has replaced the memory."""
        self.values.check_memory()
        if self.bias is not None:
            self.bias.check_memory()

    def _tie(self) -> None:
        """Point every Parameter at its part of the flat buffers, which hold the truth."""
        starts = formats.value_starts(self.positions)
        self.values.tie([self.flat_values[first:last] for first, last in pairwise(starts)])
        if self.bias is not None:
            assert self.flat_bias is not None
            self.bias.tie(self.flat_bias.unbind())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Storage:
        # All that can fail comes before anything is changed.
        self._check_memory()
        moved = {name: fn(tensor) for name in _FLOATS if (tensor := getattr(self, name)) is not None}
        wrong = [str(tensor.dtype) for tensor in moved.values() if not tensor.is_floating_point()]
        if wrong:
            raise TypeError(f"{type(self).__name__}: the weights must stay real numbers, got {wrong[0]}")
        for store in ("", "frozen_"):
            positions, index = getattr(self, f"{store}positions"), getattr(self, f"{store}index")
            if positions is not None:
                there = moved_numbers(fn, positions)
                is_here = there.device == positions.device
                moved[f"{store}positions"] = there
                moved[f"{store}index"] = moved_numbers(fn, index) if is_here else self._derive_index(there)
        super()._apply(fn, recurse)
        for name, tensor in moved.items():
            setattr(self, name, tensor)
        self._tie()
        return self

    def __getstate__(self) -> dict[str, Any]:
        self._check_memory()  # a copy would go back to what the Parameters were
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._tie()
