"""Run the kernels without torch, under sanitizers and valgrind, and count their instructions.

`python tools/check_native.py [--quick] [--update] [g++ clang++]`. The driver (csrc/driver/) is linked to the objects of
the last build and runs as it is, under valgrind, and under callgrind, whose counts are compared with those in
tools/native_counts.json, together with those of the AVX-512 level's innermost loops. Without ``--quick`` it is also
built from scratch by each compiler with -fsanitize=address,undefined and -fsanitize=thread. ``--update`` does no more
than write new counts. What is not installed is reported as skipped.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import native_counts

ROOT = Path(__file__).resolve().parent.parent
COUNTS = ROOT / "tools" / "native_counts.json"
CORE = sorted((ROOT / "csrc" / "cpu").glob("*.cpp"))  # csrc/cpu/ops/ needs torch
DRIVER = sorted((ROOT / "csrc" / "driver").glob("*.cpp"))
SANITIZERS = {"address,undefined": ["--threads", "1,2"], "thread": ["--threads", "2,5"]}


def say(text: str) -> None:
    print(text, flush=True)


def run(*command: str | Path, **environment: str) -> None:
    """A failure of the command is ours."""
    status = subprocess.run([str(word) for word in command], env={**os.environ, **environment}).returncode
    if status != 0:
        raise SystemExit(f"check_native: exit status {status} from {' '.join(map(str, command))}")


def output_of(*command: str | Path, **environment: str) -> str:
    result = subprocess.run(
        [str(word) for word in command], env={**os.environ, **environment}, capture_output=True, text=True
    )
    if result.returncode != 0:
        raise SystemExit(f"check_native: {' '.join(map(str, command))}\n{result.stdout}{result.stderr}")
    return result.stdout + result.stderr


def build_flags() -> tuple[list[str], dict[str, list[str]]]:
    """FLAGS and LEVEL_FLAGS of setup.py, which cannot be imported: it would build."""
    found: dict[str, Any] = {}
    for node in ast.parse((ROOT / "setup.py").read_text()).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and target.id in ("FLAGS", "LEVEL_FLAGS"):
            exec(compile(ast.Module([node], []), "setup.py", "exec"), found)
    return found["FLAGS"], found["LEVEL_FLAGS"]


def compile_all(compiler: str, sources: list[Path], flags: list[str], folder: Path) -> list[Path]:
    """Objects of the sources that this machine's kind of processor has."""
    common, of_level = build_flags()
    tree = [source for source in sources if source.stem not in of_level or native_is_x86()]

    def compile_one(source: Path) -> Path:
        target = folder / f"{source.parent.name}-{source.stem}.o"
        run(compiler, *common, *flags, *of_level.get(source.stem, []), "-c", source, "-o", target)
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compile_one, tree))


def native_is_x86() -> bool:
    return os.uname().machine in ("x86_64", "AMD64")


def built_objects() -> list[Path]:
    """The core's objects of the newest build."""
    folders = sorted(
        ROOT.glob("build/native-*/rsn2_kernels.librsn2_cpu/csrc/cpu"), key=lambda folder: folder.stat().st_mtime
    )
    if not folders:
        raise SystemExit("check_native: nothing is built; run make setup first")
    _, of_level = build_flags()
    objects = [folders[-1] / f"{source.stem}.o" for source in CORE if native_is_x86() or source.stem not in of_level]
    for item in objects:
        source = ROOT / "csrc" / "cpu" / f"{item.stem}.cpp"
        if not item.exists() or item.stat().st_mtime < source.stat().st_mtime:
            raise SystemExit(f"check_native: {item} is missing or older than its source; build first")
    return objects


def is_here(*names: str) -> bool:
    """Say what is missing."""
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        say(f"{', '.join(missing)}: not installed, skipped")
    return not missing


# ---- instruction counts -----------------------------------------------------------------------------------------


def measure(driver: Path, objects: list[Path], levels: list[str]) -> dict[str, float]:
    """All figures that the tools here can give."""
    figures: dict[str, float] = {}
    if "avx2" not in levels:
        say("callgrind: this machine has no AVX2 level, skipped")
    elif is_here("valgrind"):
        for name, function in native_counts.COUNTED.items():
            command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={driver.parent / 'callgrind.out'}"]
            output = output_of(*command, f"--toggle-collect={function}", driver, "count", name, RSN2_CPU="avx2")
            work = next(float(line.split()[1]) for line in output.splitlines() if line.startswith(f"{name} "))
            figures[f"avx2 {name} instructions"] = round(native_counts.collected(output) / work, 4)
    wide = next((item for item in objects if item.stem == "level_avx512"), None)
    if wide is None:
        say("objdump: there is no AVX-512 level for this kind of processor, skipped")
    elif is_here("objdump"):
        disassembly = output_of("objdump", "-d", "-C", "--no-show-raw-insn", wide)
        for name, function in native_counts.LOOPS.items():
            for what, figure in native_counts.hottest_loop(disassembly, function).figures().items():
                figures[f"avx512 {name} loop {what}"] = figure
    return figures


