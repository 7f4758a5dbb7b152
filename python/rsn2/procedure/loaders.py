"""Batches of several tasks side by side, for as long as wanted, and from where they were left."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
    """A tensor, or all in tuples, lists and dicts, on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    return _rebuilt(lambda parts: move(parts[0], device), [value]) if _has_parts(value) else value


def num_rows(value: Any) -> int:
    """The rows of a batch's input or target: those of its first tensor where it is a tuple, list or dict."""
    while _has_parts(value) and len(value):
        value = next(iter(value.values() if isinstance(value, Mapping) else value))
    return len(value)


def joined(values: Sequence[Any]) -> Any:
    """Outputs or targets of several batches as those of one."""
    if isinstance(values[0], Tensor):
        return torch.cat(list(values))
    if not _has_parts(values[0]):
        raise TypeError(f"fit: metrics need tensors, or tuples, lists or dicts of them, got {type(values[0]).__name__}")
    return _rebuilt(joined, values)


def _has_parts(value: Any) -> bool:
    return isinstance(value, (tuple, list, Mapping))


def _rebuilt(function: Callable[[list[Any]], Any], values: Sequence[Any]) -> Any:
    """A tuple, list or dict like each of ``values``, with what ``function`` makes of the parts at each place."""
    first = values[0]
    if isinstance(first, Mapping):
        return {key: function([value[key] for value in values]) for key in first}
    parts = [function(list(at_place)) for at_place in zip(*values, strict=True)]
    return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)


def _generators(loader: Any) -> dict[str, torch.Generator]:
    """Where a ``torch.utils.data.DataLoader`` and its samplers draw from, but for torch's own generator."""
    sampler, batch_sampler = getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)
    places = {"loader": loader, "sampler": sampler, "batch_sampler": batch_sampler,
              "sampler of batch_sampler": getattr(batch_sampler, "sampler", None)}  # fmt: skip
    found = {name: getattr(place, "generator", None) for name, place in places.items()}
    return {name: generator for name, generator in found.items() if isinstance(generator, torch.Generator)}


class Cycle:
    """Goes through a loader again and again; its place can be saved and found again.

    A loader with ``state_dict`` and ``load_state_dict`` knows its own place, of which a copy is kept here: others may
    go through the same loader in between. Any other one is replayed: its current pass is started again from the random
    state (torch's, and that of its and its samplers' ``generator``) it had begun with, and batches are skipped.
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
        states = {name: generator.get_state() for name, generator in _generators(self.loader).items()}
        self._pass_start = {"torch": torch.get_rng_state(), "generators": states}
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
            for name, generator in _generators(self.loader).items():
                generator.set_state(state["pass_start"]["generators"][name])
            for _ in range(state["taken"]):
                self.next()
            torch.set_rng_state(now)


def pair(task: str, batch: Any, what: str = "fit") -> tuple[Any, Any]:
    """A batch as input and target."""
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise ValueError(f"{what}: batches of task {task!r} must be (x, y), got {type(batch).__name__}")
    return batch[0], batch[1]
