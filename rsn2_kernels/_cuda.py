"""The library of CUDA kernels: loading it beside a torch with CUDA, and the reason where it does not serve."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping
from pathlib import Path

import torch

LIBRARY = Path(__file__).parent / "librsn2_cuda.so"

_loaded: ctypes.CDLL | None = None


def is_loaded() -> bool:
    """Whether the operators have their CUDA kernels."""
    return _loaded is not None


def load(build_info: Mapping[str, str], library: Path = LIBRARY) -> None:
    """Load the library, which registers its kernels, if it is here and can serve this torch.

    Args:
        build_info: facts of the native library, which must be loaded and come from the same build.
        library: the file.

    Raises:
        ImportError: it cannot be loaded, or comes from another build.
    """
    global _loaded
    if _loaded is not None or why_unused(build_info, library) is not None:
        return
    remedy = f"Install rsn2-kernels again in this environment, or delete {library} to do without."
    if build_info["cuda"] == "none":
        raise ImportError(f"{library} is left from another build: this one has no CUDA kernels.\n{remedy}")
    try:
        found = ctypes.CDLL(str(library))
        build_id = found.rsn2_cuda_build_id
    except (OSError, AttributeError) as error:
        raise ImportError(
            f"rsn2_kernels has a CUDA library that cannot be loaded with torch {torch.__version__}: {error}\n{remedy}"
        ) from error
    build_id.restype = ctypes.c_char_p
    if build_id().decode() != build_info["build_id"]:
        raise ImportError(
            f"librsn2_cpu.so and librsn2_cuda.so come from different builds ({build_info['build_id']} and "
            f"{build_id().decode()}).\n{remedy}"
        )
    _loaded = found


def why_unused(build_info: Mapping[str, str] | None, library: Path = LIBRARY) -> str | None:
    """Why this library does not serve this torch; None when it does. ``build_info`` is None where it is not known."""
    if not library.exists():
        return "installed without CUDA kernels: there was no CUDA toolkit, torch had no CUDA, or RSN2_CUDA=0"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    built_for = cuda_of(build_info["cuda"]) if build_info else None
    if built_for and built_for.split(".")[0] != torch.version.cuda.split(".")[0]:
        return f"the CUDA kernels are built for CUDA {built_for}, torch {torch.__version__} for {torch.version.cuda}"
    return None


def why_no_device(build_info: Mapping[str, str] | None) -> str | None:
    """Why no device here can run the kernels; None when one can. Starts CUDA where there is a device."""
    num_devices = torch.cuda.device_count()
    if num_devices == 0:
        return "torch finds no CUDA device"
    capabilities = [torch.cuda.get_device_capability(device) for device in range(num_devices)]
    if build_info and not any(runs_on(build_info["cuda"], capability) for capability in capabilities):
        has = ", ".join(f"{major}.{minor}" for major, minor in sorted(set(capabilities)))
        return f"the kernels are built for {build_info['cuda']}, the devices here are of {has}"
    return None


def cuda_of(facts: str) -> str | None:
    """The CUDA version in facts like ``CUDA 13.0, 8.0 9.0a+PTX``."""
    found = re.match(r"CUDA (\d+\.\d+)", facts)
    return found[1] if found else None


def runs_on(facts: str, capability: tuple[int, int]) -> bool:
    """Whether kernels built for these architectures run on a device of this compute capability."""
    for name in facts.partition(", ")[2].split():
        number, minor, kind, ptx = re.fullmatch(r"(\d+)\.(\d)([af]?)(\+PTX)?", name).groups()  # type: ignore[union-attr]
        built = (int(number), int(minor))
        is_newer = capability > built and kind != "a"
        if capability == built or (is_newer and (capability[0] == built[0] or (ptx and not kind))):
            return True
    return False
