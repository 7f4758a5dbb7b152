"""Build the native library with every compiler that is here, warnings being errors, and check its levels.

`python tools/check_compilers.py [--test] [g++ clang++]`; a compiler that is not installed is reported as skipped. With
``--test`` the operators' tests run with each build too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def check(compiler: str, with_tests: bool) -> None:
    with tempfile.TemporaryDirectory(prefix="rsn2-check-") as folder:
        copy = Path(folder)
        for name in ("csrc", "rsn2_kernels", "python", "tests"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        (copy / "tools").mkdir()
        for name in ("setup.py", "tools/cuda_toolkit.py", "pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, copy / name)
        environment = {**os.environ, "CXX": compiler, "CXXFLAGS": "-Werror", "RSN2_NATIVE": "1", "RSN2_CUDA": "0"}
        build = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
        subprocess.run(build, check=True, cwd=copy, env=environment, stdout=subprocess.DEVNULL)
        objects = next((copy / "build").glob("native-*")) / "rsn2_kernels.librsn2_cpu"
        subprocess.run([sys.executable, str(ROOT / "tools" / "check_levels.py"), str(objects)], check=True)
        # This build, not the one that the environment has: PYTHONPATH comes first.
        environment = {**os.environ, "PYTHONPATH": f"{copy}:{copy / 'python'}"}
        load = "import rsn2_kernels; print(rsn2_kernels.__file__); print(rsn2_kernels.backends())"
        subprocess.run([sys.executable, "-c", load], check=True, cwd=copy, env=environment)
        if with_tests:
            command = [sys.executable, "-m", "pytest", "-q", "tests/rsn2_kernels/ops"]
            subprocess.run(command, check=True, cwd=copy, env=environment)


def main(arguments: list[str]) -> None:
    compilers = [argument for argument in arguments if argument != "--test"]
    for compiler in compilers or ["g++", "clang++"]:
        if shutil.which(compiler) is None:
            print(f"{compiler}: not installed, skipped", flush=True)
            continue
        print(f"{compiler}: building without warnings", flush=True)
        check(compiler, with_tests="--test" in arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
