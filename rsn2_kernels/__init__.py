"""Networks that hold many tasks in disjoint parts of their weights, run and trained at the cost of one part alone."""

from rsn2_kernels import autograd, formats, nn, ops, reference
from rsn2_kernels._build import backends
from rsn2_kernels.formats import CapacityError, PackedWeight

__version__ = "0.1.0"

__all__ = ["CapacityError", "PackedWeight", "autograd", "backends", "formats", "nn", "ops", "reference"]
