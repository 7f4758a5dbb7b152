"""What the report shows of the ensemble."""

from __future__ import annotations

import pytest

from rsn2.experiments.exp1 import NAMES, fashion_ensemble


def lines(seed: int, settings_hash: str, *accuracies: float) -> list[dict]:
    found = [{"seed": seed, "settings_hash": settings_hash, "metrics": {"tasks": {name: {"accuracy": value}}}}
             for name, value in zip(NAMES, accuracies, strict=False)]  # fmt: skip
    if len(found) == 5:
        found[-1]["metrics"]["tasks"]["ensemble"] = {"accuracy": accuracies[5]}
    return found


def test_what_the_ensemble_adds():
    experiment = fashion_ensemble()
    current = experiment.units((0,), ("ours",))[0].settings_hash
    given = [
        *lines(0, current, 0.90, 0.91, 0.92, 0.91, 0.91, 0.925),
        *lines(1, current, 0.90, 0.91, 0.92),  # not whole yet
        *lines(2, "of before", 0.90, 0.91, 0.92, 0.91, 0.91, 0.925),
    ]
    (figure,) = experiment.figures(given)
    mean, best = (dict(series.points) for series in figure.series)
    assert list(mean) == list(best) == ["seed 0"]
    assert mean["seed 0"] == pytest.approx((1.5,)) and best["seed 0"] == pytest.approx((0.5,))
    assert experiment.figures(given[5:]) == []
