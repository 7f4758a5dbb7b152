"""Compile the CUDA kernels with warnings as errors and look at what became of them: `python tools/check_cuda.py`.

Every csrc/cuda/*.cu is compiled for sm_80 and sm_90a. A kernel that spills registers or has a stack frame fails, and so
does one without the instructions it was written for. The counts of its instructions are compared with those in
tools/cuda_counts.json for this version of nvcc, and so is how many the decode of 64 positions takes (cuda_loops.py);
``--update`` writes new ones. ``--newer`` compiles for sm_100 and sm_120 instead, for which no counts are kept. Objects
are kept in build/cuda and compiled anew when a source has changed. Without nvcc nothing is checked, without cuobjdump
(of the CUDA toolkit, or of Triton's package) no instruction is; both are said.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cuda_counts
import cuda_loops
import cuda_toolkit

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "cuda"
COUNTS = ROOT / "tools" / "cuda_counts.json"
ARCHITECTURES = [("80", False), ("90a", False)]
NEWER = [("100", False), ("120", False)]
FLAGS = ["-std=c++17", "-O3", "-DUSE_CUDA", "-Werror=all-warnings", "-Xptxas=-v"]
FLAGS += ["-Xcompiler=-fPIC,-Wall,-Wextra,-Werror"]
AT_ONCE = 2  # one nvcc takes up to 2 GB

ALLOWED_FRAMES: dict[str, str] = {
    # "sm_80 Plan": "the reason",
}


# sm_100 and sm_120 have not been measured on; nvcc 13.0 spills so many bytes there at most, outside of inner loops.
NEWER_SPILLS = {"LinearFew": 32, "LinearTiles": 52, "GradInputTiles": 68, "SumOfParts": 88}


def say(text: str) -> None:
    print(text, flush=True)


def sources() -> list[Path]:
    return sorted((ROOT / "csrc" / "cuda").glob("*.cu"))


def compile_one(source: Path, toolkit: cuda_toolkit.Toolkit, architectures: list[tuple[str, bool]]) -> tuple[Path, str]:
    """The object of a source, and what ptxas said."""
    command = [toolkit.nvcc, *FLAGS, *cuda_toolkit.gencode(architectures), "-c", str(source)]
    headers = [path for folder in ("device", "cuda") for path in (ROOT / "csrc" / folder).glob("*.h")]
    digest = hashlib.sha256(repr((command, toolkit.version)).encode())
    for path in [*sorted(headers), ROOT / "csrc" / "errors.h", source]:
        digest.update(path.read_bytes())
    target = FOLDER / f"{source.name}-{digest.hexdigest()[:16]}.o"
    log = target.with_suffix(".log")
    if not log.exists():
        part = target.with_suffix(f".{os.getpid()}")
        run = subprocess.run([*command, "-o", str(part)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if run.returncode != 0:
            raise SystemExit(f"check_cuda: {source.name}\n{run.stdout}")
        part.rename(target)
        log.write_text(run.stdout)
    return target, log.read_text()


def find_cuobjdump(toolkit: cuda_toolkit.Toolkit) -> str | None:
    """The toolkit's, else the one on PATH, else that of Triton's package."""
    folders = [str(Path(toolkit.nvcc).resolve().parent), os.environ.get("PATH", "")]
    spec = importlib.util.find_spec("triton")
    if spec is not None and spec.origin is not None:
        folders.append(str(Path(spec.origin).parent / "backends" / "nvidia" / "bin"))
    return next((found for folder in folders if (found := shutil.which("cuobjdump", path=folder))), None)


def measure(toolkit: cuda_toolkit.Toolkit, architectures: list[tuple[str, bool]]) -> dict[str, dict[str, float]]:
    """All figures of each kernel, as ``sm_80 Plan``."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        compiled = list(pool.map(lambda source: compile_one(source, toolkit, architectures), sources()))
    cuobjdump = find_cuobjdump(toolkit)
    if cuobjdump is None:
        say("cuobjdump: neither in the CUDA toolkit nor in Triton's package, instructions are not looked at: skipped")
    figures: dict[tuple[str, str], dict[str, float]] = {}
    for target, log in compiled:
        figures.update(cuda_counts.resources(log))
        if cuobjdump is None:
            continue
        folder = f"{Path(cuobjdump).parent}:{os.environ.get('PATH', '')}"  # it starts the nvdisasm beside it
        command = [cuobjdump, "-sass", str(target)]
        run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": folder})
        if run.returncode != 0:
            raise SystemExit(f"check_cuda: {' '.join(command)}\n{run.stderr}")
        for key, counts in cuda_counts.instructions(run.stdout).items():
            figures.setdefault(key, {}).update(counts)
        for (name, architecture), code in cuda_loops.code_of(run.stdout).items():
            figures[name, cuda_counts.plain(architecture)][cuda_loops.FIGURE] = cuda_loops.decode_per_64(code)
    names = cuda_counts.demangled([name for name, _ in figures])
    return {f"{architecture} {names[name]}": of_kernel for (name, architecture), of_kernel in figures.items()}


