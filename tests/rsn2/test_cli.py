"""The command line: what it prints, its exit codes, and that it starts without torch."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

import rsn2_kernels
from rsn2.cli import app
from rsn2.experiments import EXPERIMENTS


def invoke(*args: str):
    return CliRunner().invoke(app, list(args))


def test_help_lists_the_commands():
    result = invoke("--help")
    assert result.exit_code == 0
    for command in ("demo", "list", "run", "report", "backends", "data"):
        assert command in result.output


def test_version():
    result = invoke("--version")
    assert result.exit_code == 0 and result.output.strip() == f"rsn2 {rsn2_kernels.__version__}"


def test_list_names_every_experiment():
    result = invoke("list")
    assert result.exit_code == 0
    for name in EXPERIMENTS:
        assert name in result.output


def test_backends():
    result = invoke("backends")
    assert result.exit_code == 0
    assert torch.__version__ in result.output and str(rsn2_kernels.backends()) in result.output


def test_data_is_mounted():
    result = invoke("data", "--help")
    assert result.exit_code == 0 and "fetch" in result.output and "check" in result.output
    assert "rsn2 data check" in invoke("data", "check", "--help").output
    assert invoke("data", "nonsense").exit_code == 2


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("run", "exp99"), "experiment must be one of exp1, exp2"),
        (("run", "exp3", "--device", "toaster"), "--device must be one that this PyTorch can use, got 'toaster'"),
        (("run", "all", "--variant", "none"), "variants (--variant) of exp1 must be among ours"),
        (("run", "exp3", "--variant", "none"), "variants (--variant) of exp3 must be among"),
        (("report", "/does/not/exist"), "RESULTS_DIR must be a folder"),
        (("demo", "--out", "/does/not/exist/page.html"), "--out must be in a folder that exists"),
        (("demo", "--out", "."), "--out must be the page's file, got the folder ."),
        (("run", "exp3", "--out", __file__), "out must be a folder, got the file"),
    ],
)
def test_an_error_is_one_line(args, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoke(*args)
    assert result.exit_code == 2
    line = result.stderr.strip()
    assert line.startswith("error: ") and words in line and "\n" not in line
    assert isinstance(result.exception, SystemExit)


def test_debug_keeps_the_traceback():
    result = invoke("--debug", "run", "exp99")
    assert isinstance(result.exception, ValueError)


def test_missing_data_say_which_command_gets_them(tmp_path):
    out = tmp_path / "out"
    result = invoke("run", "exp3", "--data-dir", str(tmp_path), "--smoke", "--out", str(out), "--no-progress")
    assert result.exit_code == 2
    assert "mnist" in result.stderr and "rsn2 data fetch" in result.stderr
    assert not (out / "results.jsonl").exists()


@pytest.mark.parametrize(
    ("args", "seeds"),
    [
        (("--seeds", "0", "1", "2"), [0, 1, 2]),
        (("--seeds", "4", "--seeds", "5"), [4, 5]),
        (("--seeds", "3"), [3]),
        ((), None),
    ],
)
def test_seeds_are_given_in_a_row_or_one_by_one(args, seeds, monkeypatch, tmp_path):
    from rsn2.experiments import running
    from rsn2.report import results

    seen = {}
    written = tmp_path / "exp3.md"
    written.write_text("table")
    monkeypatch.setattr(running, "run", lambda experiment, out, **options: seen.update(options, name=experiment.name))
    monkeypatch.setattr(results, "write_markdown", lambda experiment, out: written)
    result = invoke("run", "exp3", *args, "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    assert seen["seeds"] == seeds and seen["name"] == "exp3"


def test_a_negative_seed_is_refused():
    assert invoke("run", "exp3", "--seeds", "-1").exit_code == 2


@pytest.mark.parametrize("args", [["demo"], ["bench"], ["run", "exp3", "--smoke"]], ids=lambda args: args[0])
def test_more_threads_than_processors_are_refused(args):
    result = invoke(*args, "--threads", str((os.cpu_count() or 1) + 1))
    assert result.exit_code == 2 and "Invalid value for '--threads'" in result.output


def test_every_public_name_of_the_package_is_there():
    import rsn2

    for name in rsn2.__all__:
        assert getattr(rsn2, name) is not None
    assert set(rsn2._HOMES) | set(rsn2._MODULES) == set(rsn2.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = rsn2.nothing


@pytest.mark.parametrize("args", [["--help"], ["list"]])
def test_it_starts_without_torch(args):
    run = f"try: app({args})\nexcept SystemExit: pass"
    script = f"import sys; from rsn2.cli import app\n{run}\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("False")
