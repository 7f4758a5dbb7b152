"""Parts of a page."""

from __future__ import annotations

import pytest

from rsn2.report import page


@pytest.mark.parametrize(
    ("background", "ink"), [("#ffffff", "#000"), ("#000000", "#fff"), ("#0072B2", "#fff"), ("#E69F00", "#000")]
)
def test_text_can_be_read_on_its_background(background, ink):
    assert page.text_colour(background) == ink


def test_contrast_is_at_least_that_of_wcag_on_every_colour():
    def luminance(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
        parts = [int(digits[start : start + 2], 16) / 255 for start in (0, 2, 4)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for colour in page.SERIES:
        light, dark = sorted((luminance(colour), luminance(page.text_colour(colour))), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, colour


def test_a_group_is_written_above_its_first_row():
    made = page.table(["a"], [["1"], ["2"], ["3"]], groups=["x", "x", "<y>"])
    assert made.count('class="group"') == 2 and "&lt;y&gt;" in made
    assert made.index("x</th>") < made.index(">1<") < made.index(">2<") < made.index("y&gt;") < made.index(">3<")


def test_cards_name_their_cells():
    made = page.table(["task", "a & b"], [["<b>x</b>", "1"]], as_cards=True)
    assert '<table class="cards">' in made and 'data-heading="a &amp; b"><div>1</div>' in made and "<b>x</b>" in made
    assert "cards" not in page.table(["task"], [["x"]])


def test_keys():
    made = page.numbered_key([("#0072B2", "first"), ("#E69F00", "<second>")])
    assert ">1</i>first" in made and ">2</i>&lt;second&gt;" in made and "color:#000" in made
    assert "<svg/>words" in page.drawn_key([("<svg/>", "words")])


def test_sections_have_anchors():
    assert page.section("T", "p", anchor="here") == '<section id="here"><h2>T</h2>p</section>'
    assert page.contents([("here", "T")]).endswith('<a href="#here">T</a></nav>')
