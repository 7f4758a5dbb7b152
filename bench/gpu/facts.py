"""On what was measured: `python -m bench.gpu.facts` prints it as JSON, with `--arch` the compute capability alone."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from .device import query

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = ("triton", "numpy", "cupy-cuda13x", "cupy-cuda12x", "pytest", "hypothesis", "pybind11", "ninja")
QUERIES = ("name", "driver_version", "compute_cap", "memory.total", "clocks.max.sm", "clocks.max.memory", "power.limit")


def arch() -> str | None:
    """The compute capability of the first GPU; None without one."""
    if torch.cuda.is_available():
        return ".".join(map(str, torch.cuda.get_device_capability(0)))
    return query("compute_cap")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _first_words(*command: str) -> str | None:
    """The last line that a program prints, None where it is absent or fails."""
    if shutil.which(command[0]) is None:
        return None
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return run.stdout.strip().splitlines()[-1] if run.returncode == 0 and run.stdout.strip() else None


def facts() -> dict[str, Any]:
    return {
        "torch": torch.__version__,
        "cuda_of_torch": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None,
        "gpus": torch.cuda.device_count(),
        "arch": arch(),
        **{what: query(what) for what in QUERIES},
        "nvcc": _first_words("nvcc", "--version"),
        "compute_sanitizer": _first_words("compute-sanitizer", "--version"),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        **{name: _version(name) for name in LIBRARIES},
        "commit": _first_words("git", "rev-parse", "HEAD"),
    }


def main(argv: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    if arguments == ["--arch"]:
        print(arch() or "")
        return 0
    print(json.dumps(facts(), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
