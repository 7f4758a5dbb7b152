"""On what a result was made: versions, processor, threads, commit, memory."""

from __future__ import annotations

import platform
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import rsn2_kernels

_STATUS = Path("/proc/self/status")
_CPU = torch.device("cpu")
_CLEAR_REFS = Path("/proc/self/clear_refs")


def facts(device: torch.device = _CPU) -> dict[str, Any]:
    """Versions, device, threads, CPU level and commit, as JSON values."""
    found = rsn2_kernels.backends()
    return {
        "rsn2_kernels": rsn2_kernels.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "cpu_level": found.cpu_level,
        "commit": commit(),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def commit() -> str | None:
    """The commit of the source tree that the packages are imported from, with ``-changed`` when files differ from it.

    None when they are not imported from a source tree, or git is not there.
    """
    root = Path(rsn2_kernels.__file__).resolve().parents[1]
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        return None
    head = subprocess.run([git, "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if head.returncode != 0:
        return None
    status = subprocess.run([git, "-C", root, "status", "--porcelain", "rsn2_kernels", "python", "csrc"],
                            capture_output=True, text=True, check=False)  # fmt: skip
    return head.stdout.strip() + ("-changed" if status.stdout.strip() else "")


class PeakMemory:
    """The largest resident memory of this process since the object was made.

    Linux lets a process reset its own peak; elsewhere the peak of the whole process is all there is.
    """

    def __init__(self) -> None:
        self.since_start_of_process = True
        if _CLEAR_REFS.exists():
            try:
                _CLEAR_REFS.write_text("5")
            except OSError:  # a sandbox may forbid it: the peak then covers the whole process, which the record says
                return
            self.since_start_of_process = False

    def num_bytes(self) -> int:
        if not self.since_start_of_process:
            for line in _STATUS.read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
