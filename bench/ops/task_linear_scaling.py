"""How our time follows the work: owned weights, rows, tasks held, threads, and sizes that divide nothing.

Every alternative here is ours with one setting changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from .. import proof
from ..measure import with_threads
from ..registry import Alternative, Case, Goal, Point
from .task_linear import Linear, forward, truth
from .task_linear_gradients import forward_backward

TWICE = (2.1, 2.0)  # must and reach of twice the work
FLAT = (1.1, 1.0)
THREADS = (1.8, 1.95)
ODD = (1.3, 1.1)
LARGE = Linear(1000, 1000, 512, 0.10)
CASES: dict[str, Callable[[Linear], Case]] = {"forward": forward, "forward+backward": forward_backward}


def beside(case: Callable[[Any], Case], spec: Any, other: Any, name: str) -> Case:
    """Ours with ``spec``, beside ours with ``other``."""
    return Case(case(spec).ours, {name: lambda: case(other).ours})


def on_threads(ours: Alternative, number: int) -> Alternative:
    """The call on so many threads, which the first call of a block sets; that one is not counted."""

    def call() -> Any:
        if torch.get_num_threads() != number:
            torch.set_num_threads(number)
        return ours.call()

    def check() -> None:
        with with_threads(number):
            ours.check()

    return Alternative(call, check)


def two_over_one(case: Callable[[Any], Case], spec: Any) -> Case:
    ours = case(spec).ours
    return Case(on_threads(ours, 2), {"ours, one thread": lambda: on_threads(ours, 1)})


def threads_point(op: str, what: str, case: Callable[[Any], Case], spec: Any, *, quick: bool = False) -> Point:
    return Point(op, f"{what}, two threads over one", spec.settings, lambda: two_over_one(case, spec),
                 goals=(Goal("ours, one thread", *THREADS),), threads=2, quick=quick)  # fmt: skip


def held(num_held: int) -> Alternative:
    """Rows of two tasks in a layer that holds many. All have the same density: that at which 128 fill the layer."""
    spec = LARGE._replace(density=0.0075, num_slots=2)
    layer = spec.layer(num_held)
    x, slots, groups = spec.rows()
    plain, exact = truth([layer.to_dense(0), layer.to_dense(1)], [x[rows] for rows in groups])

    def call() -> Any:
        with torch.no_grad():
            return layer(x, slots)

    return proof.ours(call, plain, exact, lambda y: [y[rows] for rows in groups])


def points() -> Iterator[Point]:
    for what, case in CASES.items():
        yield threads_point("task_linear", what, case, LARGE, quick=what == "forward")
    yield threads_point("task_linear", "forward", forward, Linear(4096, 4096, 512, 0.10))

    for what, case in CASES.items():
        more = LARGE._replace(density=0.20)
        yield Point("task_linear", f"{what}, twice the weights", more.settings,
                    lambda c=case, m=more: beside(c, m, LARGE, "ours, half the weights"),
                    goals=(Goal("ours, half the weights", *TWICE, at_most=True),))  # fmt: skip
        more = LARGE._replace(B=1024)
        yield Point("task_linear", f"{what}, twice the rows", more.settings,
                    lambda c=case, m=more: beside(c, m, LARGE, "ours, half the rows"),
                    goals=(Goal("ours, half the rows", *TWICE, at_most=True),))  # fmt: skip
        odd, even = Linear(997, 613, 130, 0.10), Linear(1000, 616, 128, 0.10)
        work = odd.O * odd.I * odd.B / (even.O * even.I * even.B)
        yield Point("task_linear", f"{what}, beside 1000x616, 128 rows", odd.settings,
                    lambda c=case, o=odd, e=even: beside(c, o, e, "ours, round size"),
                    goals=(Goal("ours, round size", *ODD, at_most=True, work=work),),
                    quick=what == "forward")  # fmt: skip

    for num_held in (8, 32, 128):
        settings = {**LARGE.settings, "density": 0.0075, "slots": 2, "held": num_held}
        yield Point("task_linear", "forward, many tasks held", settings,
                    lambda n=num_held: Case(held(n), {"ours, two tasks held": lambda: held(2)}),
                    goals=(Goal("ours, two tasks held", *FLAT, at_most=True),), quick=num_held == 128)  # fmt: skip
