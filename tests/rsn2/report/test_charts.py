"""Pictures are valid XML, need nothing else, and show their numbers."""

from __future__ import annotations

import base64
import io
import re
import xml.etree.ElementTree as ElementTree

import pytest
import torch
from PIL import Image

from rsn2.report import charts, markdown, page
from rsn2.report.charts import Bar, Line
from rsn2.report.owner_picture import FREE_COLOUR, owner_picture, png_of

SVG = "{http://www.w3.org/2000/svg}"


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def test_bars_are_as_long_as_their_values():
    svg = parsed(
        charts.bars(
            "two",
            [Bar("a", ((3.0, "#000000", "x"), (1.0, "#ffffff", "y")), "4"), Bar("b", ((2.0, "#000000", "z"),), "2")],
        )
    )
    widths = [float(rect.get("width")) for rect in svg.iter(f"{SVG}rect")]
    assert widths[0] == pytest.approx(3 * widths[1], rel=0.01) and widths[2] == pytest.approx(2 * widths[1], rel=0.01)
    assert [text.text for text in svg.iter(f"{SVG}text")] == ["a", "4", "b", "2"]


def test_bars_stay_inside_the_picture():
    items = [
        Bar("a", ((5.0, "#000000", "x"),), "a long label 5.00 ms", low=4.0, high=7.0),
        Bar("b", ((0.0, "#000000", "x"),), "0"),
    ]
    for rect in parsed(charts.bars("t", items)).iter(f"{SVG}rect"):
        assert float(rect.get("x")) + float(rect.get("width")) < charts.WIDTH


def test_all_zero_bars_are_drawn():
    assert len(list(parsed(charts.bars("t", [Bar("a", ((0.0, "#000000", "x"),), "0")])).iter(f"{SVG}rect"))) == 1


def test_lines_draw_a_point_per_known_value():
    svg = parsed(
        charts.lines(
            "t", ["1\na", "2", "3"], [Line("x", (1.0, 1.0, 1.0), "#0"), Line("y", (None, 0.5, 2.0), "#1")], "loss"
        )
    )
    points = [(float(c.get("cx")), float(c.get("cy"))) for c in svg.iter(f"{SVG}circle")]
    assert len(points) == 5
    assert points[0][1] == points[1][1] == points[2][1], "an unchanged loss is a flat line"
    assert points[4][1] < points[0][1] < points[3][1], "a higher loss stands higher"
    assert all(0 <= x <= charts.WIDTH for x, _ in points)


def test_labels_of_equal_lines_do_not_overlap():
    svg = parsed(charts.lines("t", ["1", "2"], [Line(name, (1.0, 1.0), "#0") for name in "abc"], "loss"))
    heights = sorted(float(t.get("y")) for t in svg.iter(f"{SVG}text") if t.text in "abc")
    assert all(after - before >= charts.TEXT_SIZE for before, after in zip(heights, heights[1:], strict=False))


def test_a_single_stage_and_zero_losses_are_drawn():
    svg = parsed(charts.lines("t", ["1"], [Line("x", (0.0,), "#0")], "loss"))
    assert len(list(svg.iter(f"{SVG}circle"))) == 1


def test_labels_are_text_not_markup():
    assert "<b>" not in charts.bars("<b>", [Bar("<b>", ((1.0, "#0", "<b>"),), "<b>")])
    assert "<i>" not in page.table(["<i>"], []) and "<i>" not in page.figure("", "<i>")


def picture_of(image: str) -> Image.Image:
    encoded = re.search(r"base64,([^\"]+)", image).group(1)
    return Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")


def test_owner_picture_has_one_dot_per_weight_in_its_owners_colour():
    first, second = torch.zeros(3, 5, dtype=torch.bool), torch.zeros(3, 5, dtype=torch.bool)
    first[0, 4], second[2, 1] = True, True
    image = picture_of(owner_picture([first, second], "t"))
    assert image.size == (5, 3)
    rgb = {colour: tuple(bytes.fromhex(colour[1:])) for colour in (FREE_COLOUR, *page.SERIES)}
    assert image.getpixel((4, 0)) == rgb[page.SERIES[0]]
    assert image.getpixel((1, 2)) == rgb[page.SERIES[1]]
    assert image.getpixel((0, 0)) == rgb[FREE_COLOUR]


def test_owner_picture_shows_a_corner():
    picture = owner_picture([torch.ones(40, 50, dtype=torch.bool)], "t", corner=8, pixels=3)
    assert picture_of(picture).size == (8, 8) and 'width="24" height="24"' in picture


