"""The paper's experiments: each is one file with a function that returns all of it.

Modules are imported when an experiment is asked for, so that listing them costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rsn2.experiments.experiment import Experiment

__all__ = ["EXPERIMENTS", "load_experiment"]

EXPERIMENTS: dict[str, tuple[str, str]] = {
    "exp3": ("mnist_and_fashion", "MNIST digits and Fashion-MNIST in one fully connected network, trained together"),
}
"""Name -> (function that returns it, what it is in one line)."""


def load_experiment(name: str) -> Experiment:
    """The experiment of that name.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    if name not in EXPERIMENTS:
        raise ValueError(f"load_experiment: name must be one of {', '.join(EXPERIMENTS)}, got {name!r}")
    module = importlib.import_module(f"rsn2.experiments.{name}")
    experiment: Experiment = getattr(module, EXPERIMENTS[name][0])()
    return experiment