def check_counts(figures: dict[str, float], compiler: str) -> None:
    """Compare with what is committed for this compiler."""
    committed: dict[str, dict[str, float]] = json.loads(COUNTS.read_text()) if COUNTS.exists() else {}
    if compiler not in committed:
        say(f"{compiler}: no counts are committed for it, so none are compared")
        for name, figure in figures.items():
            say(f"{name:<44} {figure:10.4f}")
        return
    wanted = {name: figure for name, figure in committed[compiler].items() if name.split()[0] in kinds(figures)}
    lines = native_counts.compare(figures, wanted)
    for _, line in lines:
        say(line)
    if not all(passes for passes, _ in lines):
        raise SystemExit(f"check_native: more instructions than {COUNTS.name} allows (--update writes new figures)")


def kinds(figures: dict[str, float]) -> set[str]:
    """The levels that could be measured here."""
    return {name.split()[0] for name in figures}


def update_counts(figures: dict[str, float], compiler: str) -> None:
    committed = json.loads(COUNTS.read_text()) if COUNTS.exists() else {}
    committed[compiler] = {**committed.get(compiler, {}), **figures}
    COUNTS.write_text(json.dumps(committed, indent=2, sort_keys=True) + "\n")
    say(f"{COUNTS.name}: {len(figures)} figures of {compiler} written")


# ---- sanitizers -------------------------------------------------------------------------------------------------


def runner_for(compiler: str, sanitizer: str, folder: Path) -> list[str] | None:
    """What to put before a program of this sanitizer; None when one cannot be made or run here.

    The thread sanitizer of some versions refuses to start where the kernel spreads addresses widely.
    """
    source, program = folder / "empty.cpp", folder / "empty"
    source.write_text("int main() {}\n")
    command = [compiler, f"-fsanitize={sanitizer}", "-pthread", str(source), "-o", str(program)]
    if subprocess.run(command, capture_output=True).returncode != 0:
        return None
    for before in ([], ["setarch", "-R"]):
        if before and shutil.which(before[0]) is None:
            continue
        if subprocess.run([*before, str(program)], capture_output=True).returncode == 0:
            return before
    return None


def check_sanitizer(compiler: str, sanitizer: str, folder: Path) -> None:
    before = runner_for(compiler, sanitizer, folder)
    if before is None:
        say(f"{compiler} -fsanitize={sanitizer}: no program can be built and run with it here, skipped")
        return
    say(f"{compiler} -fsanitize={sanitizer}")
    # At -O1 g++ makes no multiply-adds of its own, so that kernels differ in bits from kernels of intrinsics, unless it
    # is told to; -O2 takes it minutes for a level. Clang says that it does not know the option.
    flags = [
        "-O1",
        "-fexpensive-optimizations",
        "-Wno-ignored-optimization-argument",
        "-g1",
        "-fno-omit-frame-pointer",
        f"-fsanitize={sanitizer}",
        "-fno-sanitize-recover=all",
    ]
    objects = compile_all(compiler, [*CORE, *DRIVER], flags, folder)
    program = folder / "driver"
    run(compiler, f"-fsanitize={sanitizer}", "-pthread", *objects, "-o", program)
    # g++ 12 aligns wide vectors wrongly in stack frames that the address sanitizer keeps on the heap (GCC bug 110027).
    options = {"ASAN_OPTIONS": "detect_stack_use_after_return=0", "UBSAN_OPTIONS": "print_stacktrace=1"}
    run(*before, program, "check", "--small", *SANITIZERS[sanitizer], **options)


def main(arguments: list[str]) -> None:
    is_quick, is_update = "--quick" in arguments, "--update" in arguments
    compilers = [argument for argument in arguments if not argument.startswith("--")] or ["g++", "clang++"]
    compilers = [compiler for compiler in compilers if is_here(compiler)]
    if not compilers:
        raise SystemExit("check_native: a C++ compiler is needed")
    with tempfile.TemporaryDirectory(prefix="rsn2-native-") as name:
        folder = Path(name)
        objects = built_objects()
        made_by = native_counts.compiler_of(output_of("readelf", "-p", ".comment", objects[0]))
        driver = folder / "driver"
        run(compilers[0], "-pthread", *compile_all(compilers[0], DRIVER, ["-O2"], folder), *objects, "-o", driver)
        levels = output_of(driver, "levels").split()
        figures = measure(driver, objects, levels)
        if is_update:
            return update_counts(figures, made_by)
        check_counts(figures, made_by)

        run(driver, "check", *(["--small"] if is_quick else []))
        if is_here("valgrind"):  # of Debian 12, which does not know AVX-512
            for level in ["avx2"] if is_quick else ["avx2", "portable"]:
                if level in levels:
                    say(f"valgrind, level {level}")
                    options = ["--small", "--levels", level, "--threads", "2"]
                    run("valgrind", "-q", "--error-exitcode=9", driver, "check", *options, RSN2_CPU=level)
        if is_quick:
            return
        for compiler in compilers:
            for sanitizer in SANITIZERS:
                own = folder / f"{Path(compiler).name}-{sanitizer}"
                own.mkdir()
                check_sanitizer(compiler, sanitizer, own)


if __name__ == "__main__":
    main(sys.argv[1:])
