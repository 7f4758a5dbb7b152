"""Slots that read the weights of other slots besides their own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rsn2_kernels import formats
from rsn2_kernels.nn._slots import changes_what_is_held
from rsn2_kernels.nn._storage import Storage


class ReadingStorage(Storage):
    """The storage of a layer whose slots may also read frozen ones, from a copy in the readers' order."""

    @changes_what_is_held
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

    def dense_weight(self, slot: int | str) -> Tensor:
        """What the rows of ``slot`` are multiplied by, a dense copy: its own values and those it reads, or zero."""
        number = self.slot_index(slot)
        weight = torch.zeros(self.numel, dtype=self.flat_values.dtype, device=self.positions.device)
        for owner in (number, *self.reads(number)):
            weight[self.owned(owner)] = self.values[owner].detach()
        return weight.reshape(self.weight_shape)

    def thaw(self, slot: int | str) -> None:
        number = self.slot_index(slot)
        readers = [self._label(reader) for reader, owners in self._reads.items() if number in owners]
        if readers:
            raise ValueError(
                f"thaw: slot {self._label(number)} is read by slot {', '.join(readers)}, so that it must stay frozen"
            )
        super().thaw(slot)

    @changes_what_is_held
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
