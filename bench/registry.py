"""What is measured: points, each with our call, the baselines' calls, and the proof that they compute the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple


class Point(NamedTuple):
    """One line of the results.

    Attributes:
        op: name of the operator.
        what: ``"forward"`` or ``"forward+backward"``.
        settings: shape, density, rows, slots: what identifies the point.
        prepare: returns our call, the baselines' calls by name (a string in place of a call says why it is absent), and
            a check that raises AssertionError where results differ.
        dense: names of the baselines that compete for "best dense".
    """

    op: str
    what: str
    settings: dict[str, Any]
    prepare: Callable[[], Case]
    dense: tuple[str, ...]

    @property
    def name(self) -> str:
        return " ".join([self.op, self.what, *(f"{key}={value}" for key, value in self.settings.items())])


class Case(NamedTuple):
    """A point's calls, ready to be timed."""

    ours: Callable[[], Any]
    baselines: dict[str, Callable[[], Any] | str]
    check: Callable[[], None]


def points(suite: str) -> Iterator[Point]:
    """All points of a suite, the headline first."""
    from bench.ops import task_conv2d, task_linear

    if suite != "cpu":
        raise ValueError(f"suite must be 'cpu', got {suite!r}")
    yield from task_linear.points()
    yield from task_conv2d.points()
