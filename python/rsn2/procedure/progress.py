"""What is seen while training: a bar with rich, a line per epoch without it, or nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any


class Silent:
    """Shows nothing."""

    def begin(self, epoch: int, max_epochs: int, num_steps: int, done: int) -> None:
        return

    def step(self) -> None:
        return

    def end(self, record: dict[str, Any]) -> None:
        return


class Lines(Silent):
    """Prints a line per epoch to standard error."""

    def end(self, record: dict[str, Any]) -> None:
        print(summary(record), file=sys.stderr)


class Bar(Silent):
    """A bar that fills with every step of an epoch; finished epochs stay as lines above it."""

    def __init__(self, bar: Any) -> None:
        self.bar = bar
        self.current: Any = None

    def begin(self, epoch: int, max_epochs: int, num_steps: int, done: int) -> None:
        if self.current is not None:
            self.bar.remove_task(self.current)
        self.current = self.bar.add_task(f"epoch {epoch} of at most {max_epochs}", total=num_steps, completed=done)

    def step(self) -> None:
        self.bar.advance(self.current)

    def end(self, record: dict[str, Any]) -> None:
        self.bar.console.print(summary(record), highlight=False)


def summary(record: dict[str, Any]) -> str:
    """One line on an epoch."""
    parts = []
    for task, loss in record["loss"].items():
        text = f"{task}: loss {loss:.4f}"
        if task in record["val_loss"]:
            text += f", validation {record['val_loss'][task]:.4f}"
        for name, value in record["val_metrics"].get(task, {}).items():
            text += f", {name} {value:.4f}"
        parts.append(text)
    return f"epoch {record['epoch']}: {'; '.join(parts)} ({record['seconds']:.1f} s)"


@contextmanager
def shown(progress: bool) -> Iterator[Silent]:
    """A bar where rich is installed and standard error is a terminal, else lines."""
    if not progress:
        yield Silent()
    elif find_spec("rich") is None or not sys.stderr.isatty():
        yield Lines()
    else:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            yield Bar(bar)
