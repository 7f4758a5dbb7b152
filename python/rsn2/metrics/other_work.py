"""How busy other programs keep the cores while something is timed."""

from __future__ import annotations

import os
import time
from pathlib import Path

DISTURBING = 0.15
"""Cores that others may take from a measurement before it says little. Two threads that wait for each other lose more
than that: where one of them has to share its core, a short call is lucky and a long one is not, so that even ratios
between calls made in turns are wrong.
"""
STAT = Path("/proc/stat")  # of Linux; elsewhere nothing can be said


class OtherWork:
    """Cores that other programs kept busy between ``with OtherWork() as other:`` and its end.

    Attributes:
        cores: their mean number; None where the system does not say.
        num_cores: how many the machine has.
    """

    def __init__(self) -> None:
        self.cores: float | None = None
        self.num_cores = os.cpu_count() or 1

    def __enter__(self) -> OtherWork:
        self._start = _now()
        return self

    def __exit__(self, *_: object) -> None:
        (wall, own, busy), (first_wall, first_own, first_busy) = _now(), self._start
        if busy is not None and first_busy is not None and wall > first_wall:
            others = (busy - first_busy) - (own - first_own)
            self.cores = max(0.0, others / (wall - first_wall))

    def disturbs(self, num_threads: int) -> bool:
        """Whether so many threads had to share cores with them."""
        return self.cores is not None and self.cores > max(0, self.num_cores - num_threads) + DISTURBING


def _now() -> tuple[float, float, float | None]:
    """Seconds: the clock, what this process computed, and what all of them did."""
    return time.perf_counter(), time.process_time(), _busy_seconds()


def _busy_seconds() -> float | None:
    if not STAT.exists():
        return None
    user, nice, system, _idle, _iowait, *interrupts = map(int, STAT.read_text().split("\n", 1)[0].split()[1:9])
    ticks: int = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + sum(interrupts)) / ticks
