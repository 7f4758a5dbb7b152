"""The points of `python -m bench.run --suite cpu` for pytest-benchmark: `pytest --benchmark-only bench/`.

Results are compared first here, too. A point's alternatives form a group; they run one after another, so that for
ratios between them `python -m bench.run`, which takes turns, is the one to trust.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest

from bench.measure import Ready, prove, with_threads
from bench.registry import BEST_DENSE, Point, points

POINTS = {point.name: point for point in points("cpu") if isinstance(point, Point)}
LEFT_OUT = ("torch.compile frozen", "torch.compile")
ROUNDS = 20


@functools.lru_cache(maxsize=1)
def ready(name: str) -> Ready:
    with with_threads(POINTS[name].threads):
        return prove(POINTS[name], LEFT_OUT)


def names(point: Point) -> list[str]:
    """Ours, the dense alternatives, and what else a goal names."""
    found = dict.fromkeys(("ours", *point.dense, *(goal.against for goal in point.goals)))
    return [name for name in found if name not in (BEST_DENSE, *LEFT_OUT)]


def identifier(name: str, who: str) -> str:
    """What ``pytest -k`` takes words of: ``-k "rows:512 and density:0.1"``."""
    return f"{name} {who}".replace(", ", " ").replace(" ", "-").replace("=", ":")


CASES = [(name, who) for name, point in POINTS.items() for who in names(point)]


@pytest.mark.parametrize(("name", "who"), CASES, ids=[identifier(*case) for case in CASES])
def test_point(benchmark: Any, name: str, who: str) -> None:
    found = ready(name)
    assert "ours" not in found.wrong, found.wrong
    if who not in found.calls:
        pytest.skip(found.absent.get(who) or found.wrong.get(who) or "not an alternative for this type")
    benchmark.group = name
    with with_threads(POINTS[name].threads):
        benchmark.pedantic(found.calls[who], rounds=ROUNDS, warmup_rounds=2)
