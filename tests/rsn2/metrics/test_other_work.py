from __future__ import annotations

import os
import time

import pytest

from rsn2.metrics import OtherWork, other_work


@pytest.fixture
def clocks(monkeypatch):
    """The clock, seconds of this process and /proc/stat, each read twice."""

    def set_to(wall, own, stat):
        monkeypatch.setattr(time, "perf_counter", iter(wall).__next__)
        monkeypatch.setattr(time, "process_time", iter(own).__next__)
        monkeypatch.setattr(other_work, "_busy_seconds", iter(stat).__next__)
        monkeypatch.setattr(os, "cpu_count", lambda: 4)

    return set_to


def test_what_others_computed_is_all_less_our_own(clocks):
    clocks(wall=(10.0, 12.0), own=(1.0, 4.0), stat=(100.0, 106.0))
    with OtherWork() as other:
        pass
    assert other.cores == pytest.approx(1.5) and other.num_cores == 4
    assert [other.disturbs(threads) for threads in (1, 2, 3, 4)] == [False, False, True, True]


def test_idle_machines_disturb_nobody(clocks):
    clocks(wall=(10.0, 12.0), own=(1.0, 4.0), stat=(100.0, 103.0))
    with OtherWork() as other:
        pass
    assert other.cores == 0 and not other.disturbs(4)


def test_nothing_is_said_where_the_system_does_not_tell(monkeypatch, tmp_path):
    monkeypatch.setattr(other_work, "STAT", tmp_path / "absent")
    with OtherWork() as other:
        pass
    assert other.cores is None and not other.disturbs(1000)


def test_busy_seconds_leave_out_waiting(monkeypatch, tmp_path):
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 20 30 9999 8888 4 5 6 77 0\ncpu0 1 2 3 4 5 6 7 8 9 0\n")
    monkeypatch.setattr(other_work, "STAT", stat)
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_CLK_TCK": 100}[name])
    assert other_work._busy_seconds() == pytest.approx(1.65)


def test_our_own_seconds_are_among_all():
    busy, own = other_work._busy_seconds(), time.process_time()
    while time.process_time() < own + 0.3:
        pass
    assert other_work._busy_seconds() - busy > 0.25  # it counts in hundredths, for each core
