"""Starting values of weights, by name."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

_Initialiser = Callable[[Tensor, "torch.Generator | None"], object]


def _paper(weight: Tensor, generator: torch.Generator | None) -> object:
    return nn.init.normal_(weight, 0.0, 0.05, generator=generator)


def _he(weight: Tensor, generator: torch.Generator | None) -> object:
    return nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=generator)


def _glorot(weight: Tensor, generator: torch.Generator | None) -> object:
    return nn.init.xavier_uniform_(weight, generator=generator)


INITIALISERS: dict[str, _Initialiser] = {"normal_0.05": _paper, "he": _he, "glorot": _glorot}
"""``normal_0.05``: N(0, 0.05^2), what the paper's networks start from. ``he``: normal with variance 2 / fan-in, which
keeps the size of activations through ReLU layers (He et al., 2015). ``glorot``: uniform with variance 2 / (fan-in +
fan-out), what the paper's dense controls start from (Glorot and Bengio, 2010)."""


def initialise(model: nn.Module, initialiser: str, *, generator: torch.Generator | None = None) -> None:
    """Draw the weights of every linear and convolution layer anew, and set their biases to zero.

    Args:
        model: changed in place.
        initialiser: a name in ``INITIALISERS``.
        generator: where the numbers come from; torch's global generator when None.

    Raises:
        ValueError: the name is unknown.
    """
    if initialiser not in INITIALISERS:
        raise ValueError(f"initialise: initialiser must be one of {', '.join(INITIALISERS)}, got {initialiser!r}")
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
                INITIALISERS[initialiser](module.weight, generator)
                if module.bias is not None:
                    module.bias.zero_()
