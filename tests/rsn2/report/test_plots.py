"""Figures of experiments become pictures."""

from __future__ import annotations

import pytest

from rsn2.experiments.figure import Figure, Series
from rsn2.report import charts
from rsn2.report.charts import Dot
from rsn2.report.plots import dots, draw, places_of

SVG = "{http://www.w3.org/2000/svg}"


def figure(kind: str = "lines", **options) -> Figure:
    series = (Series("ours", ((8, (70.0, 90.0)), (2, (95.0,)))), Series("theirs", ((2, (91.0,)), (4, (85.0,)))))
    return Figure("t", "c", "tasks", "accuracy, %", series, kind, **options)  # type: ignore[arg-type]


def test_places_are_in_order():
    assert places_of(figure()) == [2, 4, 8]
    named = Figure("t", "", "", "", (Series("a", (("x", (1.0,)), ("b", (1.0,)))), Series("b", (("a", (1.0,)),))))
    assert places_of(named) == ["x", "b", "a"]


def test_lines_have_a_marker_per_mean_at_its_place(parsed, svg_of):
    svg = parsed(svg_of(draw(figure(lowest=60.0))))
    circles = [(float(c.get("cx")), float(c.get("cy"))) for c in svg.iter(f"{SVG}circle")]
    squares = [p for p in svg.iter(f"{SVG}path") if p.get("class") == "marker"]
    assert len(circles) == 2 and len(squares) == 2, "the second series has another marker"
    assert circles[0][0] < circles[1][0] and circles[0][1] < circles[1][1], "95 % stands above 80 %"
    words = [text.text for text in svg.iter(f"{SVG}text")]
    assert "tasks" in words and "accuracy, %" in words and "60" in words and "0" not in words


def test_places_keep_their_distance(parsed, svg_of):
    svg = parsed(svg_of(draw(figure())))
    x = {text.text: float(text.get("x")) for text in svg.iter(f"{SVG}text") if text.get("text-anchor") == "middle"}
    assert x["8"] - x["4"] == pytest.approx(2 * (x["4"] - x["2"]), abs=0.3)


def test_long_labels_go_into_a_key():
    series = (Series("a label that is long", ((1, (1.0,)), (2, (2.0,)))),)
    drawn = draw(Figure("t", "", "x", "y", series))
    assert drawn.startswith('<ul class="key">') and "a label that is long" in drawn
    assert not draw(figure()).startswith("<ul")


def test_bars_have_a_whisker_where_there_are_seeds(parsed):
    svg = parsed(draw(figure("bars", digits=1)))
    words = [text.text for text in svg.iter(f"{SVG}text")]
    assert words == ["2 · ours", "95.0", "2 · theirs", "91.0", "4 · theirs", "85.0", "8 · ours", "80.0"]
    assert len(list(svg.iter(f"{SVG}path"))) == 1


def test_dots_stand_in_rows(parsed, svg_of):
    svg = parsed(svg_of(draw(figure("dots"))))
    assert [text.text for text in svg.iter(f"{SVG}text")][-3:] == ["2", "4", "8"]
    circles = [float(c.get("cx")) for c in svg.iter(f"{SVG}circle")]
    assert len(circles) == 2 and circles[0] > circles[1], "95 is right of 80"


def test_dots_beside_zero(parsed):
    rows = [("a", [Dot(1.0, "#000000", "x", 0.5, 1.5)]), ("b", [])]
    svg = parsed(dots("t", rows, "points", "zero"))
    words = [text.text for text in svg.iter(f"{SVG}text")]
    assert "zero" in words and "a" in words and "b" in words
    assert all(0 <= float(text.get("x")) <= charts.WIDTH for text in svg.iter(f"{SVG}text"))


def test_one_place_and_equal_values_are_drawn(parsed, svg_of):
    for kind in ("lines", "bars", "dots"):
        one = Figure("t", "", "x", "y", (Series("a", ((3, (0.0,)),)),), kind)  # type: ignore[arg-type]
        assert list(parsed(svg_of(draw(one))).iter(f"{SVG}text"))
