"""Run the CUDA kernels' tests on the emulator under -fsanitize=address,undefined: `python tools/check_emulated.py`.

What pytest is to run may follow; the default is tests/rsn2_kernels/cuda. Tensors of PyTorch are watched too, since the
sanitizer's allocator is the process's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FLAGS = "-O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize=vptr -fno-sanitize-recover=all"


def runtime(compiler: str, name: str) -> str | None:
    """The path of one of the compiler's libraries, None when it has none."""
    run = subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    path = run.stdout.strip()
    return path if Path(path).is_absolute() else None


def main(tests: list[str]) -> None:
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        return print(f"check_emulated: {compiler}: not installed, skipped")
    # The C++ library too: the address sanitizer looks for its functions before Python has loaded it.
    libraries = [runtime(compiler, name) for name in ("libasan.so", "libstdc++.so.6")]
    if None in libraries:
        return print(f"check_emulated: {compiler} has no address sanitizer, skipped")
    environment = {**os.environ, "RSN2_EMULATED_FLAGS": FLAGS}
    # Built before the compiler, too, would run under the sanitizer.
    subprocess.run([sys.executable, str(ROOT / "tools" / "build_emulated.py")], check=True, env=environment)
    environment |= {
        "LD_PRELOAD": " ".join(map(str, libraries)),
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0:alloc_dealloc_mismatch=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    # A report goes to the file descriptor of stderr just before the process ends: pytest must not hold that back.
    command = [sys.executable, "-m", "pytest", "-q", "--capture=sys", *(tests or ["tests/rsn2_kernels/cuda"])]
    raise SystemExit(subprocess.run(command, cwd=ROOT, env=environment).returncode)


if __name__ == "__main__":
    main(sys.argv[1:])
