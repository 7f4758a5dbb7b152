"""On what a line was measured."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import rsn2_kernels
from rsn2.experiments.environment import facts as environment

ROOT = Path(__file__).resolve().parent.parent
LIBRARIES = ("numpy", "onnxruntime", "onnx", "deepsparse", "sparseprop")
RESULTS = "bench/results"  # what a run writes itself does not make its tree unclean


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    try:
        run = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return run.stdout.strip() if run.returncode == 0 else None


@functools.cache
def facts() -> dict[str, Any]:
    """Versions, processor, threads, CPU level, commit, and whether the tree was that of the commit."""
    # An installation lies in a tree that is not ours, or in none.
    is_tree = (ROOT / "bench" / "registry.py").exists()
    status = _git("status", "--porcelain", "--", ".", f":(exclude){RESULTS}") if is_tree else None
    found = environment()
    return {
        **{name: found[name] for name in ("rsn2_kernels", "torch", "python", "processor", "threads", "cpu_level")},
        "cores": os.cpu_count(),
        "system": platform.system(),
        **{name: _version(name) for name in LIBRARIES},
        "commit": _git("rev-parse", "HEAD") if is_tree else None,
        "clean": None if status is None else not status,
        "library": rsn2_kernels.backends().build_info,
    }
