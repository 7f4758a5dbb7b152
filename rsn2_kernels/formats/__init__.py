"""Layouts of packed weights, owner maps and base weights. No arithmetic of the layers."""

from rsn2_kernels.formats.base import SeededBase, StoredBase, draw_seed
from rsn2_kernels.formats.coding import encode_slot
from rsn2_kernels.formats.gather_index import block_size_of, gather_index
from rsn2_kernels.formats.ownership import FREE, FREE_WIDE, CapacityError, is_owned, num_kept, owner_map
from rsn2_kernels.formats.packed import (
    PackedWeight,
    coordinates,
    empty_positions,
    join,
    pack,
    segment,
    shape_of,
    unpack,
    value_starts,
)
from rsn2_kernels.formats.validation import problems, validate

__all__ = [
    "FREE",
    "FREE_WIDE",
    "CapacityError",
    "PackedWeight",
    "SeededBase",
    "StoredBase",
    "block_size_of",
    "coordinates",
    "draw_seed",
    "empty_positions",
    "encode_slot",
    "gather_index",
    "is_owned",
    "join",
    "num_kept",
    "owner_map",
    "pack",
    "problems",
    "segment",
    "shape_of",
    "unpack",
    "validate",
    "value_starts",
]
