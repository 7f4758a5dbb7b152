"""The paper's experiments, and some beyond it: each is one file with a function that returns all of it.

Modules are imported when an experiment is asked for, so that listing them costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rsn2.experiments.experiment import Experiment

__all__ = ["EXPERIMENTS", "PAPER", "load_experiment"]

EXPERIMENTS: dict[str, tuple[str, str, str]] = {
    "exp1": ("exp1", "fashion_ensemble", "Fashion-MNIST five times in one convolutional network, and the ensemble"),
    "exp2": ("exp2", "easy_and_hard_fashion", "Easy and hard classes of Fashion-MNIST in one convolutional network"),
    "exp3": ("exp3", "mnist_and_fashion", "MNIST digits and Fashion-MNIST in one fully connected network"),
    "exp4": ("exp4", "mnist_and_fashion_conv", "MNIST digits and Fashion-MNIST in one convolutional network"),
    "exp5": ("exp5", "mnist_fashion_and_boston", "MNIST, Fashion-MNIST and Boston housing, fully connected"),
    "exp6": ("exp6", "cifar_mnist_and_fashion", "CIFAR-10, MNIST and Fashion-MNIST, convolutional"),
    "exp7": ("exp7", "images_numbers_and_text", "MNIST, Fashion-MNIST, Boston housing and IMDB reviews"),
    "exp8": ("exp8", "faces_and_cifar", "Age, gender and ethnicity of UTKFace and CIFAR-10, at 64x64"),
    "exp8-256": ("exp8", "faces_and_cifar_256", "Experiment 8 at the paper's 256x256"),
    "capacity": ("capacity", "capacity", "How many permuted tasks fit into one fully connected network"),
    "granularity": ("granularity", "sizes_of_claims", "Single weights against vectors and blocks at the same keep"),
    "scale": ("scale", "residual_network", "One-shot selection in a ResNet-18, on CIFAR-10 in two tasks"),
    "selection": ("selection", "ways_of_selection", "Which weights a task chooses, and re-selection while it trains"),
    "transfer": ("transfer", "fashion_to_fashion", "Reading what five classes of Fashion-MNIST taught, with few rows"),
    "transfer-digits": (
        "transfer",
        "digits_to_digits",
        "Reading what the digits 0 to 4 taught, with few rows of 5 to 9",
    ),
    "transfer-conv": ("transfer", "fashion_to_fashion_conv", "The same in a convolutional network"),
}
"""Name -> (module, function that returns the experiment, what it is in one line)."""

PAPER = tuple(f"exp{number}" for number in range(1, 9))
"""The paper's experiments, what ``rsn2 run all`` runs."""


def load_experiment(name: str) -> Experiment:
    """The experiment of that name.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    if name not in EXPERIMENTS:
        raise ValueError(f"load_experiment: name must be one of {', '.join(EXPERIMENTS)}, got {name!r}")
    module, function, _ = EXPERIMENTS[name]
    experiment: Experiment = getattr(importlib.import_module(f"rsn2.experiments.{module}"), function)()
    return experiment
