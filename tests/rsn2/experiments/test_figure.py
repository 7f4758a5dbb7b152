"""Lines of results become series."""

from __future__ import annotations

from rsn2.experiments.figure import Series, series_of


def test_lines_with_one_place_are_the_seeds_of_one_point():
    lines = [{"n": 8, "v": 1.0}, {"n": 2, "v": 2.0}, {"n": 8, "v": 3.0}, {"n": None, "v": 4.0}, {"n": 4, "v": None}]
    series = series_of("s", lines, lambda line: line["n"], lambda line: line["v"])
    assert series == Series("s", ((2, (2.0,)), (8, (1.0, 3.0))))


def test_names_stay_in_their_order():
    series = series_of("s", [{"n": "b"}, {"n": "a"}, {"n": "b"}], lambda line: line["n"], lambda line: 1.0)
    assert series.points == (("b", (1.0, 1.0)), ("a", (1.0,)))


def test_no_lines_are_an_empty_series():
    assert series_of("s", [], lambda line: 1, lambda line: 1.0).points == ()
