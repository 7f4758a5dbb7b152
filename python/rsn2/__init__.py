"""Many tasks in one network, each in its own disjoint part of the weights: the procedure, methods and experiments.

Everything is imported when it is first used, so that the command line starts without waiting for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rsn2 import data, experiments, memory, metrics, models
    from rsn2.checkpoint import load
    from rsn2.network import MultitaskNetwork
    from rsn2.procedure import ClaimReport, EarlyStopping, History, Reselection, claim, equal_share, fit, read_weights
    from rsn2_kernels import CapacityError, __version__

_MODULES = ("data", "experiments", "memory", "metrics", "models")
_HOMES = {
    "CapacityError": "rsn2_kernels",
    "ClaimReport": "rsn2.procedure",
    "EarlyStopping": "rsn2.procedure",
    "History": "rsn2.procedure",
    "MultitaskNetwork": "rsn2.network",
    "Reselection": "rsn2.procedure",
    "__version__": "rsn2_kernels",
    "claim": "rsn2.procedure",
    "equal_share": "rsn2.procedure",
    "fit": "rsn2.procedure",
    "load": "rsn2.checkpoint",
    "read_weights": "rsn2.procedure",
}

__all__ = [
    "CapacityError",
    "ClaimReport",
    "EarlyStopping",
    "History",
    "MultitaskNetwork",
    "Reselection",
    "__version__",
    "claim",
    "data",
    "equal_share",
    "experiments",
    "fit",
    "load",
    "memory",
    "metrics",
    "models",
    "read_weights",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"rsn2.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'rsn2' has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
