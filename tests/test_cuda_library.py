"""Loading the CUDA library: wrong surroundings, broken libraries, and what the real one is linked to."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rsn2_kernels import _cuda

ROOT = Path(__file__).resolve().parent.parent
FACTS = {"cuda": "CUDA 13.0, 8.0 9.0a 12.0+PTX", "build_id": "0123456789abcdef"}


# ---- whether the library serves --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architectures", "runs", "does_not_run"),
    [
        ("8.0", [(8, 0), (8, 9)], [(7, 5), (9, 0), (12, 0)]),
        ("9.0a", [(9, 0)], [(9, 1), (10, 0), (8, 9)]),
        ("10.0f", [(10, 0), (10, 3)], [(11, 0), (9, 0)]),
        ("8.0 12.0+PTX", [(8, 6), (12, 0), (12, 1), (13, 0)], [(9, 0), (10, 0), (7, 5)]),
        ("9.0a+PTX", [(9, 0)], [(10, 0)]),
    ],
)
def test_devices_that_an_architecture_runs_on(architectures, runs, does_not_run):
    facts = f"CUDA 13.0, {architectures}"
    assert [capability for capability in runs if not _cuda.runs_on(facts, capability)] == []
    assert [capability for capability in does_not_run if _cuda.runs_on(facts, capability)] == []


def test_reasons_not_to_load(monkeypatch, tmp_path):
    library = tmp_path / "librsn2_cuda.so"
    assert "installed without CUDA kernels" in _cuda.why_unused(FACTS, library)
    library.write_bytes(b"not a library")
    monkeypatch.setattr(torch.version, "cuda", None)
    assert _cuda.why_unused(FACTS, library) == f"torch {torch.__version__} is built without CUDA"
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    wanted = f"the CUDA kernels are built for CUDA 13.0, torch {torch.__version__} for 12.8"
    assert _cuda.why_unused(FACTS, library) == wanted
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    assert _cuda.why_unused(FACTS, library) is None and _cuda.why_unused(None, library) is None


def test_reasons_of_devices(monkeypatch):
    capabilities: list[tuple[int, int]] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capabilities[device])
    assert _cuda.why_no_device(FACTS) == "torch finds no CUDA device"
    capabilities[:] = [(7, 5), (7, 0)]
    wanted = "the kernels are built for CUDA 13.0, 8.0 9.0a 12.0+PTX, the devices here are of 7.0, 7.5"
    assert _cuda.why_no_device(FACTS) == wanted
    capabilities.append((9, 0))
    assert _cuda.why_no_device(FACTS) is None


def test_broken_and_foreign_libraries_stop_the_import(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(_cuda, "_loaded", None)
    library = tmp_path / "librsn2_cuda.so"
    library.write_bytes(b"not a library")
    with pytest.raises(ImportError, match="a CUDA library that cannot be loaded with torch .*librsn2_cuda.so"):
        _cuda.load(FACTS, library)
    with pytest.raises(ImportError, match="is left from another build"):
        _cuda.load({**FACTS, "cuda": "none"}, library)
    if shutil.which("g++") is None:
        pytest.skip("what follows needs g++")
    for name, code, message in [
        ("one", "int x;", "cannot be loaded with torch .*rsn2_cuda_build_id"),
        (
            "two",
            'extern "C" const char* rsn2_cuda_build_id() { return "f00"; }',
            r"builds \(0123456789abcdef and f00\)",
        ),
    ]:
        other = tmp_path / f"{name}.so"
        subprocess.run(["g++", "-shared", "-fPIC", "-x", "c++", "-", "-o", other], input=code, text=True, check=True)
        with pytest.raises(ImportError, match=message):
            _cuda.load(FACTS, other)
    assert not _cuda.is_loaded()


# ---- the real library, beside whatever torch is here -----------------------------------------------------------------

STUB = 'extern "C" int aoti_torch_get_current_cuda_stream(int, void**) { return 1; }\n'


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A copy of the tree with librsn2_cuda.so for one architecture."""
    if shutil.which("nvcc") is None or shutil.which("g++") is None or not (ROOT / "setup.py").exists():
        pytest.skip("needs nvcc, g++ and the sources")
    folder = tmp_path_factory.mktemp("tree")
    for name in ("csrc", "rsn2_kernels", "python", "bench"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info"))
    (folder / "tools").mkdir()
    for name in ("setup.py", "tools/cuda_toolkit.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RSN2_")}
    environment |= {"RSN2_CUDA": "1", "TORCH_CUDA_ARCH_LIST": "9.0"}
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "rsn2-kernels: CUDA kernels: for CUDA " in run.stdout
    return folder


