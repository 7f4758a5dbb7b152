"""The paper's networks, and a residual one, as plain torch modules: a trunk that tasks share, and a head."""

from rsn2.models.conv_network import conv_network
from rsn2.models.fully_connected import fully_connected
from rsn2.models.initialising import INITIALISERS, initialise
from rsn2.models.resnet import resnet18
from rsn2.models.split import SplitNetwork

__all__ = ["INITIALISERS", "SplitNetwork", "conv_network", "fully_connected", "initialise", "resnet18"]
