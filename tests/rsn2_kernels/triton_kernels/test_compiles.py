"""Every Triton kernel becomes sm_90 code without a GPU, at the sizes the table gives, and keeps to its registers."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


@cache
def compiled() -> list[dict[str, Any]]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, Path(__file__).with_name("compiles.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_nothing_is_spilled():
    assert {facts["kernel"] for facts in compiled()} == {
        "forward_lists", "forward_tiles", "grad_input", "grad_values_lists", "grad_values_tiles"
    }  # fmt: skip
    assert [facts for facts in compiled() if facts["stack"] or facts["local"]] == []


def test_tiles_are_multiplied_on_the_tensor_cores():
    """In float32 only where TF32 is allowed."""
    for facts in compiled():
        kind = facts["from"].split("-")[0]
        is_allowed = kind in ("bfloat16", "float16") or facts["from"].endswith("-tf32")
        assert (facts["mma"] > 0) == (is_allowed and not facts["kernel"].endswith("lists")), facts
        assert facts["tf32"] == (facts["mma"] > 0 and kind == "float32"), facts


def test_three_programs_fit_a_multiprocessor():
    """Of its 228 KiB of shared memory."""
    assert [facts for facts in compiled() if facts["shared"] > 76 * 1024] == []
