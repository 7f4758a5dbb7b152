"""Building the CUDA library: which toolkit, which architectures, and what is wrong with those that cannot be had."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def toolkit() -> ModuleType:
    """tools/cuda_toolkit.py."""
    path = ROOT / "tools" / "cuda_toolkit.py"
    if not path.exists():
        pytest.skip("only in a checkout of the repository")
    spec = importlib.util.spec_from_file_location("cuda_toolkit", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fake_nvcc(folder: Path, version: str = "13.0", architectures: str = "75 80 90 100 120") -> Path:
    """A toolkit whose nvcc only answers questions."""
    (folder / "bin").mkdir(parents=True)
    nvcc = folder / "bin" / "nvcc"
    known = "\n".join(f"compute_{number}" for number in architectures.split())
    nvcc.write_text(
        f'#!/bin/sh\ncase "$1" in\n--version) echo "Cuda compilation tools, release {version}, V{version}.1";;\n'
        f"--list-gpu-arch) echo '{known}';;\n"
        f'--dryrun) printf \'#$ INCLUDES="-I{folder}/include"  \\n#$ LIBRARIES=  "-L{folder}/lib"\\n\';;\n'
        "*) exit 3;;\nesac\n"
    )
    nvcc.chmod(0o755)
    return folder


def fake_torch(folder: Path, cuda: str | None) -> Path:
    folder.mkdir(parents=True)
    (folder / "version.py").write_text(
        f"from typing import Optional\n__version__ = '2.13.0'\ncuda: Optional[str] = {cuda!r}\n"
    )
    return folder


# ---- which toolkit ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cuda", ["13.0", "12.8", None])
def test_cuda_of_torch_is_read_without_importing_it(toolkit, tmp_path, cuda):
    assert toolkit.cuda_of_torch(fake_torch(tmp_path / "torch", cuda)) == cuda


def test_cuda_of_the_torch_here(toolkit):
    assert toolkit.cuda_of_torch(Path(torch.__file__).parent) == torch.version.cuda


def test_a_torch_that_does_not_say_its_cuda(toolkit, tmp_path):
    (tmp_path / "version.py").write_text("__version__ = '2.13.0'\n")
    with pytest.raises(toolkit.NoCuda, match="version.py does not say which CUDA torch is built with"):
        toolkit.cuda_of_torch(tmp_path)


def test_where_the_toolkit_is_looked_for(toolkit, tmp_path):
    home, on_path, usual = (fake_nvcc(tmp_path / name) for name in ("home", "on_path", "usual"))
    path = f"{tmp_path}:{on_path}/bin"
    found = toolkit.find_toolkit({"CUDA_HOME": str(home), "PATH": path}, str(usual))
    assert found.nvcc == f"{home}/bin/nvcc"
    assert (found.version, found.architectures) == ("13.0", {75, 80, 90, 100, 120})
    assert (found.includes, found.libraries) == ([f"{home}/include"], [f"{home}/lib"])
    assert toolkit.find_toolkit({"CUDA_HOME": "", "PATH": path}, str(usual)).nvcc == f"{on_path}/bin/nvcc"
    assert toolkit.find_toolkit({}, str(usual)).nvcc == f"{usual}/bin/nvcc"
    with pytest.raises(toolkit.NoCuda, match="nvcc is neither under CUDA_HOME, nor on PATH, nor in /nowhere/bin"):
        toolkit.find_toolkit({"PATH": str(tmp_path)}, "/nowhere")
    with pytest.raises(toolkit.NoCuda, match="CUDA_HOME=/nowhere: there is no bin/nvcc"):
        toolkit.find_toolkit({"CUDA_HOME": "/nowhere", "PATH": path}, str(usual))


@pytest.mark.parametrize(
    ("wish", "cuda", "message"),
    [
        ("0", "13.0", "RSN2_CUDA=0"),
        ("auto", None, "torch is built without CUDA"),
        ("auto", "12.8", "bin/nvcc is of CUDA 13.0, torch is built with CUDA 12.8"),
        ("1", "12.8", "bin/nvcc is of CUDA 13.0, torch is built with CUDA 12.8"),
        ("auto", "13.2", None),
        ("1", "13.0", None),
        ("1", None, None),
    ],
)
def test_when_cuda_is_built(toolkit, tmp_path, wish, cuda, message):
    environment = {"CUDA_HOME": str(fake_nvcc(tmp_path / "cuda"))}
    folder = fake_torch(tmp_path / "torch", cuda)
    if message is None:
        assert toolkit.choose(wish, folder, environment).nvcc == f"{tmp_path}/cuda/bin/nvcc"
    else:
        with pytest.raises(toolkit.NoCuda, match=message):
            toolkit.choose(wish, folder, environment)


def test_no_torch_and_an_nvcc_that_fails(toolkit, tmp_path):
    with pytest.raises(toolkit.NoCuda, match="torch is not installed"):
        toolkit.choose("1", None, {})
    nvcc = fake_nvcc(tmp_path / "cuda") / "bin" / "nvcc"
    nvcc.write_text("#!/bin/sh\necho out of order\nexit 1\n")
    with pytest.raises(toolkit.NoCuda, match="nvcc --version fails: out of order"):
        _ = toolkit.Toolkit(str(nvcc)).version
    nvcc.write_text("#!/bin/sh\necho hello\n")
    with pytest.raises(toolkit.NoCuda, match="nvcc --version does not say a version: 'hello'"):
        _ = toolkit.Toolkit(str(nvcc)).version
    with pytest.raises(toolkit.NoCuda, match="/nowhere/nvcc --version cannot be run"):
        _ = toolkit.Toolkit("/nowhere/nvcc").version


# ---- architectures ---------------------------------------------------------------------------------------------------

KNOWN = (75, 80, 86, 90, 100, 120)


@pytest.mark.parametrize(
    ("text", "known", "words"),
    [
        ("", KNOWN, "8.0 9.0a 9.0 10.0 12.0+PTX"),
        ("  ", (75, 80, 90), "8.0 9.0a 9.0+PTX"),  # an nvcc before 12.8
        ("9.0", KNOWN, "9.0"),
        ("8.0;9.0a+PTX", KNOWN, "8.0 9.0a+PTX"),
        (" 8.0, 8.6  9.0+PTX;", KNOWN, "8.0 8.6 9.0+PTX"),
        ("9.0 9.0+PTX 10.0f", KNOWN, "9.0+PTX 10.0f"),
    ],
)
def test_architectures(toolkit, text, known, words):
    assert toolkit.in_words(toolkit.wanted_architectures({"TORCH_CUDA_ARCH_LIST": text}, known)) == words


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Hopper", "TORCH_CUDA_ARCH_LIST='Hopper': 'Hopper' is not an architecture; a list looks like '8.0;9.0a.PTX'"),
        ("8.0;sm_90", "'sm_90' is not an architecture"),
        ("90", "'90' is not an architecture"),
        ("9.0 +PTX", r"'\+PTX' is not an architecture"),
        (";", "'' is not an architecture"),
        ("8.0;7.5", "TORCH_CUDA_ARCH_LIST='8.0;7.5': 7.5 is too old, the kernels need 8.0 or newer"),
        ("9.9a", "nvcc does not know 9.9a; it knows: 8.0 8.6 9.0 10.0 12.0$"),
    ],
)
def test_wrong_architectures(toolkit, text, message):
    with pytest.raises(toolkit.NoCuda, match=message):
        toolkit.wanted_architectures({"TORCH_CUDA_ARCH_LIST": text}, KNOWN)


def test_an_nvcc_too_old_for_any(toolkit):
    with pytest.raises(toolkit.NoCuda, match="nvcc knows none of 8.0 "):
        toolkit.wanted_architectures({}, (50, 60))


def test_options_for_nvcc(toolkit, tmp_path):
    found = toolkit.Toolkit(f"{fake_nvcc(tmp_path)}/bin/nvcc")
    build = toolkit.Build(found, {"TORCH_CUDA_ARCH_LIST": "8.0;9.0a+PTX"})
    assert build.facts == "CUDA 13.0, 8.0 9.0a+PTX"
    assert build.gencode == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_90a,code=sm_90a",
        "-gencode=arch=compute_90a,code=compute_90a",
    ]
