"""Mini-batches of tensors in memory, in an order that depends on a seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

_STATE_KEYS = {"epoch", "batch", "seed", "size", "num_rows", "shuffle", "drop_last"}


class TensorBatches:
    """Iterate over `(x, y)` mini-batches; one pass is one epoch.

    The order of epoch e is the permutation of NumPy's `RandomState((seed, e))`: it depends neither on global random
    state nor on what was iterated before, so a run that was killed goes on at the exact batch after `load_state_dict`.
    One gather per batch instead of one Python call per row, as `DataLoader` over a `TensorDataset` makes them.

    Args:
        x: a tensor `[n, ...]`, or anything that `len()` and an int64 index tensor or a slice apply to (`ImageFiles`).
        y: a tensor `[n, ...]`.
        size: rows of a batch; the last one may be smaller.
        shuffle: a new order in every epoch, or the given one.
        seed: of the order, 0 .. 2**32 - 1.
        drop_last: leave out a last batch of fewer rows.
        transform: applied to the rows of `x` of every batch, for example `unit_pixels` or `flat_pixels`.

    Raises:
        ValueError: there is no row or no batch, `x` and `y` differ in length, `size` or `seed` is out of range.
    """

    def __init__(
        self,
        x: Any,
        y: Tensor,
        size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        transform: Callable[[Tensor], Tensor] | None = None,
    ):
        if len(x) != len(y):
            raise ValueError(f"TensorBatches: x and y must have one length, got {len(x)} and {len(y)}")
        if len(y) == 0:
            raise ValueError("TensorBatches: there is no row")
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"TensorBatches: size must be an int of at least 1, got {size!r}")
        if drop_last and len(y) < size:
            raise ValueError(f"TensorBatches: with drop_last there is no batch: {len(y)} rows, size {size}")
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
            raise ValueError(f"TensorBatches: seed must be an int in 0..2**32-1, got {seed!r}")
        self.x, self.y, self.size, self.shuffle, self.seed = x, y, size, shuffle, seed
        self.drop_last, self.transform = drop_last, transform
        self._epoch = 0
        self._batch = 0  # batches of this epoch that were handed out
        self._resumes = False

    def __len__(self) -> int:
        """The number of batches of one epoch."""
        return len(self.y) // self.size if self.drop_last else -(-len(self.y) // self.size)

    @property
    def num_rows(self) -> int:
        """The number of rows in `x` and `y`."""
        return len(self.y)

    def order(self, epoch: int) -> Tensor:
        """The order of the rows in an epoch, int64 `[n]`."""
        if not self.shuffle:
            return torch.arange(len(self.y))
        # NumPy has frozen this stream for good. A torch.Generator would use the low 32 bits of its seed only.
        return torch.from_numpy(np.random.RandomState((self.seed, epoch)).permutation(len(self.y)))

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
        """Start the next epoch, or, right after `load_state_dict`, go on where the state was taken."""
        if self._resumes:
            self._resumes = False
        elif self._batch > 0:  # the last pass was left early
            self._epoch, self._batch = self._epoch + 1, 0
        return self._batches(self._epoch, self._batch)

    def _batches(self, epoch: int, first: int) -> Iterator[tuple[Any, Tensor]]:
        order = self.order(epoch) if self.shuffle else None
        for batch in range(first, len(self)):
            start = batch * self.size
            if order is None:
                x, y = self.x[start : start + self.size], self.y[start : start + self.size]
            else:
                rows = order[start : start + self.size]
                x = self.x[rows.to(self.x.device)] if isinstance(self.x, Tensor) else self.x[rows]
                y = self.y[rows.to(self.y.device)]
            if batch + 1 == len(self):
                self._epoch, self._batch = epoch + 1, 0
            else:
                self._epoch, self._batch = epoch, batch + 1
            yield (x if self.transform is None else self.transform(x)), y

    def state_dict(self) -> dict[str, int | bool]:
        """Where the iteration stands: taken while batch i is worked on, it continues with batch i + 1."""
        return {
            "epoch": self._epoch,
            "batch": self._batch,
            "seed": self.seed,
            "size": self.size,
            "num_rows": self.num_rows,
            "shuffle": self.shuffle,
            "drop_last": self.drop_last,
        }

    def load_state_dict(self, state: dict[str, int | bool]) -> None:
        """Go on from a state of `state_dict`, in the next pass.

        Raises:
            ValueError: the state is of batches of another size, seed, order or number of rows; nothing is changed.
        """
        if state.keys() != _STATE_KEYS:
            raise ValueError(f"load_state_dict: expected the keys {sorted(_STATE_KEYS)}, got {sorted(state)}")
        own = self.state_dict()
        differing = [key for key in sorted(_STATE_KEYS - {"epoch", "batch"}) if state[key] != own[key]]
        if differing:
            detail = ", ".join(f"{key} {state[key]} instead of {own[key]}" for key in differing)
            raise ValueError(f"load_state_dict: the state belongs to other batches: {detail}")
        if state["epoch"] < 0 or not 0 <= state["batch"] < len(self):
            raise ValueError(
                f"load_state_dict: epoch must be at least 0 and batch in 0..{len(self) - 1}, "
                f"got {state['epoch']} and {state['batch']}"
            )
        self._epoch, self._batch, self._resumes = int(state["epoch"]), int(state["batch"]), True


def unit_pixels(images: Tensor) -> Tensor:
    """uint8 images as float32 in 0..1."""
    return images.float().div_(255)


def flat_pixels(images: Tensor) -> Tensor:
    """uint8 images `[B, C, H, W]` as float32 `[B, C * H * W]` in 0..1, what a fully connected network takes."""
    return unit_pixels(images).flatten(1)
