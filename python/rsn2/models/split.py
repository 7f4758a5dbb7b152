"""A network in two parts: the trunk, which several tasks can share, and the head, which gives the outputs."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from torch import nn


class SplitNetwork(NamedTuple):
    """``head(trunk(x))``.

    Attributes:
        trunk: everything up to the last activation.
        head: the last layer, without activation.
    """

    trunk: nn.Sequential
    head: nn.Linear

    def whole(self) -> nn.Sequential:
        """Trunk and head as one module (the same layers, not copies); the head is its layer ``output``."""
        return nn.Sequential(OrderedDict([*self.trunk.named_children(), ("output", self.head)]))
