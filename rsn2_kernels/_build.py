"""Which backends are here: loading the native library, ``RSN2_BACKEND`` and ``RSN2_CPU``, and ``backends()``.

Absent is fine: everything works through the plain PyTorch reference, slower. Present but broken stops the import with
its own message, and so does asking by name for what is not there.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import struct
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

import torch

from rsn2_kernels import _cuda

OLDEST_TORCH = (2, 10)
BACKENDS = ("reference", "cpu", "triton", "cuda")

_FOLDER = Path(__file__).parent
_native: ModuleType | None = None


def check_torch(version: str) -> None:
    """Raise ``ImportError`` when torch is older than the libtorch interface that the native library is built for."""
    numbers = tuple(int("".join(filter(str.isdigit, part)) or 0) for part in version.split("+")[0].split(".")[:2])
    if numbers < OLDEST_TORCH:
        wanted = ".".join(map(str, OLDEST_TORCH))
        raise ImportError(f"rsn2_kernels needs torch >= {wanted}, got {version}")


def forced_backend() -> str | None:
    """The backend that ``RSN2_BACKEND`` names, ``None`` when it is unset.

    Raises:
        RuntimeError: it names something unknown or something that is not here.
    """
    name = os.environ.get("RSN2_BACKEND") or None
    if name is None or name == "reference":
        return name
    # Its own state alone: asking for all would start CUDA.
    state = _STATE_OF[name]() if name in BACKENDS else None
    if state is not None and state.present:
        return name
    why = f"it is none of {', '.join(BACKENDS)}" if state is None else state.reason
    present = ", ".join(state.name for state in _states() if state.present)
    raise RuntimeError(f"RSN2_BACKEND={name}: this backend is not here ({why}). Present: {present}")


def load_native() -> bool:
    """Load the native library, which registers the operators and their CPU kernels, if it is here and wanted.

    Returns:
        ``True`` when the library has defined the operators, ``False`` when the package must do so itself.

    Raises:
        ImportError: torch is too old; the library is damaged, or built for another Python or torch.
        RuntimeError: ``RSN2_BACKEND`` names a backend that is not here, or ``RSN2_CPU`` is set without a library.
        ValueError: ``RSN2_CPU`` names a level that is unknown or that this machine lacks.
    """
    global _native
    check_torch(torch.__version__)
    if forced_backend() == "reference" or triton_key() == "CPU":
        return False
    if _native is not None:
        return True
    if _native_is_installed():
        for path in _FOLDER.glob("*.so"):
            _check_not_truncated(path)
        try:
            _native = importlib.import_module("rsn2_kernels._C")
        except ImportError as error:
            raise ImportError(
                f"rsn2_kernels has a native library that cannot be loaded with torch {torch.__version__}: {error}\n"
                f"Install rsn2-kernels again in this environment, or delete {_FOLDER}/_C.* and librsn2_*.so to do "
                f"without."
            ) from error
        _native.cpu_level()  # an RSN2_CPU that cannot be had is an error now, not at the first call
        if os.environ.get("RSN2_BACKEND") in (None, "", "cuda"):
            _cuda.load(_native.build_info())
            forced_backend()  # again: the native library knows what the CUDA kernels are built for
        return True
    if os.environ.get("RSN2_CPU"):
        raise RuntimeError(f"RSN2_CPU={os.environ['RSN2_CPU']}: {_state_of_cpu().reason}")
    return False


def native() -> ModuleType:
    """The loaded module ``_C``: build facts, CPU levels, debug counters. ``RuntimeError`` when it is not loaded."""
    if _native is None:
        raise RuntimeError(f"the native library of rsn2_kernels is not loaded: {_state_of_cpu().reason}")
    return _native


def _native_is_installed() -> bool:
    # Only beside this file: an editable installation elsewhere would otherwise lend its library to a copy without one.
    if PathFinder.find_spec("rsn2_kernels._C", [str(_FOLDER)]) is not None:
        return True
    strangers = sorted(path.name for pattern in ("_C.*.so", "librsn2_*.so") for path in _FOLDER.glob(pattern))
    if strangers:
        raise ImportError(
            f"rsn2_kernels has native files for another Python ({', '.join(strangers)}) and none for this one "
            f"({sysconfig.get_config_var('SOABI')}). Install rsn2-kernels again with this Python."
        )
    return False


def _check_not_truncated(path: Path) -> None:
    """Loading an ELF file that ends too early kills the process with SIGBUS, so that is asked first."""
    content = path.read_bytes()
    if content[:5] != b"\x7fELF\x02" or len(content) < 64:
        return  # not a 64-bit ELF file at all: the loader says so
    (table,) = struct.unpack_from("<Q", content, 0x20)
    entry_size, num_entries = struct.unpack_from("<HH", content, 0x36)
    end = table + entry_size * num_entries
    if end <= len(content):
        segments = [struct.unpack_from("<8xQ16xQ", content, table + i * entry_size) for i in range(num_entries)]
        end = max(offset + size for offset, size in segments)
    if end > len(content):
        raise ImportError(
            f"rsn2_kernels has a native library that cannot be loaded: {path} is truncated ({len(content)} bytes of at "
            f"least {end}). Install rsn2-kernels again in this environment."
        )


@dataclass(frozen=True)
class Backend:
    """One way of running the operators: whether it is here, and why (not), in words."""

    name: str
    present: bool
    reason: str


@dataclass(frozen=True)
class Backends:
    """What ``backends()`` found. Prints as a table; ``in``, ``[]`` and iteration go by name."""

    states: tuple[Backend, ...]
    cpu_level: str | None
    build_info: dict[str, str]

    def __contains__(self, name: str) -> bool:
        return any(state.name == name and state.present for state in self.states)

    def __iter__(self) -> Iterator[str]:
        return iter(state.name for state in self.states if state.present)

    def __getitem__(self, name: str) -> Backend:
        for state in self.states:
            if state.name == name:
                return state
        raise KeyError(f"no backend is called {name!r}; there are: {', '.join(s.name for s in self.states)}")

    def __str__(self) -> str:
        lines = [f"{s.name:<10} {'present' if s.present else 'absent':<8} {s.reason}" for s in self.states]
        lines += [f"{'build':<10} {key}: {value}" for key, value in self.build_info.items()]
        return "\n".join(lines)


def backends() -> Backends:
    """What this installation can run on: each backend, whether it is present, and why; the CPU level; build facts."""
    loaded = _native is not None
    return Backends(
        states=_states(),
        cpu_level=native().cpu_level() if loaded else None,
        build_info=dict(native().build_info()) if loaded else {},
    )


def _states() -> tuple[Backend, ...]:
    return tuple(_STATE_OF[name]() for name in BACKENDS)


def _state_of_reference() -> Backend:
    return Backend("reference", True, "plain PyTorch, on every device, slower")


def _state_of_cpu() -> Backend:
    if _native is not None:
        levels = ", ".join(_native.available_cpu_levels())
        return Backend("cpu", True, f"native library loaded, level {_native.cpu_level()} (this machine has: {levels})")
    if _native_is_installed():
        forced = os.environ.get("RSN2_BACKEND")
        unused = f", not used (RSN2_BACKEND={forced})" if forced in ("reference", "triton") else ""
        return Backend("cpu", True, "native library installed" + unused)
    return Backend("cpu", False, "installed without a native library: no C++ compiler was found, or RSN2_NATIVE=0")


def triton_key() -> str | None:
    """The dispatch key that the Triton kernels serve: ``"CUDA"``, ``"CPU"`` in Triton's interpreter, None for none.

    Whether there is a device is not asked: that would start CUDA, which a process then cannot fork with.
    """
    forced = os.environ.get("RSN2_BACKEND")
    if forced not in (None, "", "triton") or importlib.util.find_spec("triton") is None:
        return None
    if _is_interpreting():
        return "CPU"
    return None if torch.version.cuda is None or _cuda.is_loaded() else "CUDA"


def triton_key_beside_cuda() -> str | None:
    """The dispatch key of the Triton kernels that serve beside the CUDA library, which asks for them; None for none.

    They serve weights claimed in blocks, see :func:`rsn2_kernels._answers.is_for_block_kernels`. ``RSN2_BACKEND=cuda``
    leaves everything to the library.
    """
    is_free = os.environ.get("RSN2_BACKEND") in (None, "")
    return "CUDA" if is_free and _cuda.is_loaded() and importlib.util.find_spec("triton") is not None else None


def _is_interpreting() -> bool:
    return os.environ.get("RSN2_BACKEND") == "triton" and os.environ.get("TRITON_INTERPRET") == "1"


def _state_of_triton() -> Backend:
    if importlib.util.find_spec("triton") is None:
        return Backend("triton", False, "Triton is not installed")
    version = importlib.metadata.version("triton")
    if _is_interpreting():
        return Backend("triton", True, f"Triton {version} in its interpreter, on the CPU: for tests, very slow")
    hint = "RSN2_BACKEND=triton with TRITON_INTERPRET=1 runs the kernels on the CPU, to test them"
    if torch.version.cuda is None:
        return Backend("triton", False, f"Triton {version} is installed, but torch is built without CUDA; {hint}")
    if not torch.cuda.is_available():
        return Backend("triton", False, f"Triton {version} is installed, but torch finds no CUDA device; {hint}")
    beside = ": beside the CUDA library, for weights claimed in blocks" if triton_key_beside_cuda() else ""
    return Backend("triton", True, f"Triton {version}, for tensors on CUDA devices{beside}")


def _state_of_cuda() -> Backend:
    if not _native_is_installed():
        return Backend("cuda", False, "CUDA kernels come with the native library, which is not here")
    facts = dict(_native.build_info()) if _native is not None else None
    absent = _cuda.why_unused(facts) or _cuda.why_no_device(facts)
    if absent is not None:
        return Backend("cuda", False, absent)
    if _cuda.is_loaded() and facts is not None:
        return Backend("cuda", True, f"CUDA library loaded, built for {facts['cuda']}")
    forced = os.environ.get("RSN2_BACKEND")
    return Backend("cuda", True, "CUDA library installed" + f", not used (RSN2_BACKEND={forced})" * bool(forced))


_STATE_OF = {
    "reference": _state_of_reference,
    "cpu": _state_of_cpu,
    "triton": _state_of_triton,
    "cuda": _state_of_cuda,
}
