"""What the CUDA build is made with: nvcc, torch's CUDA, architectures, and the reason when there is none.

setup.py and check_cuda.py use it. Nothing here imports torch, which may be absent or without CUDA.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path

DEFAULT_ARCHITECTURES = ("8.0", "9.0a", "9.0", "10.0", "12.0")  # the last one that nvcc knows as PTX, too
OLDEST_ARCHITECTURE = 80  # the first with asynchronous copies and bfloat16 in its tensor cores


class NoCuda(Exception):
    """There is nothing to compile CUDA with, or nothing to compile it for; the message says why."""


class Toolkit:
    """One nvcc and what it says about itself."""

    def __init__(self, nvcc: str) -> None:
        self.nvcc = nvcc

    def _ask(self, *arguments: str) -> str:
        command = [self.nvcc, *arguments]
        try:
            run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        except OSError as error:
            raise NoCuda(f"{shlex.join(command)} cannot be run: {error}") from error
        if run.returncode != 0:
            raise NoCuda(f"{shlex.join(command)} fails: {run.stdout.strip()}")
        return run.stdout

    @cached_property
    def version(self) -> str:
        """As in ``13.0``."""
        output = self._ask("--version")
        found = re.search(r"release (\d+\.\d+)", output)
        if found is None:
            raise NoCuda(f"{self.nvcc} --version does not say a version: {output.strip()!r}")
        return found[1]

    @cached_property
    def architectures(self) -> set[int]:
        """All that it compiles for, as in 80."""
        return {int(number) for number in re.findall(r"compute_(\d+)\b", self._ask("--list-gpu-arch"))}

    @cached_property
    def _folders(self) -> str:
        # Asked for rather than derived from nvcc's path, which may be a script that starts an nvcc elsewhere.
        return self._ask("--dryrun", "-c", "any.cu")

    def _paths(self, name: str, option: str) -> list[str]:
        line = re.search(rf"^#\$ {name}=(.*)$", self._folders, re.MULTILINE)
        words = shlex.split(line[1]) if line else []
        paths = [str(Path(word[2:]).resolve()) for word in words if word.startswith(option)]
        if not paths:
            raise NoCuda(f"{self.nvcc} --dryrun names no {name} folder")
        return paths

    @property
    def includes(self) -> list[str]:
        return self._paths("INCLUDES", "-I")

    @property
    def libraries(self) -> list[str]:
        return self._paths("LIBRARIES", "-L")


def find_toolkit(environment: Mapping[str, str], usual: str = "/usr/local/cuda") -> Toolkit:
    """The nvcc of ``CUDA_HOME``, which must be there when it is set, else of ``PATH``, else of ``usual``."""
    if environment.get("CUDA_HOME"):
        nvcc = shutil.which("nvcc", path=f"{environment['CUDA_HOME']}/bin")
        if nvcc is None:
            raise NoCuda(f"CUDA_HOME={environment['CUDA_HOME']}: there is no bin/nvcc")
    else:
        nvcc = shutil.which("nvcc", path=environment.get("PATH", "")) or shutil.which("nvcc", path=f"{usual}/bin")
    if nvcc is None:
        raise NoCuda(f"no CUDA toolkit: nvcc is neither under CUDA_HOME, nor on PATH, nor in {usual}/bin")
    return Toolkit(nvcc)


def cuda_of_torch(folder: Path) -> str | None:
    """The CUDA version that the torch in this folder is built with, as in ``12.8``; None for a torch without CUDA."""
    path = folder / "version.py"
    found = re.search(r"^cuda\b[^=\n]*= *(?:None|['\"](\d+\.\d+)[^'\"]*['\"])", path.read_text(), re.MULTILINE)
    if found is None:
        raise NoCuda(f"{path} does not say which CUDA torch is built with")
    return found[1]


def choose(wish: str, torch_folder: Path | None, environment: Mapping[str, str]) -> Toolkit:
    """What to compile the CUDA library with.

    Args:
        wish: ``RSN2_CUDA``: ``auto``, ``0`` or ``1``.
        torch_folder: where torch is; None when there is none.
        environment: the process's.

    Raises:
        NoCuda: nothing, and why; for ``1`` that is an error.
    """
    if wish == "0":
        raise NoCuda("RSN2_CUDA=0")
    if torch_folder is None:
        raise NoCuda("torch is not installed")
    cuda = cuda_of_torch(torch_folder)
    if wish == "auto" and cuda is None:
        raise NoCuda("torch is built without CUDA (RSN2_CUDA=1 compiles nevertheless)")
    toolkit = find_toolkit(environment)
    if cuda is not None and cuda.split(".")[0] != toolkit.version.split(".")[0]:
        raise NoCuda(f"{toolkit.nvcc} is of CUDA {toolkit.version}, torch is built with CUDA {cuda}")
    return toolkit


def parse_architectures(text: str) -> list[tuple[str, bool]]:
    """``"8.0;9.0a+PTX"`` is ``[("80", False), ("90a", True)]``: where code is wanted, and where PTX is as well.

    Raises:
        NoCuda: text that is not such a list, or one that is empty.
    """
    found: dict[str, bool] = {}
    for word in re.split(r"[;,\s]+", text.strip(" ;,\t")):
        number = re.fullmatch(r"(\d{1,2})\.(\d[af]?)(\+PTX)?", word)
        if number is None:
            raise NoCuda(
                f"TORCH_CUDA_ARCH_LIST={text!r}: {word!r} is not an architecture; a list looks like '8.0;9.0a+PTX'"
            )
        name = number[1] + number[2]
        found[name] = found.get(name, False) or number[3] is not None
    return list(found.items())


def wanted_architectures(environment: Mapping[str, str], known: Iterable[int]) -> list[tuple[str, bool]]:
    """``TORCH_CUDA_ARCH_LIST``, else those of the default that nvcc knows, with PTX of the newest.

    Raises:
        NoCuda: one that nvcc does not know or that is too old is in the list.
    """
    known = sorted(known)
    text = environment.get("TORCH_CUDA_ARCH_LIST", "").strip()
    if not text:
        default = [name for name, _ in parse_architectures(" ".join(DEFAULT_ARCHITECTURES)) if _number(name) in known]
        if not default:
            raise NoCuda(f"nvcc knows none of {' '.join(DEFAULT_ARCHITECTURES)}")
        return [(name, name == default[-1]) for name in default]
    wanted = parse_architectures(text)
    for name, _ in wanted:
        if _number(name) < OLDEST_ARCHITECTURE:
            raise NoCuda(f"TORCH_CUDA_ARCH_LIST={text!r}: {_dotted(name)} is too old, the kernels need 8.0 or newer")
        if _number(name) not in known:
            has = " ".join(_dotted(str(number)) for number in known if number >= OLDEST_ARCHITECTURE)
            raise NoCuda(f"TORCH_CUDA_ARCH_LIST={text!r}: nvcc does not know {_dotted(name)}; it knows: {has}")
    return wanted


def _number(name: str) -> int:
    return int(name.rstrip("af"))


def _dotted(name: str) -> str:
    digits = name.rstrip("af")
    return f"{digits[:-1]}.{digits[-1]}{name[len(digits) :]}"


def in_words(architectures: Iterable[tuple[str, bool]]) -> str:
    """As in ``8.0 9.0a+PTX``."""
    return " ".join(_dotted(name) + "+PTX" * with_ptx for name, with_ptx in architectures)


def gencode(architectures: Iterable[tuple[str, bool]]) -> list[str]:
    """nvcc's options for these architectures."""
    options = []
    for name, with_ptx in architectures:
        options.append(f"-gencode=arch=compute_{name},code=sm_{name}")
        if with_ptx:
            options.append(f"-gencode=arch=compute_{name},code=compute_{name}")
    return options


class Build:
    """All that setup.py takes from a toolkit. Raises NoCuda for a ``TORCH_CUDA_ARCH_LIST`` that it cannot serve."""

    def __init__(self, toolkit: Toolkit, environment: Mapping[str, str]) -> None:
        architectures = wanted_architectures(environment, toolkit.architectures)
        self.nvcc, self.includes, self.libraries = toolkit.nvcc, toolkit.includes, toolkit.libraries
        self.gencode = gencode(architectures)
        self.facts = f"CUDA {toolkit.version}, {in_words(architectures)}"