def faults_on_newer(figures: dict[str, dict[str, float]]) -> list[str]:
    """What is wrong with kernels for sm_100 and sm_120. Their loops look different to cuda_loops.py."""
    faults = []
    for name, of_kernel in sorted(figures.items()):
        kernel = name.split(maxsplit=1)[-1].split("<")[0]
        if of_kernel.get("spills", 0) > NEWER_SPILLS.get(kernel, 0):
            faults.append(
                f"{name}: {of_kernel['spills']} bytes spilled, at most {NEWER_SPILLS.get(kernel, 0)} are known"
            )
        if "all" in of_kernel:
            faults += cuda_counts.intent_faults(name, of_kernel)
    return faults


def faults_of(figures: dict[str, dict[str, float]], committed: dict[str, dict[str, float]] | None) -> list[str]:
    faults = []
    for name, of_kernel in sorted(figures.items()):
        faults += cuda_counts.frame_faults(name, of_kernel, ALLOWED_FRAMES)
        if "all" in of_kernel:
            faults += cuda_counts.intent_faults(name, of_kernel)
            if of_kernel.get(cuda_loops.FIGURE) == 0:
                faults.append(f"{name}: no loop in it decodes weights")
            if committed is not None:
                faults += cuda_counts.count_faults(name, counts_of(of_kernel), committed.get(name))
    faults += [
        f"{name}: committed, but there is no such kernel" for name in sorted(set(committed or {}) - set(figures))
    ]
    return faults


def counts_of(figures: dict[str, float]) -> dict[str, float]:
    """What is committed: counts that are not zero."""
    return {kind: figures[kind] for kind in ("all", *cuda_counts.COUNTED, cuda_loops.FIGURE) if figures.get(kind)}


def main(arguments: list[str]) -> None:
    try:
        toolkit = cuda_toolkit.find_toolkit(os.environ)
        version = f"nvcc {toolkit.version}"
    except cuda_toolkit.NoCuda as why:
        return say(f"check_cuda: skipped: {why}")
    is_newer = "--newer" in arguments
    figures = measure(toolkit, NEWER if is_newer else ARCHITECTURES)
    say(cuda_counts.table(figures, cuda_loops.FIGURE))
    all_committed = json.loads(COUNTS.read_text()) if COUNTS.exists() else {}
    has_counts = any("all" in of_kernel for of_kernel in figures.values())
    if "--update" in arguments and not is_newer:
        if not has_counts:
            raise SystemExit("check_cuda: --update needs cuobjdump")
        all_committed[version] = {name: counts_of(of_kernel) for name, of_kernel in figures.items()}
        COUNTS.write_text(json.dumps(all_committed, indent=1, sort_keys=True) + "\n")
        say(f"{COUNTS.name}: {len(figures)} kernels of {version} written")
    committed = all_committed.get(version) if has_counts and not is_newer else None
    if has_counts and committed is None and not is_newer:
        say(f"{version}: no counts are committed for it, so none are compared")
    faults = faults_on_newer(figures) if is_newer else faults_of(figures, committed)
    for fault in faults:
        say(f"FAULT {fault}")
    if faults:
        raise SystemExit(f"check_cuda: {len(faults)} faults (--update writes new counts)")
    say(f"{len(figures)} kernels are as they should be")


if __name__ == "__main__":
    main(sys.argv[1:])
