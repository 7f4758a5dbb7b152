from __future__ import annotations

import math

import pytest

from rsn2.metrics import backward_transfer, forgetting

NAN = math.nan
RESULTS = [
    [0.9, NAN, None],
    [0.95, 0.8, None],  # task 0 got better ...
    [0.7, 0.75, 0.6],  # ... and then much worse
]


def test_forgetting_counts_from_the_best_result():
    assert forgetting(RESULTS) == pytest.approx(((0.95 - 0.7) + (0.8 - 0.75)) / 2)


def test_backward_transfer_counts_from_the_own_stage():
    assert backward_transfer(RESULTS) == pytest.approx(((0.7 - 0.9) + (0.75 - 0.8)) / 2)


def test_losses_have_the_opposite_sign():
    losses = [[0.5, NAN], [0.8, 0.1]]
    assert forgetting(losses, higher_is_better=False) == pytest.approx(0.3)
    assert backward_transfer(losses, higher_is_better=False) == pytest.approx(-0.3)


def test_a_network_that_never_changes_an_old_task():
    kept = [[0.9, NAN], [0.9, 0.8]]
    assert forgetting(kept) == 0 and backward_transfer(kept) == 0


@pytest.mark.parametrize(
    "results, message",
    [
        ([[0.9]], "at least two stages, got 1"),
        ([], "at least two stages, got 0"),
        ([[0.9, NAN], [0.9]], "square, got 1 values in row 1 of 2"),
        ([[0.9, NAN], [NAN, 0.8]], "task 0 after stage 1 is missing"),
    ],
)
def test_bad_tables(results, message):
    for function in (forgetting, backward_transfer):
        with pytest.raises(ValueError, match=message):
            function(results)
