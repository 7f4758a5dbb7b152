"""Which kernel runs and with which tile, by a static table: nothing is tried out at a first call.

=============  ==========================  =================================================================
result         where                       kernel
=============  ==========================  =================================================================
any            blocks of 16, 32 or 64      tiles, one block each; float32 only with TF32 or in ``grad_input``
forward,       float32 without TF32,       lists: the owned weights alone, on the ordinary units, exact in the
grad_values    float64                     order of their sums
forward,       up to 8 pixels              lists
grad_values
all else                                   tiles: decoded by bisection, multiplied on the tensor cores
=============  ==========================  =================================================================

The sizes are those at which the compiler keeps everything in registers (tests/rsn2_kernels/triton_kernels/compiles.py);
none has been measured on a device.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from rsn2_kernels.formats import block_size_of

MOST_PIXELS_OF_LISTS = 8

SIZES = {  # of what one program holds; BM pixels, J weights of each of 16 rows, or BO rows x BC columns of weights
    "lists, few pixels": dict(J=32, BM=4),
    "lists, some pixels": dict(J=8, BM=16),
    "lists": dict(J=2, BM=64),
    "lists, grad_values": dict(J=16, BM=16),
    "tiles, float64": dict(BO=16, BC=16, BM=8),
    "tiles, float32": dict(BO=16, BC=32, BM=32),
    "tiles, few pixels": dict(BO=64, BC=32, BM=16),
    "tiles": dict(BO=64, BC=32, BM=64),
    "tiles, few pixels, grad_input": dict(BO=32, BC=64, BM=16),
    "tiles, grad_input": dict(BO=32, BC=32, BM=64),
}


class Choice(NamedTuple):
    """A kernel's form and tile.

    Attributes:
        form: ``"lists"`` or ``"tiles"``.
        block: the size of the blocks read as they stand, 0 when weights are decoded.
        sizes: the kernel's constants, ``BM`` among them.
        num_warps: warps of one program.
    """

    form: str
    block: int
    sizes: dict[str, int]
    num_warps: int


def precision_of(x: Tensor, is_conv: bool) -> str:
    """How float32 products are made: ``"tf32"`` only where torch allows it."""
    if x.dtype == torch.float64:
        return "float64"
    if x.dtype != torch.float32:
        return "ieee"
    backends: Any = torch.backends
    setting = backends.cudnn.conv if is_conv else backends.cuda.matmul
    return "tf32" if setting.fp32_precision == "tf32" else "ieee"


def choose(result: str, x: Tensor, index: Tensor, frozen: list[Tensor], num_pixels: int, channels: int,
           precision: str, is_conv: bool) -> Choice:  # fmt: skip
    """The kernel of ``result`` (``"forward"``, ``"grad_input"`` or ``"grad_values"``)."""
    is_exact = precision == "float64" or (precision == "ieee" and x.dtype == torch.float32)
    block = block_size_of(index)
    if frozen and block_size_of(frozen[2]) != block or block and channels % block:
        block = 0
    num_warps = 8 if is_conv else 4  # addresses of pixels take registers
    if result != "grad_input" and (is_exact or (not block and num_pixels <= MOST_PIXELS_OF_LISTS)):
        few = "" if num_pixels > 64 else ", some pixels" if num_pixels > 4 else ", few pixels"
        return Choice("lists", 0, SIZES["lists" + (", grad_values" if result == "grad_values" else few)], num_warps)
    if precision == "float64":
        return Choice("tiles", 0, SIZES["tiles, float64"], 4)
    if block:
        pixels = 64 if block < 64 and not is_exact else 16 if is_conv and block == 64 else 32
        return Choice("tiles", block, dict(BO=block, BC=block, BM=pixels), {16: 4, 32: num_warps, 64: 8}[block])
    if is_exact:
        return Choice("tiles", 0, SIZES["tiles, float32"], 4)
    name = "tiles, few pixels" if num_pixels <= 16 else "tiles"
    return Choice("tiles", 0, SIZES[name + (", grad_input" if result == "grad_input" else "")], num_warps)
