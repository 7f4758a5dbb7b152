"""What the constructors of task layers refuse, so that no layer is made whose first call would fail."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

from torch import Tensor

from rsn2_kernels.formats import SeededBase, StoredBase
from rsn2_kernels.formats.base import INITIALIZERS
from rsn2_kernels.ops._checks import ACTIVATIONS, FLOATS


def number(kind: str, name: str, given: Any, least: int = 1) -> int:
    """A whole number that is large enough, of Python or NumPy."""
    if isinstance(given, bool) or not isinstance(given, Integral) or given < least:
        wanted = "a positive int" if least == 1 else f"an int >= {least}"
        raise ValueError(f"{kind}: {name} must be {wanted}, got {given!r}")
    return int(given)


def numbers(kind: str, name: str, given: Any, dims: int, least: int = 1) -> tuple[int, ...]:
    """One number for every dimension, or the same for all."""
    found = [given] * dims if isinstance(given, Integral) else given
    if not isinstance(found, Sequence) or isinstance(found, str) or len(found) != dims:
        raise ValueError(f"{kind}: {name} must be a number or {dims} numbers, got {given!r}")
    return tuple(number(kind, name, each, least) for each in found)


def check_values(kind: str, shape: Sequence[int], base: Any, base_bias: Any, activation: Any, dtype: Any) -> None:
    """What linear layers and convolutions take besides their sizes; ``shape`` is that of the weight."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"{kind}: activation must be one of {ACTIVATIONS}, got {activation!r}")
    if dtype is not None and dtype not in FLOATS:
        raise ValueError(f"{kind}: dtype must be float32, float64, bfloat16 or float16, got {dtype}")
    if isinstance(base, StoredBase):
        _check_tensor(kind, "base", base.weight, list(shape))
    elif isinstance(base, SeededBase):
        if base.initializer not in INITIALIZERS:
            raise ValueError(f"{kind}: base must have an initializer of {INITIALIZERS}, got {base.initializer!r}")
        if not 0 <= base.seed < 1 << 64:
            raise ValueError(f"{kind}: base must have a seed in 0..2**64-1, got {base.seed}")
    elif base is not None:
        raise TypeError(f"{kind}: base must be a SeededBase or a StoredBase, got {type(base).__name__}")
    if base_bias is not None:
        _check_tensor(kind, "base_bias", base_bias, [shape[0]])


def _check_tensor(kind: str, name: str, given: Any, shape: list[int]) -> None:
    if not isinstance(given, Tensor):
        raise TypeError(f"{kind}: {name} must be a float tensor {shape}, got {type(given).__name__}")
    if list(given.shape) != shape or not given.is_floating_point():
        raise ValueError(f"{kind}: {name} must be float {shape}, got {given.dtype} {list(given.shape)}")


def check_padding(kind: str, given: str, stride: Sequence[int]) -> None:
    if given not in ("same", "valid"):
        raise ValueError(f'{kind}: padding must be "same", "valid" or numbers, got {given!r}')
    if given == "same" and any(step != 1 for step in stride):
        raise ValueError(f'{kind}: padding "same" needs stride 1, got {list(stride)}')
