"""How the C library gives memory back, which decides how fast large networks train on a CPU."""

from __future__ import annotations

import ctypes
import gc
import platform

# Parameters of mallopt in glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_TOP_PAD_BYTES = 1 << 28


def keep_freed_memory() -> bool:
    """From now on let this process keep the memory it frees, for the next tensors.

    glibc gives every large block back to the system when it is freed, and the system hands out the next one page by
    page, each filled with zeros first: a training step whose activations are tens of megabytes spends half of its time
    on that. Afterwards the process holds the most memory that it ever needed until it ends.

    Returns:
        Whether it was done; False where the C library is not glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_TOP_PAD, _TOP_PAD_BYTES))
    return all(mallopt(parameter, value) == 1 for parameter, value in settings)


def give_back_freed_memory() -> bool:
    """Let the system have the memory that this process keeps and does not use.

    Returns:
        Whether it was done; False where the C library is not glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return True
