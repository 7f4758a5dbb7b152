"""What is measured: points, each with our call, the alternatives to it, the proof that they agree, and its goals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

BEST_DENSE = "best dense"  # in a goal: the fastest of a point's dense alternatives
SUITES = ("cpu", "sweep")


class Alternative(NamedTuple):
    """One way of doing a point's work.

    Attributes:
        call: the whole call as a user makes it: bias, output, dispatch. What it returns is for ``check``.
        check: calls it, and raises AssertionError where the result is wrong.
    """

    call: Callable[[], Any]
    check: Callable[[], None]


Maker = Callable[[], "Alternative | str"]
"""Makes an alternative when its turn comes; a text instead says why it is absent here."""


class Case(NamedTuple):
    """A point, ready: our call, and the others by name."""

    ours: Alternative
    others: dict[str, Maker]


@dataclass(frozen=True)
class Goal:
    """What our time is to be beside another's.

    Attributes:
        against: the name of an alternative, or ``BEST_DENSE``.
        must, reach: the bar, and what is hoped for.
        at_most: the figure is our time over the other's, and is to be small (where the other is ours, too, with other
            settings). Otherwise it is the other's time over ours, and is to be large.
        work: our work over the other's, by which an ``at_most`` figure is divided.
    """

    against: str
    must: float
    reach: float
    at_most: bool = False
    work: float = 1.0

    def figure(self, ours_ms: float, others_ms: float) -> float:
        return ours_ms / others_ms / self.work if self.at_most else others_ms / ours_ms

    def is_met(self, figure: float, bar: float | None = None) -> bool:
        bar = self.must if bar is None else bar
        return figure <= bar if self.at_most else figure >= bar


@dataclass(frozen=True)
class Point:
    """One line of the results.

    Attributes:
        op: name of the operator.
        what: ``"forward"``, ``"forward+backward"``, ``"gradient of the input"``, ...
        settings: shape, rows, density, slots: what identifies the point beside op and what.
        prepare: makes the case, on tensors of its own.
        dense: names of the alternatives that compete for "best dense".
        goals: what the figures should be.
        dtype: of the values and inputs.
        threads: of PyTorch and the other libraries; its own choice when None.
        quick: whether ``--quick`` measures it.
    """

    op: str
    what: str
    settings: dict[str, Any]
    prepare: Callable[[], Case]
    dense: tuple[str, ...] = ()
    goals: tuple[Goal, ...] = ()
    dtype: str = "float32"
    threads: int | None = None
    quick: bool = False

    @property
    def name(self) -> str:
        words = [self.op, self.what, *(f"{key}={value}" for key, value in self.settings.items())]
        words += [self.dtype] * (self.dtype != "float32")
        return " ".join(words + [f"threads={self.threads}"] * (self.threads is not None))


@dataclass(frozen=True)
class Count:
    """A point that is counted, not timed.

    Attributes:
        count: returns the figures of the line, ``figure`` among them: the one that has a goal.
        goals: of ``figure``; ``against`` says what it is a share of.
    """

    op: str
    what: str
    settings: dict[str, Any]
    count: Callable[[], dict[str, Any]]
    goals: tuple[Goal, ...] = ()
    dtype: str = "float32"
    threads: int | None = None
    quick: bool = True
    name: str = field(init=False)

    def __post_init__(self) -> None:
        words = [self.op, self.what, *(f"{key}={value}" for key, value in self.settings.items())]
        object.__setattr__(self, "name", " ".join(words))


def points(suite: str) -> Iterator[Point | Count]:
    """All points of a suite, the headline first.

    Raises:
        ValueError: there is no such suite.
    """
    from . import memory, sweep
    from .ops import task_conv2d, task_linear, task_linear_gradients, task_linear_scaling

    if suite not in SUITES:
        raise ValueError(f"suite must be one of {', '.join(SUITES)}, got {suite!r}")
    if suite == "sweep":
        yield from sweep.points()
        return
    for module in (task_linear, task_linear_gradients, task_linear_scaling, task_conv2d, memory):
        yield from module.points()
