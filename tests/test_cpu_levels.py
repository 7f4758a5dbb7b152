"""CPU levels: choosing and forcing one, what each computes, and that no level's code leaks into another."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest

import rsn2_kernels  # noqa: F401  (registers the operators)
from rsn2_kernels import _build

ROOT = Path(__file__).resolve().parent.parent
LEVELS = ("portable", "avx2", "avx512")

needs_native = pytest.mark.skipif(
    "cpu" not in _build.backends() or os.environ.get("RSN2_BACKEND") == "reference",
    reason="the native library is not here or not used",
)


def load_tool(name: str) -> ModuleType:
    path = ROOT / "tools" / f"{name}.py"
    if not path.exists():
        pytest.skip(f"{path.name} is only in a checkout of the repository")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )


@pytest.fixture(params=LEVELS)
def level(request):
    """Each level in turn; the one in use before comes back."""
    native = _build.native()
    if request.param not in native.compiled_cpu_levels():
        pytest.skip(f"{request.param} is not compiled for this kind of processor")
    if request.param not in native.available_cpu_levels():
        pytest.skip(f"this machine cannot run {request.param}")
    before = native.cpu_level()
    native.set_cpu_level(request.param)
    yield request.param
    native.set_cpu_level(before)


@needs_native
def test_portable_is_always_available_and_the_best_is_the_default():
    available = _build.native().available_cpu_levels()
    assert available[0] == "portable"
    assert available == [name for name in LEVELS if name in available]
    environment = {name: value for name, value in os.environ.items() if name != "RSN2_CPU"}
    code = "import rsn2_kernels._build as b; b.load_native(); print(b.native().cpu_level())"
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == available[-1]


@needs_native
def test_set_cpu_level(level):
    assert _build.native().cpu_level() == level
    assert _build.backends().cpu_level == level


@needs_native
def test_unknown_level_is_an_error_and_changes_nothing():
    native = _build.native()
    before = native.cpu_level()
    with pytest.raises(ValueError, match="set_cpu_level: no CPU level is called 'sse9'; this machine has: portable"):
        native.set_cpu_level("sse9")
    assert native.cpu_level() == before


@needs_native
def test_level_that_the_machine_lacks_is_an_error_and_changes_nothing():
    native = _build.native()
    lacking = [name for name in native.compiled_cpu_levels() if name not in native.available_cpu_levels()]
    if not lacking:
        pytest.skip("this machine can run every level; the refusal is tried on plain_machine")
    before = native.cpu_level()
    with pytest.raises(ValueError, match=f"this machine cannot run the CPU level '{lacking[0]}'"):
        native.set_cpu_level(lacking[0])
    assert native.cpu_level() == before


@needs_native
@pytest.mark.parametrize("name", LEVELS)
def test_rsn2_cpu_forces_a_level_at_import(name):
    run = run_python("import rsn2_kernels; print(rsn2_kernels.backends().cpu_level)", RSN2_CPU=name)
    if name in _build.native().available_cpu_levels():
        assert run.returncode == 0, run.stderr
        assert run.stdout.strip() == name
    else:
        assert run.returncode == 1  # an exception, not a signal
        assert f"'{name}'" in run.stderr.splitlines()[-1]


@needs_native
def test_unknown_rsn2_cpu_stops_the_import():
    run = run_python("import rsn2_kernels", RSN2_CPU="sse9")
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1].startswith("ValueError: RSN2_CPU: no CPU level is called 'sse9'")


@needs_native
def test_rsn2_cpu_without_the_native_library_in_use_is_not_silent(monkeypatch):
    monkeypatch.setenv("RSN2_CPU", "portable")
    monkeypatch.delenv("RSN2_BACKEND", raising=False)
    monkeypatch.setattr(_build, "_native", None)
    monkeypatch.setattr(_build, "_native_is_installed", lambda: False)
    with pytest.raises(RuntimeError, match="RSN2_CPU=portable: installed without a native library"):
        _build.load_native()


# ---- refusing what the processor lacks: the detection, compiled for a processor that has nothing ---------------------

STUB = """
#include <cstdio>
#include <stdexcept>
#include "levels.h"
namespace rsn2 {
extern const CpuKernels kernels_portable, kernels_avx2, kernels_avx512;
const CpuKernels kernels_portable{}, kernels_avx2{}, kernels_avx512{};
}
int main(int argc, char** argv) {
  try {
    if (argc > 1) rsn2::set_cpu_level(argv[1]);
    std::puts(rsn2::cpu_level_name(rsn2::cpu_level()));
  } catch (const std::invalid_argument& error) {
    std::puts(error.what());
    return 3;
  }
}
"""


@pytest.fixture(scope="module")
def plain_machine(tmp_path_factory):
    """A program with the real detection, compiled so that it finds the plainest processor."""
    if shutil.which("g++") is None or not (ROOT / "csrc").exists():
        pytest.skip("needs g++ and the C++ sources")
    folder = tmp_path_factory.mktemp("levels")
    (folder / "main.cpp").write_text(STUB)
    subprocess.run(
        ["g++", "-std=c++17", "-D__builtin_cpu_supports(name)=0", f"-I{ROOT / 'csrc/cpu'}", "main.cpp"]
        + [str(ROOT / "csrc/cpu/levels.cpp"), "-o", "program"],
        cwd=folder,
        check=True,
    )
    return folder / "program"


def run_plain(program: Path, *arguments: str, rsn2_cpu: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *arguments], env={"RSN2_CPU": rsn2_cpu}, capture_output=True, text=True)


def test_plain_machine_uses_portable(plain_machine):
    run = run_plain(plain_machine)
    assert (run.returncode, run.stdout) == (0, "portable\n")


@pytest.mark.parametrize("name", ["avx2", "avx512"])
def test_plain_machine_refuses_wider_levels(plain_machine, name):
    refusal = f"this machine cannot run the CPU level '{name}'; it has: portable\n"
    run = run_plain(plain_machine, name)
    assert (run.returncode, run.stdout) == (3, f"set_cpu_level: {refusal}")
    run = run_plain(plain_machine, rsn2_cpu=name)
    assert (run.returncode, run.stdout) == (3, f"RSN2_CPU: {refusal}")


# ---- no level's code leaks into another ------------------------------------------------------------------------------


def built_objects() -> list[Path]:
    folders = [ROOT / "build" / f"native-{sysconfig.get_config_var('SOABI')}"]
    return sorted(path for folder in folders for path in folder.glob("rsn2_kernels.librsn2_cpu/**/*.o"))


@pytest.mark.skipif(not built_objects(), reason="no object files here: the library was not built in this checkout")
@pytest.mark.skipif(shutil.which("objdump") is None, reason="objdump is not installed")
def test_objects_of_this_build_are_clean():
    check_levels = load_tool("check_levels")
    assert {path.stem for path in built_objects()} >= {
        f"level_{name}" for name in _build.native().compiled_cpu_levels()
    }
    assert {path.stem: check_levels.faults_of(path) for path in built_objects()} == {
        path.stem: [] for path in built_objects()
    }


LEAKS = {  # file name, flags, source, a fault that must be reported
    "inline_function": (
        "level_avx2",
        ["-mavx2"],
        "inline int f(int x) { return x + 1; } auto* keep = &f;",
        "exports f(int)",
    ),
    "second_symbol": ("level_avx2", ["-mavx2"], "int helper(int x) { return x; }", "exports helper(int)"),
    "start_up_code": (
        "level_avx2",
        ["-mavx2"],
        "int g(); static int x = g(); int* keep = &x;",
        "has a section .init_array",
    ),
    "foreign_call": ("level_avx2", ["-mavx2"], "int g(int); int h(int x) { return g(x) + 1; }", "calls g(int)"),
    "avx2_in_host": ("host", ["-mavx2", "-O3"], "void f(float* x) { for (int i = 0; i < 64; ++i) x[i] += 1; }", "ymm"),
    "avx_scalar_in_portable": ("level_portable", ["-mavx"], "float f(float x) { return x * x; }", "vmulss"),
    "bmi2_in_host": ("host", ["-mbmi2", "-O2"], "long f(long x, int n) { return x << n; }", "shlx"),
    "avx512_in_avx2": (
        "level_avx2",
        ["-mavx512f", "-mprefer-vector-width=512", "-O3"],
        "void f(float* x) { for (int i = 0; i < 64; ++i) x[i] += 1; }",
        "zmm",
    ),
}


@pytest.mark.parametrize("leak", LEAKS)
def test_leaks_are_found(leak, tmp_path):
    check_levels = load_tool("check_levels")
    if shutil.which("g++") is None or shutil.which("objdump") is None or platform.machine() != "x86_64":
        pytest.skip("needs g++ and objdump on x86-64")
    name, flags, source, fault = LEAKS[leak]
    (tmp_path / "leak.cpp").write_text(source)
    subprocess.run(["g++", *flags, "-fPIC", "-c", "leak.cpp", "-o", f"{name}.o"], cwd=tmp_path, check=True)
    faults = check_levels.faults_of(tmp_path / f"{name}.o")
    assert any(fault in found for found in faults), faults
