"""The paper's fully connected network."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import nn

from rsn2.models.initialising import initialise
from rsn2.models.split import SplitNetwork

PAPER_WIDTHS = (784, 1000, 1000, 1000, 1000, 1000, 1000, 10)


def fully_connected(widths: Sequence[int] = PAPER_WIDTHS, *, initialiser: str = "he",
                    generator: torch.Generator | None = None) -> SplitNetwork:  # fmt: skip
    """Linear layers with ReLU between them, as in the paper's Experiments 3, 5 and 7.

    The default widths are the paper's: 5 794 000 weights and 6 010 biases.

    Args:
        widths: inputs, hidden layers, outputs: at least one hidden layer.
        initialiser: a name in ``INITIALISERS``.
        generator: where starting values come from; torch's global generator when None.

    Returns:
        Trunk ``[B, widths[0]] -> [B, widths[-2]]`` with layers ``hidden1``, ``relu1``, ``hidden2``, ..., and head.

    Raises:
        ValueError: fewer than three widths, or one that is not a positive int; an unknown initialiser.
    """
    if len(widths) < 3 or any(isinstance(w, bool) or not isinstance(w, int) or w < 1 for w in widths):
        raise ValueError(f"fully_connected: widths must be at least three positive ints, got {list(widths)}")
    layers: list[tuple[str, nn.Module]] = []
    for number, (num_in, num_out) in enumerate(zip(widths[:-2], widths[1:-1], strict=True), start=1):
        layers += [(f"hidden{number}", nn.Linear(num_in, num_out)), (f"relu{number}", nn.ReLU())]
    network = SplitNetwork(nn.Sequential(OrderedDict(layers)), nn.Linear(widths[-2], widths[-1]))
    for part in network:
        initialise(part, initialiser, generator=generator)
    return network
