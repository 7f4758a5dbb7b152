"""Runs the files of interpreted/, and what other folders ask of every implementation, in Triton's interpreter."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NAMES = ("refuse", "bad_arguments", "out_of_range", "leading_dimensions", "inputs_are_left_alone", "compile", "export")

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


def run(*arguments: str | Path) -> str:
    environment = {
        **os.environ,
        "RSN2_BACKEND": "triton",
        "TRITON_INTERPRET": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *map(str, arguments)]
    done = subprocess.run(command, env=environment, cwd=HERE.parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("file", ["kernels.py", "blocks.py", "edges.py"])
def test_kernels_match_the_reference(file):
    assert " passed" in run(HERE / "interpreted" / file)


@pytest.mark.slow
@pytest.mark.parametrize("file", ["kernels.py", "blocks.py", "edges.py"])
def test_kernels_match_the_reference_for_every_dtype_and_size(file):
    assert " passed" in run(HERE / "interpreted" / file, "-m", "slow")


@pytest.mark.parametrize("folder", ["ops/test_task_linear.py", "autograd/test_task_linear.py"])
def test_what_every_implementation_keeps(folder):
    assert " passed" in run(HERE.parent / folder, "-k", " or ".join(NAMES))
