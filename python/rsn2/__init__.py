"""Many tasks in one network, each in its own disjoint part of the weights: the procedure, methods and experiments.

``rsn2.data``, ``rsn2.metrics`` and ``rsn2.models`` are imported when they are first used.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from rsn2.checkpoint import load
from rsn2.network import MultitaskNetwork
from rsn2.procedure import ClaimReport, EarlyStopping, History, claim, equal_share, fit
from rsn2_kernels import CapacityError, __version__

_MODULES = ("data", "metrics", "models")

__all__ = [
    "CapacityError",
    "ClaimReport",
    "EarlyStopping",
    "History",
    "MultitaskNetwork",
    "__version__",
    "claim",
    "equal_share",
    "fit",
    "load",
]


def __getattr__(name: str) -> ModuleType:
    if name in _MODULES:
        return importlib.import_module(f"rsn2.{name}")
    raise AttributeError(f"module 'rsn2' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES])
