"""Time on a device: graphs of launches that walk over more weights than the second-level cache holds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .device import StandIn

Call = Callable[[], Any]
SLOW_MS = 50.0
"""A call that takes longer is timed three times only."""


@dataclass(frozen=True)
class Way:
    """One way of doing a point's work.

    Attributes:
        calls: the same work on different copies of the weights, called in turn; one copy is "hot".
        graph: whether the calls are captured and replayed, so that the host's time does not count.
        pick: what of a call's result is compared with the exact one.
    """

    calls: Sequence[Call]
    graph: bool = True
    pick: Callable[[Any], Any] = lambda result: result


@dataclass(frozen=True)
class Pace:
    """How long a way is timed: about ``seconds``, at least ``least`` samples, each of ``sample_ms`` or one round."""

    seconds: float = 0.08
    least: int = 20
    most: int = 200
    sample_ms: float = 0.5
    cap_seconds: float = 0.25


FULL = Pace()
DRY = Pace(seconds=0.0, least=1, most=1, sample_ms=0.0, cap_seconds=0.0)


def time_way(device: StandIn, way: Way, pace: Pace) -> dict[str, Any]:
    """Median and spread of one call, in microseconds.

    Raises:
        RuntimeError: the calls fail.
    """
    first = way.calls[0]
    first()
    single_ms = device.samples_ms(first, 1)[0]
    if single_ms > SLOW_MS:
        return _said(device.samples_ms(first, 3), 1, "slow")
    how, whole = "eager", _round(way.calls)
    if way.graph:
        try:
            whole, how = device.capture(whole), "graph"
        except RuntimeError as error:
            if not device.is_alive():
                raise
            how = f"eager, since it cannot be captured: {str(error).splitlines()[0][:120]}"
    whole()
    round_ms = max(device.samples_ms(whole, 1)[0], 1e-4)
    rounds = max(1, math.ceil(pace.sample_ms / round_ms))
    count = round(1e3 * pace.seconds / (round_ms * rounds))
    count = max(pace.least, min(count, pace.most))
    cap = int(1e3 * pace.cap_seconds / (round_ms * rounds))
    count = max(min(count, cap), min(pace.least, 5))
    return _said(device.samples_ms(whole, count, rounds), rounds * len(way.calls), how)


def _round(calls: Sequence[Call]) -> Call:
    def whole() -> None:
        for call in calls:
            call()

    return whole


def _said(samples_ms: Sequence[float], calls: int, how: str) -> dict[str, Any]:
    each = sorted(1e3 * sample / calls for sample in samples_ms)
    return {
        "us": statistics.median(each),
        "p20": each[int(0.2 * (len(each) - 1))],
        "p80": each[int(0.8 * (len(each) - 1))],
        "samples": len(each),
        "calls": calls,
        "how": how,
    }


def copies(tensors: Sequence[Tensor], cold_bytes: int, most: int = 512) -> list[list[Tensor]]:
    """The tensors, and as many copies as it takes to fill ``cold_bytes`` in all, or ``most``."""
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    count = min(most, max(1, math.ceil(cold_bytes / max(size, 1))))
    return [list(tensors), *([tensor.clone() for tensor in tensors] for _ in range(count - 1))]
