"""Installing and loading: the build's switches, what a wheel holds, broken and foreign libraries, ``backends()``."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import rsn2_kernels
from rsn2_kernels import _build

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path(rsn2_kernels.__file__).parent
NATIVE_FILES = sorted(path.name for path in PACKAGE.glob("*.so"))
USE_IT = "import rsn2_kernels as r; print(r.__file__); print(r.backends())"

needs_native = pytest.mark.skipif(not NATIVE_FILES, reason="installed without a native library")
needs_sources = pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="only in a checkout of the repository")


def clean_environment(**changes: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("RSN2_")} | changes


def run_python(folder: Path, code: str, **changes: str) -> subprocess.CompletedProcess[str]:
    environment = clean_environment(PYTHONPATH=str(folder), **changes)
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture
def copy(tmp_path):
    """A copy of the package, native library included, for a test to break."""
    shutil.copytree(PACKAGE, tmp_path / "rsn2_kernels", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "rsn2_kernels"


# ---- loading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["2.9.1", "2.9.0+cu128", "1.13.1", "2.9.0a0+git1234"])
def test_old_torch_is_refused(version):
    with pytest.raises(ImportError, match=re.escape(f"rsn2_kernels needs torch >= 2.10, got {version}")):
        _build.check_torch(version)


@pytest.mark.parametrize("version", ["2.10.0", "2.13.0+cpu", "2.14.0a0+git1234", "3.0.0", "2.10.0.dev20251101"])
def test_new_torch_is_accepted(version):
    _build.check_torch(version)


def test_old_torch_stops_the_import(copy):
    code = "import torch; torch.__version__ = '2.9.1'; import rsn2_kernels"
    run = run_python(copy.parent, code)
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1] == "ImportError: rsn2_kernels needs torch >= 2.10, got 2.9.1"


def test_without_a_native_library_the_reference_serves(copy):
    for name in NATIVE_FILES:
        (copy / name).unlink()
    code = (
        "import torch; y = torch.ops.rsn2_kernels.task_grad_bias(torch.ones(3, 2), torch.tensor([0, 1, 1]), [1]);"
        "assert y.tolist() == [[2, 2]]"
    )
    run = run_python(copy.parent, f"{USE_IT}\n{code}")
    assert run.returncode == 0, run.stderr
    assert re.search(r"^cpu +absent +installed without a native library", run.stdout, re.MULTILINE)


@needs_native
def test_damaged_library_stops_the_import(copy):
    (copy / "librsn2_cpu.so").write_bytes(b"not a library")
    run = run_python(copy.parent, "import rsn2_kernels")
    assert run.returncode == 1
    assert "ImportError: rsn2_kernels has a native library that cannot be loaded with torch" in run.stderr
    assert "librsn2_cpu.so" in run.stderr.split("cannot be loaded with torch")[-1]


@needs_native
@pytest.mark.parametrize("name", NATIVE_FILES)
def test_truncated_library_stops_the_import(copy, name):
    whole = (copy / name).read_bytes()
    (copy / name).write_bytes(whole[: len(whole) // 2])
    run = run_python(copy.parent, "import rsn2_kernels")
    assert run.returncode == 1  # an exception, not a signal
    assert "ImportError: rsn2_kernels has a native library that cannot be loaded" in run.stderr


@needs_native
@pytest.mark.parametrize("name", [name for name in NATIVE_FILES if "cuda" not in name])
def test_half_an_installation_stops_the_import(copy, name):
    (copy / name).unlink()
    run = run_python(copy.parent, "import rsn2_kernels")
    assert run.returncode == 1
    assert re.search(
        r"ImportError: rsn2_kernels has (a native library that cannot|native files for another)", run.stderr
    )


@needs_native
def test_library_of_another_python_stops_the_import(copy):
    tag = sysconfig.get_config_var("SOABI")
    module = copy / f"_C.{tag}.so"
    module.rename(copy / "_C.cpython-39-x86_64-linux-gnu.so")
    run = run_python(copy.parent, "import rsn2_kernels")
    assert run.returncode == 1
    assert "native files for another Python (_C.cpython-39-x86_64-linux-gnu.so, librsn2_cpu.so" in run.stderr
    assert f"none for this one ({tag})" in run.stderr


@needs_native
def test_library_and_module_of_different_builds_stop_the_import(copy):
    build_id = _build.backends().build_info.get("build_id")
    if build_id is None:
        pytest.skip("the native library is not loaded (RSN2_BACKEND=reference)")
    library = copy / "librsn2_cpu.so"
    library.write_bytes(library.read_bytes().replace(build_id.encode(), b"0" * len(build_id)))
    run = run_python(copy.parent, "import rsn2_kernels")
    assert run.returncode == 1
    assert f"come from different builds ({build_id} and {'0' * len(build_id)})" in run.stderr


@needs_native
@pytest.mark.parametrize("name", NATIVE_FILES)
def test_no_path_of_the_build_machine_is_kept(name):
    content = (PACKAGE / name).read_bytes()
    for path in {str(ROOT), sys.prefix, sys.base_prefix, str(Path.home())} - {"/", "/usr", "/usr/local"}:
        assert path.encode() + b"/" not in content, path
    assert b"$ORIGIN\0" in content


# ---- RSN2_BACKEND and backends() -------------------------------------------------------------------------------------


def test_backends_names_all_and_prints():
    found = _build.backends()
    assert [state.name for state in found.states] == ["reference", "cpu", "triton", "cuda"]
    assert "reference" in found and "reference" in list(found)
    assert all(state.reason for state in found.states)
    assert str(found).splitlines()[0].split()[:2] == ["reference", "present"]
    with pytest.raises(KeyError, match="no backend is called 'tpu'; there are: reference, cpu, triton, cuda"):
        found["tpu"]


@needs_native
def test_build_facts():
    native = _build.native()
    info = native.build_info()
    assert info["version"] == rsn2_kernels.__version__
    assert info["python"].split(".")[:2] == [str(part) for part in sys.version_info[:2]]
    assert "-ffp-contract=fast" in info["flags"] and "-march=native" not in info["flags"]
    assert set(info) >= {"commit", "torch", "compiler", "build_id"}


@needs_native
def test_rsn2_backend_reference_leaves_the_library_alone(copy):
    (copy / "librsn2_cpu.so").write_bytes(b"not a library")
    run = run_python(copy.parent, USE_IT, RSN2_BACKEND="reference")
    assert run.returncode == 0, run.stderr
    assert re.search(r"^cpu .*not used \(RSN2_BACKEND=reference\)", run.stdout, re.MULTILINE)


@pytest.mark.parametrize("name", ["triton", "cuda", "tpu"])
def test_rsn2_backend_that_is_absent_is_an_error_that_lists_those_present(monkeypatch, name):
    if name in _build.backends():
        pytest.skip(f"{name} is present")
    monkeypatch.setenv("RSN2_BACKEND", name)
    with pytest.raises(RuntimeError, match=rf"RSN2_BACKEND={name}: this backend is not here .* Present: reference"):
        _build.load_native()


def test_rsn2_backend_cpu_without_the_library_is_an_error(monkeypatch):
    monkeypatch.setenv("RSN2_BACKEND", "cpu")
    monkeypatch.setattr(_build, "_native", None)
    monkeypatch.setattr(_build, "_native_is_installed", lambda: False)
    with pytest.raises(RuntimeError, match="RSN2_BACKEND=cpu: this backend is not here .* Present: reference$"):
        _build.load_native()


@needs_native
@pytest.mark.parametrize(("debug", "counting"), [("1", True), ("0", False)])
def test_rsn2_debug_turns_the_counters_on(debug, counting):
    code = (
        "import torch, rsn2_kernels; from rsn2_kernels import _build, ops, testing\n"
        "sample = testing.linear_sample(*testing.LINEAR_SHAPES['one_task'])\n"
        "ops.task_linear(sample.x, sample.weight, sample.slots)\n"
        "print(_build.native().is_counting(), _build.native().debug_counters())\n"
        "_build.native().reset_debug_counters(); print(_build.native().debug_counters())"
    )
    run = run_python(PACKAGE.parent, code, RSN2_DEBUG=debug)
    assert run.returncode == 0, run.stderr
    first, second = run.stdout.splitlines()
    assert first.startswith(str(counting))
    assert ("'task_linear': (1, " in first) == counting
    assert second == "{}"


# ---- the build's switches --------------------------------------------------------------------------------------------


def run_setup(*arguments: str, cwd: Path = ROOT, **changes: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(cwd / "setup.py"), *arguments]
    return subprocess.run(command, cwd=cwd, env=clean_environment(**changes), capture_output=True, text=True)


@needs_sources
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"RSN2_NATIVE": "yes"}, "RSN2_NATIVE must be auto, 0 or 1, got 'yes'"),
        ({"RSN2_CUDA": "on"}, "RSN2_CUDA must be auto, 0 or 1, got 'on'"),
        ({"RSN2_CUDA": "1", "CUDA_HOME": "/nowhere"}, "RSN2_CUDA=1: CUDA_HOME=/nowhere: there is no bin/nvcc"),
        ({"RSN2_CUDA": "1", "RSN2_NATIVE": "0"}, "RSN2_CUDA=1: the CUDA library needs the native one"),
        ({"RSN2_NATIVE": "1", "PATH": "/nowhere"}, "RSN2_NATIVE=1: no C++ compiler found"),
        ({"CXX": "no-such-compiler"}, "CXX names 'no-such-compiler', which is not there"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_switches_that_cannot_be_had_are_errors(changes, message):
    run = run_setup("--name", **changes)
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1].startswith(message)


@needs_sources
@pytest.mark.parametrize(
    "changes", [{"RSN2_NATIVE": "0"}, {"RSN2_NATIVE": "auto", "PATH": "/nowhere"}, {"RSN2_CUDA": "0"}]
)
def test_switches_that_are_fine(changes):
    run = run_setup("--name", **changes)
    assert (run.returncode, run.stdout.splitlines()[-1]) == (0, "rsn2-kernels"), run.stderr


# ---- wheels ----------------------------------------------------------------------------------------------------------


def copy_of_tree(folder: Path) -> Path:
    """The files that make a wheel, without what earlier builds left."""
    ignore = shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info")
    for name in ("csrc", "rsn2_kernels", "python", "bench"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    (folder / "tools").mkdir()
    for name in ("setup.py", "tools/cuda_toolkit.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def build_wheel(folder: Path, **changes: str) -> Path:
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps", "-w", "dist", "."]
    run = subprocess.run(command, cwd=folder, env=clean_environment(**changes), capture_output=True, text=True)
    assert run.returncode == 0, run.stderr + run.stdout
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


def python_files(folder: Path) -> set[str]:
    """Every Python file of both packages and of the benchmark, by its name in a wheel."""
    roots = {"rsn2_kernels": folder / "rsn2_kernels", "rsn2": folder / "python" / "rsn2"}
    roots["rsn2/_bench"] = folder / "bench"
    return {
        str(Path(name) / path.relative_to(root))
        for name, root in roots.items()
        for path in root.rglob("*")
        if path.suffix == ".py" or path.name == "py.typed"
    }


@needs_sources
def test_wheel_holds_every_python_file_and_nothing_else(tmp_path):
    wheel = build_wheel(copy_of_tree(tmp_path), RSN2_NATIVE="0")
    assert wheel.name.endswith("-py3-none-any.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == python_files(tmp_path)
    folders = {path.parent for path in map(Path, names) if path.suffix == ".py"}
    assert {folder for folder in folders if str(folder / "__init__.py") not in names} == set()


@needs_sources
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_native_wheel_works_from_elsewhere(tmp_path):
    tree = copy_of_tree(tmp_path / "tree")
    wheel = build_wheel(tree, RSN2_NATIVE="1", RSN2_CUDA="0")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    module = f"rsn2_kernels/_C{sysconfig.get_config_var('EXT_SUFFIX')}"
    assert names == python_files(tree) | {module, "rsn2_kernels/librsn2_cpu.so"}

    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    outer = Path(sysconfig.get_paths(vars={"base": str(tmp_path / "venv")})["purelib"]) / "outer.pth"
    # torch comes from this environment; an editable rsn2-kernels does not, its import hook is started by a .pth file.
    outer.write_text("\n".join(sorted({str(Path(module.__file__).parents[1]) for module in (pytest, _build.torch)})))
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel], check=True)
    shutil.rmtree(tree)
    code = f"{USE_IT}; import rsn2; print(rsn2.__file__); assert 'cpu' in r.backends() and r.backends().cpu_level"
    run = subprocess.run([python, "-c", code], cwd=tmp_path, env=clean_environment(), capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count(str(tmp_path / "venv")) == 2
    command = [tmp_path / "venv" / "bin" / "rsn2", "--help"]
    run = subprocess.run(command, cwd=tmp_path, env=clean_environment(), capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
