"""Early stopping as the paper's experiments have it."""

from __future__ import annotations

import pytest

import rsn2
from rsn2.procedure.history import Patience


def test_only_more_than_min_delta_counts_as_better() -> None:
    settings = rsn2.EarlyStopping(patience=2, min_delta=0.1)
    patience = Patience()
    losses = [1.0, 0.95, 0.85, 0.76, 0.7]
    assert [patience.is_better(loss, settings) for loss in losses] == [True, False, True, False, True]
    assert patience.best == 0.7 and patience.waited == 0


def test_improvements_add_up_against_the_best() -> None:
    """0.93 is 0.07 below the best, and 0.85 is 0.15 below it, although each step is small."""
    settings, patience = rsn2.EarlyStopping(min_delta=0.1), Patience()
    assert [patience.is_better(loss, settings) for loss in (1.0, 0.93, 0.85)] == [True, False, True]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"patience": 0}, "patience"), ({"patience": 1.5}, "patience"), ({"min_delta": -0.1}, "min_delta"),
     ({"min_delta": float("nan")}, "min_delta")],
)  # fmt: skip
def test_settings_are_checked(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=f"EarlyStopping: {message} must be"):
        rsn2.EarlyStopping(**wrong)
