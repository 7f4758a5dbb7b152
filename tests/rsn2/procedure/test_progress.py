"""A bar on a terminal, lines elsewhere, or nothing."""

from __future__ import annotations

import sys

import pytest

from rsn2.procedure import progress

RECORD = {"epoch": 2, "loss": {"a": 0.5, "b": 1.25}, "val_loss": {"a": 0.75}, "val_metrics": {"a": {"accuracy": 0.9}},
          "seconds": 3.21}  # fmt: skip
LINE = "epoch 2: a: loss 0.5000, validation 0.7500, accuracy 0.9000; b: loss 1.2500 (3.2 s)"


def show(wanted: bool) -> None:
    with progress.shown(wanted) as display:
        for epoch in (1, 2):
            display.begin(epoch, 5, 2, 0)
            display.step()
            display.step()
            display.end({**RECORD, "epoch": epoch})


def test_a_line_per_epoch_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    show(True)
    assert capsys.readouterr().err.splitlines() == [LINE.replace("epoch 2", "epoch 1"), LINE]
    show(False)
    assert capsys.readouterr().err == ""


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rich")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    show(True)
    assert LINE in capsys.readouterr().err


def test_lines_on_a_terminal_without_rich(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(progress, "find_spec", lambda name: None)
    show(True)
    assert capsys.readouterr().err.splitlines()[1] == LINE
