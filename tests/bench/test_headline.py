"""What `rsn2 bench` prints, and that it refuses a wrong result."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from bench import headline
from bench.measure import Pace
from bench.ops import task_linear
from bench.ops.task_linear import Linear
from bench.registry import Alternative, Case, Point
from rsn2.cli import _bench_headline, app

SMALL = task_linear.point(Linear(12, 20, 9, 0.3))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    pace = Pace(0.001, block=1, least=1, most=1, attempts=1, leave_out=(*headline.LEFT_OUT, "onnxruntime"))
    monkeypatch.setattr(headline, "PACE", pace)
    monkeypatch.setattr(headline, "chosen", lambda: [("a small product", SMALL)])


def test_the_command_uses_the_tree_that_the_packages_come_from():
    assert _bench_headline() is headline


def test_table():
    result = CliRunner().invoke(app, ["bench"])
    assert result.exit_code == 0, result.output
    assert "a small product" in result.output and "30%" in result.output and "python -m" in result.output
    assert max(map(len, result.output.splitlines())) <= 80


def test_a_wrong_result_is_an_error(monkeypatch):
    def wrong():
        raise AssertionError("off by one")

    point = Point("op", "forward", {}, lambda: Case(Alternative(wrong, wrong), {}))
    monkeypatch.setattr(headline, "chosen", lambda: [("a small product", point)])
    result = CliRunner().invoke(app, ["bench"])
    assert result.exit_code == 2 and "'a small product' is wrong: off by one" in result.output