def test_owner_picture_refuses_shared_weights():
    mask = torch.ones(2, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="masks must not overlap, but slot 1"):
        owner_picture([mask, mask], "t")
    with pytest.raises(ValueError, match="must not be empty"):
        owner_picture([], "t")


def test_png_refuses_what_it_cannot_hold():
    with pytest.raises(ValueError, match="indices must be in 0..1, got 0..2"):
        png_of(torch.tensor([[0, 2]]), ["#000000", "#ffffff"])
    with pytest.raises(ValueError, match=r"indices must be \[H, W\]"):
        png_of(torch.zeros(3, dtype=torch.int64), ["#000000"])


def test_markdown_table():
    assert markdown.table(["a", "b"], [["x|y", "1"]]) == "| a | b |\n| --- | ---: |\n| x\\|y | 1 |\n"
    with pytest.raises(ValueError, match="every row must have 2 cells"):
        markdown.table(["a", "b"], [["x"]])


def test_parts_of_a_bar_are_numbered_where_there_is_room():
    bar = Bar("a", ((50.0, "#0072B2", "x"), (1.0, "#E69F00", "y"), (49.0, "#E69F00", "z")), "", numbers=("1", "2", "3"))
    words = [(t.text, t.get("fill")) for t in parsed(charts.bars("t", [bar])).iter(f"{SVG}text")]
    assert words[:3] == [("a", None), ("1", "#fff"), ("3", "#000")]


def test_markers_differ_by_shape():
    drawn = {charts.marker(shape, 50, 50, "#000000") for shape in range(7)}
    assert len(drawn) == 7 and charts.marker(7, 50, 50, "#000000") in drawn
    assert 'fill="none"' in charts.marker(0, 0, 0, "#000000", hollow=True)


def test_a_hollow_line_is_markers_only():
    line = Line("", (1.0, 2.0), "#123456", hollow=True)
    svg = parsed(charts.lines("t", ["1", "2"], [line], "loss"))
    assert not [p for p in svg.iter(f"{SVG}path") if p.get("stroke") == "#123456"]
    assert len(list(svg.iter(f"{SVG}circle"))) == 2


def test_a_spread_is_drawn_where_there_is_one():
    line = Line("x", (1.0, 2.0, 3.0), "#123456", spread=((0.5, 1.5), None, (3.0, 3.0)))
    svg = parsed(charts.lines("t", ["1", "2", "3"], [line], "loss"))
    assert sum(p.get("stroke-width") == "1.5" for p in svg.iter(f"{SVG}path")) == 1


def test_the_axis_starts_where_it_is_asked_to():
    svg = parsed(charts.lines("t", ["1"], [Line("x", (95.0,), "#0")], "accuracy", lowest=90.0))
    words = [t.text for t in svg.iter(f"{SVG}text")]
    assert "90" in words and "0" not in words


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-0.3, 2.9), (60.0, 98.7), (0.0, 0.0), (0.0, 5000.0)])
def test_ticks_are_round_and_span_the_values(low, high):
    marks, digits = charts.ticks(low, high)
    assert marks[0] <= low and marks[-1] >= high and 2 <= len(marks) <= 7
    assert all(float(f"{mark:.{digits}f}") == pytest.approx(mark) for mark in marks)


def test_many_labels_stay_above_the_axis():
    names = "abcdefgh"
    svg = parsed(charts.lines("t", ["1", "2"], [Line(name, (0.0, 0.0), "#0") for name in names], "loss", at_least=1.0))
    heights = sorted(float(t.get("y")) for t in svg.iter(f"{SVG}text") if t.text in names)
    assert len(heights) == 8 and heights[-1] < 250 - 36 + 12
    assert all(after - before >= charts.TEXT_SIZE for before, after in zip(heights, heights[1:], strict=False))


@pytest.mark.parametrize("low, high", [(0.017, 0.42), (1.0, 1.0), (0.03, 0.031), (0.5, 0.51), (2e-5, 3e3)])
def test_ticks_of_ratios_are_round_and_span_the_values(low, high):
    marks = charts.ticks_of_ratios(low, high)
    assert marks[0] <= low * 1.001 and marks[-1] >= high * 0.999 and len(marks) >= 2
    assert all(f"{mark:e}"[0] in "125" for mark in marks) and marks == sorted(set(marks))


def test_equal_ratios_are_equally_high():
    line = Line("x", (0.01, 0.1, 1.0), "#0", spread=(None, (0.05, 0.2), None))
    svg = parsed(charts.lines("t", ["1", "2", "3"], [line], "loss", logarithmic=True))
    heights = [float(circle.get("cy")) for circle in svg.iter(f"{SVG}circle")]
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.11)
