"""A point's line: what agrees is timed, in turns; what does not is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from rsn2.metrics import Timing, time_in_turns

from .registry import BEST_DENSE, Alternative, Count, Goal, Point

REST_SECONDS = 0.03  # threads of OpenMP and onnxruntime spin after a call and would take the cores from the next
DISTURBED = 2.0  # p80 over the fastest call, from which on something else used the machine


class Pace(NamedTuple):
    """How long a point is timed.

    Attributes:
        seconds: for each alternative, on average.
        block: counted calls in a block.
        least, most: blocks of each.
        attempts: how often at most a point is timed when something disturbs it.
        leave_out: alternatives that are not worth the time now.
    """

    seconds: float
    block: int
    least: int
    most: int
    attempts: int
    leave_out: tuple[str, ...] = ()


FULL = Pace(0.7, block=5, least=5, most=40, attempts=3)
SLOW_OR_DULL = ("torch.compile frozen", "torch.compile", "masked dense")
QUICK = Pace(0.1, block=3, least=3, most=12, attempts=1, leave_out=SLOW_OR_DULL)


@contextmanager
def with_threads(number: int | None) -> Iterator[None]:
    """PyTorch uses so many threads; None leaves its own choice."""
    before = torch.get_num_threads()
    if number is not None:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


class Ready(NamedTuple):
    """A point's calls that may be timed, and why the others may not."""

    calls: dict[str, Callable[[], Any]]
    absent: dict[str, str]
    wrong: dict[str, str]


def prove(point: Point, leave_out: Sequence[str] = ()) -> Ready:
    """Make all of a point's calls and compare their results; of ours first, without which nothing is timed."""
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()  # it compiles anew only a few times
    case = point.prepare()
    ready = Ready({}, {}, {})
    makers = {"ours": lambda: case.ours, **case.others}
    for name, make in makers.items():
        if name in leave_out:
            ready.absent[name] = "left out in this run"
            continue
        made: Alternative | str = make()
        if isinstance(made, str):
            ready.absent[name] = made
            continue
        try:
            made.check()
        except AssertionError as error:
            ready.wrong[name] = str(error)
            if name == "ours":
                return ready
            continue
        ready.calls[name] = made.call
    return ready


def in_turns(calls: Mapping[str, Callable[[], object]], pace: Pace) -> dict[str, Timing]:
    """Time all calls in blocks, one block of each in turn, the first call of each not counted."""
    trial = time_in_turns(calls, repeats=1, rest_seconds=REST_SECONDS)
    round_ms = sum(timing.median_ms() for timing in trial.values()) * (pace.block + 1) + 1e3 * REST_SECONDS * len(calls)
    repeats = round(1e3 * pace.seconds * len(calls) / round_ms)
    repeats = max(pace.least, min(repeats, pace.most))
    return time_in_turns(calls, repeats=repeats, block=pace.block, rest_seconds=REST_SECONDS)


def spread(timings: Mapping[str, Timing]) -> float:
    """The largest p80 over the fastest call: little above 1 on a machine that does nothing else.

    Two threads that share a core, since another program has theirs, take whole time slices of 4 or 8 ms, most calls
    alike; only the fastest one shows it.
    """
    return max(timing.quantile_ms(0.8) / min(timing.samples_ms) for timing in timings.values())


def undisturbed(calls: Mapping[str, Callable[[], object]], pace: Pace) -> tuple[dict[str, Timing], int]:
    """Timings, and the attempts made. A disturbed attempt is made anew as a whole; the calmest one counts, whatever
    it says.
    """
    attempts = [in_turns(calls, pace)]
    while len(attempts) < pace.attempts and spread(attempts[-1]) > DISTURBED:
        attempts.append(in_turns(calls, pace))
    return min(attempts, key=spread), len(attempts)


def summary(timing: Timing) -> dict[str, float]:
    return {
        "median": timing.median_ms(),
        "least": min(timing.samples_ms),
        "p20": timing.quantile_ms(0.2),
        "p80": timing.quantile_ms(0.8),
        "calls": len(timing.samples_ms),
    }


def judge(goal: Goal, ours: float, others: Mapping[str, float]) -> dict[str, Any]:
    """A goal's entry in the line; ``verdict`` is ``reach``, ``pass``, ``MISS`` or ``absent``."""
    entry = {"against": goal.against, "must": goal.must, "reach": goal.reach, "at_most": goal.at_most}
    if goal.against not in others:
        return {**entry, "figure": None, "verdict": "absent"}
    figure = goal.figure(ours, others[goal.against])
    verdict = "reach" if goal.is_met(figure, goal.reach) else "pass" if goal.is_met(figure) else "MISS"
    return {**entry, "figure": figure, "verdict": verdict}


def measure(point: Point | Count, pace: Pace) -> dict[str, Any]:
    """The line of a point. One whose own result is wrong has ``wrong["ours"]`` and no times."""
    with with_threads(point.threads):
        line: dict[str, Any] = {
            "op": point.op, "what": point.what, **point.settings, "dtype": point.dtype,
            "threads": torch.get_num_threads(),
        }  # fmt: skip
        if isinstance(point, Count):
            counted = point.count()
            return line | counted | {"goals": [judge(goal, counted["figure"], {goal.against: 1.0})
                                               for goal in point.goals]}  # fmt: skip
        ready = prove(point, pace.leave_out)
        line |= {"absent": ready.absent, "wrong": ready.wrong}
        if "ours" in ready.wrong:
            return line
        timings, attempts = undisturbed(ready.calls, pace)
    median = {name: timing.median_ms() for name, timing in timings.items()}
    ours = median.pop("ours")
    dense = [name for name in point.dense if name in median]
    best = min(dense, key=lambda name: median[name]) if dense else None
    others = dict(median) if best is None else {**median, BEST_DENSE: median[best]}
    return line | {
        "ours_ms": summary(timings["ours"]),
        "others_ms": {name: summary(timings[name]) for name in median},
        "attempts": attempts,
        "ratio": {name: value / ours for name, value in median.items()},
        "best_dense": best,
        "ratio_best_dense": None if best is None else median[best] / ours,
        "goals": [judge(goal, ours, others) for goal in point.goals],
    }
