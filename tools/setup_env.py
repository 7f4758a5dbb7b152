"""Make the virtual environment that the Makefile works in: `python tools/setup_env.py .venv torch==2.13.0`.

A torch >= 2.10 that the running interpreter has is used as it is; otherwise the requirement given is installed. The
project itself goes in as an editable installation, built with that torch. Running it again only brings it up to date.
"""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD_TOOLS = ["setuptools>=77", "wheel", "pybind11>=2.13", "ninja"]
TRITON = "triton==3.6.*"
TORCH_IS_THERE = "import torch, sys; sys.exit(tuple(map(int, torch.__version__.split('.')[:2])) < (2, 10))"


def installed_torch() -> str | None:
    """The version of the interpreter's torch when it is new enough."""
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return None
    return version if tuple(map(int, version.split(".")[:2])) >= (2, 10) else None


def make_venv(folder: Path) -> None:
    version = installed_torch()
    in_venv = sys.prefix != sys.base_prefix
    venv.create(folder, with_pip=True, system_site_packages=version is not None and not in_venv)
    if version is not None:
        print(f"using torch {version} of {sys.executable}", flush=True)
        if in_venv:  # its packages are not the "system site packages"
            paths = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)})
            Path(paths["purelib"], "_outer_environment.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")


def main(folder: str, torch_requirement: str) -> None:
    if not (3, 10) <= sys.version_info[:2] <= (3, 13):
        raise SystemExit(f"Python 3.10 to 3.13 is wanted, {sys.executable} is {sys.version.split()[0]}: set PYTHON")
    python = Path(folder).resolve() / "bin" / "python"
    if not python.exists():
        make_venv(Path(folder).resolve())

    def pip(*arguments: str) -> None:
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
        if subprocess.run(command, cwd=ROOT).returncode != 0:
            raise SystemExit(f"failed: pip install {' '.join(arguments)}")

    if subprocess.run([str(python), "-c", TORCH_IS_THERE], stderr=subprocess.DEVNULL).returncode != 0:
        print(f"installing {torch_requirement}", flush=True)
        pip(*torch_requirement.split())
    print("installing rsn2-kernels, editable", flush=True)
    pip(*BUILD_TOOLS)
    pip("--no-build-isolation", "-e", ".[experiments,dev]")
    has_triton = subprocess.run([str(python), "-c", "import triton"], stderr=subprocess.DEVNULL).returncode == 0
    if sys.platform == "linux" and not has_triton:
        pip(TRITON)  # a torch without CUDA comes without; tests run the kernels in its interpreter


if __name__ == "__main__":
    main(*sys.argv[1:])