def run_python(folder: Path, code: str, **changes: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RSN2_")}
    environment |= {"PYTHONPATH": str(folder), **changes}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm")
def test_symbols(built):
    library = str(built / "rsn2_kernels" / "librsn2_cuda.so")
    nm = ["nm", "-D", "-C", library]
    exported = subprocess.run([*nm, "--defined-only"], capture_output=True, text=True, check=True).stdout
    functions = [line.split(maxsplit=2)[2] for line in exported.splitlines() if " T " in line]
    assert functions == ["rsn2_cuda_build_id"]  # for Python, by ctypes
    undefined = subprocess.run([*nm, "-u"], capture_output=True, text=True, check=True).stdout.split()
    assert "aoti_torch_get_current_cuda_stream" in undefined
    assert [name for name in undefined if name.startswith(("cuda", "cu", "rsn2", "c10", "at::"))] == []
    inside = subprocess.run(["nm", "-C", library], capture_output=True, text=True, check=True).stdout
    assert "rsn2::Plan" in inside and "rsn2::emulator" not in inside


SHOW = "import rsn2_kernels as r; print(r.backends())"

without_cuda = pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has CUDA")


def toolkit_version(built: Path) -> str:
    code = "from rsn2_kernels import _build, ops; print(_build.native().build_info()['cuda'])"
    run = run_python(built, code)
    facts = run.stdout.strip()
    assert facts.endswith(", 9.0"), run.stderr
    return facts.removeprefix("CUDA ").removesuffix(", 9.0")


@pytest.mark.slow
@without_cuda
def test_beside_a_torch_without_cuda(built):
    run = run_python(built, SHOW)
    assert run.returncode == 0 and "is built without CUDA" in run.stdout, run.stderr
    forced = run_python(built, SHOW, RSN2_BACKEND="cuda").stderr.splitlines()[-1]
    assert forced.startswith("RuntimeError: RSN2_BACKEND=cuda: this backend is not here (torch ")
    assert forced.endswith("Present: reference, cpu")


@pytest.mark.slow
@without_cuda
def test_beside_a_torch_of_another_cuda(built):
    run = run_python(built, f"import torch; torch.version.cuda = '1.0'; {SHOW}")
    assert run.returncode == 0 and "the CUDA kernels are built for CUDA" in run.stdout, run.stderr


@pytest.mark.slow
@without_cuda
def test_what_the_library_lacks_is_found_when_it_is_loaded(built):
    run = run_python(built, f"import torch; torch.version.cuda = {toolkit_version(built)!r}; {SHOW}")
    assert run.returncode == 1
    assert "ImportError: rsn2_kernels has a CUDA library that cannot be loaded with torch" in run.stderr
    assert "libtorch_cuda.so" in run.stderr


@pytest.mark.slow
@without_cuda
def test_it_loads_beside_the_library_of_torch_and_brings_the_gather_index(built, tmp_path):
    stub = tmp_path / "libtorch_cuda.so"
    command = ["g++", "-shared", "-fPIC", "-x", "c++", "-", f"-Wl,-soname,{stub.name}", "-o", stub]
    subprocess.run(command, input=STUB, text=True, check=True)
    code = (
        f"import ctypes, torch; torch.version.cuda = {toolkit_version(built)!r}; ctypes.CDLL({str(stub)!r}); {SHOW}\n"
        "from rsn2_kernels import _cuda; assert _cuda.is_loaded()\n"
        "has = torch._C._dispatch_has_kernel_for_dispatch_key\n"
        "assert has('rsn2_kernels::task_linear_index', 'CUDA') and has('rsn2_kernels::task_conv2d_index', 'CUDA')\n"
    )
    run = run_python(built, code)
    assert run.returncode == 0 and "torch finds no CUDA device" in run.stdout, run.stderr
