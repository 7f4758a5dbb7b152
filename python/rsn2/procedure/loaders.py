"""Batches of several tasks side by side, for as long as wanted, and from where they were left."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


def check_loader(what: str, argument: str, task: str, loader: Any) -> int:
    """The number of batches of a loader, at least one."""
    if not hasattr(loader, "__iter__") or not hasattr(loader, "__len__"):
        raise TypeError(
            f"{what}: {argument} of task {task!r} must be batches (x, y) that can be iterated again and have a length, "
            f"got {type(loader).__name__}"
        )
    if isinstance(loader, Iterator):
        raise TypeError(f"{what}: {argument} of task {task!r} is an iterator, which ends after one pass")
    if len(loader) == 0:
        raise ValueError(f"{what}: {argument} of task {task!r} is empty")
    return len(loader)


def move(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value


class Cycle:
    """Goes through a loader again and again; its place can be saved and found again.

    A loader with ``state_dict`` and ``load_state_dict`` knows its own place, of which a copy is kept here: others may
    go through the same loader in between. Any other one is replayed: its current pass is started again from the random
    state (torch's, and that of its ``generator``) it had begun with, and batches are skipped.
    """

    def __init__(self, task: str, loader: Any) -> None:
        self.task, self.loader = task, loader
        self._iterator: Iterator[Any] | None = None
        self._taken = 0
        self._pass_start: dict[str, Any] = {}
        self._place: dict[str, Any] | None = None
        self._knows_place = hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")

    def next(self) -> tuple[Any, Any]:
        """The next batch, of the next pass where this one has ended."""
        batch = None if self._iterator is None else next(self._iterator, None)
        if batch is None:
            self._iterator = self._start()
            batch = next(self._iterator, None)
            if batch is None:
                raise ValueError(f"fit: train of task {self.task!r} is empty")
        self._taken += 1
        if self._knows_place:
            self._place = self.loader.state_dict()
        return pair(self.task, batch)

    def _start(self) -> Iterator[Any]:
        if self._place is not None:
            self.loader.load_state_dict(self._place)
        self._taken = 0
        self._pass_start = {"torch": torch.get_rng_state()}
        generator = getattr(self.loader, "generator", None)
        if isinstance(generator, torch.Generator):
            self._pass_start["generator"] = generator.get_state()
        return iter(self.loader)

    def state_dict(self) -> dict[str, Any]:
        if self._knows_place:
            return {"place": self._place}
        return {"taken": self._taken, "pass_start": self._pass_start}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._iterator = None
        if self._knows_place:
            self._place = state["place"]
        elif state["taken"]:
            now = torch.get_rng_state()
            torch.set_rng_state(state["pass_start"]["torch"])
            if "generator" in state["pass_start"]:
                self.loader.generator.set_state(state["pass_start"]["generator"])
            for _ in range(state["taken"]):
                self.next()
            torch.set_rng_state(now)


def pair(task: str, batch: Any, what: str = "fit") -> tuple[Any, Any]:
    """A batch as input and target."""
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise ValueError(f"{what}: batches of task {task!r} must be (x, y), got {type(batch).__name__}")
    return batch[0], batch[1]
