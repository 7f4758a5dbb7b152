"""Build the GPU kernels and their host code as C++ that runs on the emulator: `python tools/build_emulated.py`.

The library defines no operators: whoever loads it defines the namespace ``rsn2_emulated`` first, with the schemas of
rsn2_kernels/_schema.py, ``plan(Tensor slots, Tensor positions, Tensor index, int tile_rows) -> Tensor``,
``set_order(int order) -> ()``, ``set_most_shared_bytes(int bytes) -> ()`` and
``task_linear_dense_rows(int least_rows) -> ()``; and the operators of
rsn2_kernels/_answers.py. ``RSN2_EMULATED_FLAGS`` are further flags for compiler and linker (check_emulated.py
gives those of the sanitizers).
"""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "emulated"
FLAGS = "-std=c++17 -O2 -g1 -fPIC -Wall -Wextra -Werror -fvisibility=hidden -DRSN2_EMULATED".split()
FLAGS += ["-DTORCH_TARGET_VERSION=0x020a000000000000"]


def sources() -> list[Path]:
    csrc = ROOT / "csrc"
    return sorted([*(csrc / "cuda").glob("*.cu"), *(csrc / "cuda").glob("*.cpp"), *(csrc / "emulator").glob("*.cpp")])


def build() -> Path:
    """The library's path; compiled anew only when a source has changed."""
    compiler = os.environ.get("CXX", "g++")
    include = Path(torch.__file__).parent / "include"
    more = shlex.split(os.environ.get("RSN2_EMULATED_FLAGS", ""))
    command = [compiler, *FLAGS, *more, "-isystem", str(include), "-isystem", str(include / "torch/csrc/api/include")]
    headers = hashlib.sha256(repr((command, torch.__version__)).encode())
    for folder in ("device", "cuda", "emulator"):
        for path in sorted((ROOT / "csrc" / folder).glob("*.h")):
            headers.update(path.read_bytes())
    headers.update((ROOT / "csrc" / "errors.h").read_bytes())
    FOLDER.mkdir(parents=True, exist_ok=True)

    def compile_one(source: Path) -> Path:
        digest = headers.copy()
        digest.update(source.read_bytes())
        target = FOLDER / f"{source.name}-{digest.hexdigest()[:16]}.o"
        if not target.exists():
            part = target.with_suffix(f".{os.getpid()}")
            subprocess.run([*command, "-x", "c++", "-c", str(source), "-o", str(part)], check=True)
            part.rename(target)
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = [str(path) for path in pool.map(compile_one, sources())]
    library = FOLDER / f"librsn2_emulated-{hashlib.sha256(' '.join(objects).encode()).hexdigest()[:16]}.so"
    if not library.exists():
        part = library.with_suffix(f".{os.getpid()}")
        subprocess.run(
            [compiler, *more, "-shared", *objects, f"-L{Path(torch.__file__).parent / 'lib'}", "-ltorch_cpu"]
            + ["-o", str(part)],
            check=True,
        )
        part.rename(library)
    return library


if __name__ == "__main__":
    sys.exit(print(build()))
