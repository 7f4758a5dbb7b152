from __future__ import annotations

import pytest

from rsn2.metrics import Timing, time_in_turns


def test_functions_take_turns():
    calls = []
    timings = time_in_turns(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=3, block=2, warmups=1
    )
    assert calls == (["a"] * 3 + ["b"] * 3) * 3
    assert set(timings) == {"a", "b"}
    for timing in timings.values():
        assert len(timing.samples_ms) == 6 and min(timing.samples_ms) >= 0


def test_statistics():
    timing = Timing((5.0, 1.0, 4.0, 2.0, 3.0))
    assert timing.median_ms() == 3
    assert [timing.quantile_ms(share) for share in (0.01, 0.2, 0.21, 0.8, 1.0)] == [1, 1, 2, 4, 5]
    for share in (0, 1.1):
        with pytest.raises(ValueError, match=r"share must be in \(0, 1\]"):
            timing.quantile_ms(share)


def test_bad_arguments():
    for options in (
        {"functions": {}},
        {"functions": {"a": int}, "repeats": 0},
        {"functions": {"a": int}, "block": 0},
        {"functions": {"a": int}, "warmups": -1},
        {"functions": {"a": int}, "rest_seconds": -1},
    ):
        with pytest.raises(ValueError, match="time_in_turns: expected functions"):
            time_in_turns(**options)
