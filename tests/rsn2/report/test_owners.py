"""Who owns which weights, each weight counted once."""

from __future__ import annotations

import pytest

from rsn2.report.entries import Results
from rsn2.report.owners import authors_table, layers_of, owner_picture, owner_table
from rsn2.report.results import tables


def test_shares_of_each_layer(exp3, exp3_lines):
    ours, control = Results(exp3_lines).entries(exp3)
    table = owner_table(ours)
    assert table.headings == ("layer", "weights", "digits", "fashion", "free")
    assert table.rows == (("hidden", "1,000", "100", "100", "800"), ("all", "1,000", "100", "100", "800"))
    assert table.note.startswith("20.0 % of the weights are owned") and "≈" not in table.note
    assert owner_table(control) is None and owner_picture(control) == ""


def test_weights_of_a_shared_slot_count_once(exp3, exp3_lines):
    metrics = exp3_lines[1]["metrics"]
    metrics["owned_per_slot"] = {"conv": {"digits+fashion": 300}, "head": {"digits": 10}}
    metrics["weights_per_layer"] = {"conv": 1000, "head": 40}
    table = owner_table(Results(exp3_lines).entries(exp3)[0])
    assert table.headings == ("layer", "weights", "digits", "digits + fashion", "free")
    assert table.rows[0] == ("conv", "1,000", "", "300", "700") and table.rows[1] == ("head", "40", "10", "", "30")
    assert "joined by + share" in table.note


def test_lines_without_sizes_of_layers_say_about_how_large_they_are(exp3, exp3_lines):
    for found in exp3_lines:
        found["metrics"].pop("weights_per_layer", None)
        found["metrics"].pop("owned_per_slot", None)
        found["metrics"]["owned_per_layer"] = {"hidden": {"digits": 99, "fashion": 99}}
        found["metrics"]["bytes"]["values"] = 4 * 198
    (layer,) = layers_of(Results(exp3_lines).entries(exp3)[0])
    assert (layer.num_weights, layer.num_free, layer.is_exact) == (990, 792, False)
    table = owner_table(Results(exp3_lines).entries(exp3)[0])
    assert table.rows[0][1] == "≈ 990" and "computed from the share" in table.note
    assert "no weight has two owners" in table.note


def test_bars_show_each_owner_by_number_and_colour(exp3, exp3_lines, parsed, svg_of):
    drawn = owner_picture(Results(exp3_lines).entries(exp3)[0])
    widths = [float(rect.get("width")) for rect in parsed(svg_of(drawn)).iter("{http://www.w3.org/2000/svg}rect")]
    assert widths[1] == pytest.approx(widths[0]) and widths[2] == pytest.approx(8 * widths[0], rel=1e-3)
    words = [text.text for text in parsed(svg_of(drawn)).iter("{http://www.w3.org/2000/svg}text")]
    assert words == ["hidden: 1,000", "1", "2", "20 %"]
    assert ">1</i>digits" in drawn and ">2</i>fashion" in drawn


def test_lines_that_do_not_say_who_shares_are_not_summed_up(exp3, exp3_lines):
    metrics = exp3_lines[1]["metrics"]
    del metrics["owned_per_slot"]
    metrics["owned_per_layer"] = {"hidden": {"digits": 100, "fashion": 100}}
    assert metrics["bytes"]["values"] == 4 * 100, "one weight's value for two tasks"
    note = owner_table(Results(exp3_lines).entries(exp3)[0]).note
    assert "counted for each" in note and "no weight has two owners" not in note


def test_masks_of_the_authors_rule(exp3, exp3_lines, line):
    counts = {"hidden": {"digits": 100, "fashion": 1000, "of several tasks": 100, "of none": 0, "all": 1000}}
    counted = line("exp3", "authors", "selection")
    counted["metrics"] = {"tasks": {}, "authors_selection": counts}
    entry = next(e for e in Results([*exp3_lines, counted]).entries(exp3) if e.variant == "authors")
    table = authors_table(entry)
    assert table.headings == ("layer", "weights", "digits", "fashion", "of several tasks", "of none")
    assert table.rows == (("hidden", "1,000", "100", "1,000", "100", "0"),)
    assert authors_table(Results(exp3_lines).entries(exp3)[0]) is None
    titles = [table.title for table in tables(exp3, [*exp3_lines, counted])]
    assert table.title in titles
    assert "authors" not in " ".join(tables(exp3, [*exp3_lines, counted])[0].headings)
