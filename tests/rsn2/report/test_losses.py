"""Figures 3 to 5: flat lines, and the published losses at their ends."""

from __future__ import annotations

import pytest

from rsn2.experiments import load_experiment
from rsn2.report.entries import Results
from rsn2.report.losses import losses_picture

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def exp6_lines(line):
    tasks = ["cifar", "digits", "fashion"]
    losses = {"cifar": 1.2, "digits": 0.1, "fashion": 0.4}
    return [line("exp6", "ours", task, losses={name: losses[name] for name in tasks[: number + 1]})
            for number, task in enumerate(tasks)]  # fmt: skip


def test_one_line_for_each_task(exp6_lines, parsed, svg_of):
    exp6 = load_experiment("exp6")
    drawn = losses_picture(exp6, Results(exp6_lines).entries(exp6)[0])
    circles = list(parsed(svg_of(drawn)).iter(f"{SVG}circle"))  # of the first task
    heights = [circle.get("cy") for circle in circles if circle.get("fill") != "none"]
    assert len(heights) == 3 and len(set(heights)) == 1, "nothing rises"
    assert sum(circle.get("fill") == "none" for circle in circles) == 1, "the paper's"
    words = [text.text for text in parsed(svg_of(drawn)).iter(f"{SVG}text")]
    assert {"cifar", "digits", "fashion", "test loss, equal steps are equal ratios"} <= set(words)
    assert "Figure 4 of the paper" in drawn and "One seed." in drawn


def test_other_experiments_have_no_published_losses(exp3, exp3_lines, parsed, svg_of):
    ours, control = Results(exp3_lines).entries(exp3)
    drawn = losses_picture(exp3, ours)
    assert "of the paper" not in drawn and "Whiskers span the seeds" in drawn
    assert losses_picture(exp3, control) == ""


def test_losses_far_apart_have_an_axis_of_ratios(line):
    exp5 = load_experiment("exp5")
    lines = [line("exp5", "ours", "digits", losses={"digits": 0.1}),
             line("exp5", "ours", "fashion", losses={"digits": 0.1, "fashion": 0.4}),
             line("exp5", "ours", "boston", losses={"digits": 0.1, "fashion": 0.4, "boston": 0.017})]  # fmt: skip
    assert "equal ratios" in losses_picture(exp5, Results(lines).entries(exp5)[0])


def test_long_names_of_stages_are_numbered(line):
    exp1 = load_experiment("exp1")
    lines = [line("exp1", "ours", f"subnetwork {number}", losses={}) for number in range(1, 6)]
    drawn = losses_picture(exp1, Results(lines).entries(exp1)[0])
    assert "Stages: 1 subnetwork 1; 2 subnetwork 2" in drawn
