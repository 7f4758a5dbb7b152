"""The page stands by itself, shows every table, and is readable."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from rsn2.experiments import load_experiment
from rsn2.experiments.figure import Figure, series_of
from rsn2.report import html, results
from rsn2.report.entries import Results
from rsn2.report.page import text


@pytest.fixture
def page(exp3, exp3_lines) -> str:
    return html.render([exp3], Results(exp3_lines))


def test_it_needs_nothing_else(page):
    assert not re.search(r"https?://|<script|<link|@import|url\(", page)


def test_it_shows_every_table(page, exp3, exp3_lines):
    for table in results.tables(exp3, exp3_lines):
        assert text(table.title) in page
        for cell in (cell for row in table.rows for cell in row):
            assert html.cell_of(cell) in page


def test_no_text_is_smaller_than_9_pixels(page):
    sizes = [float(size) for size in re.findall(r"font-size[:=]\"? ?([\d.]+)(?:px|\")", page)]
    assert sizes and min(sizes) >= 9
    assert not re.search(r"font-size: ?0?\.\d+(em|rem)", page)
    assert {int(width) for width in re.findall(r'<svg width="(\d+)"', page)} <= {16, 340}, "never scaled down at 375 px"


def test_links_lead_to_sections(page):
    links = re.findall(r'href="#([^"]+)"', page)
    assert links == ["overview", "exp3"] and all(f'<section id="{link}">' in page for link in links)


def test_tiles_count_targets(page):
    assert "<b>3</b><span>later stages" not in page
    assert "<b>2</b><span>later stages" in page
    assert re.search(r"<b>2 of \d+</b><span>targets reached", page) and "<b>0</b><span>targets missed" in page


def test_cells():
    assert html.cell_of("97.50 (97 to 98, 2 seeds)") == "97.50<small>97 to 98, 2\N{NO-BREAK SPACE}seeds</small>"
    assert html.cell_of("✗ missed by 0.10") == '<span class="bad">✗ missed by 0.10</span>'
    assert html.cell_of("✓ reached") == '<span class="good">✓ reached</span>'
    assert html.cell_of("a < b") == "a &lt; b"


def test_an_experiment_draws_what_it_wants(exp3, exp3_lines):
    def figures(lines):
        def accuracy(line):
            return 100 * line["metrics"]["tasks"][line["stage"]]["accuracy"]

        ours = [line for line in lines if line["variant"] == "ours"]
        return [Figure("Own figure", "A caption.", "stage", "accuracy, %",
                       (series_of("ours", ours, lambda line: line["stage"], accuracy),), "bars")]  # fmt: skip

    page = html.render([replace(exp3, figures=figures)], Results(exp3_lines))
    assert "<h3>Own figure</h3>" in page and "A caption." in page and "digits · ours" in page
    assert html.cell_of("97.50 (97.00, 98.00)") in page


def test_without_an_experiment_of_the_paper_there_is_no_overview(exp3, exp3_lines, monkeypatch):
    monkeypatch.setattr(html, "PAPER", ())
    assert 'id="overview"' not in html.render([exp3], Results(exp3_lines))


def test_smoke_runs_are_marked(line):
    page = html.render([load_experiment("exp3")], Results([line("exp3", "ours", "digits", smoke=True)]))
    assert "smoke run" in page and "<b>0 of" in page


def test_code_in_a_description(line):
    page = html.render([load_experiment("exp5")], Results([line("exp5", "ours", "digits")]))
    assert "<code>paper</code> chooses by" in page and "`" not in page
