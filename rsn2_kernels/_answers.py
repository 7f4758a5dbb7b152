"""What the library of CUDA kernels asks of Python, as operators of a namespace of their own.

The library is built on libtorch's stable ABI, which does not say whether torch allows TF32, and Triton's kernels are
Python. So it calls ``rsn2_kernels_python::...`` from inside an operator, where the answer matters: every caller is
served, a compiled graph too. A CUDA graph keeps the answer of its capture, as it does of torch's own products.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rsn2_kernels import triton_kernels
from rsn2_kernels.formats import block_size_of

NAMESPACE = "rsn2_kernels_python"


def allows_tf32(setting: str = "matmul") -> bool:
    """Whether float32 products (``"matmul"``, or ``"conv"``olutions) may be rounded to TF32, as torch is set now."""
    backends: Any = torch.backends
    of = backends.cudnn.conv if setting == "conv" else backends.cuda.matmul
    return bool(of.fp32_precision == "tf32")


def is_for_block_kernels(x: Tensor, index: Tensor, frozen: list[Tensor], channels: int) -> bool:
    """Which weights Triton's kernels multiply better than the library's: those that they read as whole blocks on the
    tensor cores. A static rule, from shapes and types alone.

    Args:
        x: the batch, or ``grad_y``.
        index: the gather index of the weight.
        frozen: ``[]`` or the frozen store, whose blocks must have the same size.
        channels: ``I`` or ``C``; a block must not reach from one tap of a convolution into the next.
    """
    block = block_size_of(index)
    if not block or channels % block or (frozen and block_size_of(frozen[2]) != block):
        return False
    if x.dtype == torch.float32:
        return allows_tf32("conv" if x.dim() == 4 else "matmul")
    return x.dtype in (torch.bfloat16, torch.float16)


def register(schemas: Mapping[str, str], triton_key: str | None) -> torch.library.Library:
    """Define the operators that the library asks.

    Args:
        schemas: of the operators that Triton has kernels for.
        triton_key: the dispatch key that those serve here; None where Triton does not serve at all.

    Returns:
        What must live as long as the library is used.
    """
    library = torch.library.Library(NAMESPACE, "DEF")
    library.define("allows_tf32() -> bool")
    library.impl("allows_tf32", allows_tf32, "CompositeExplicitAutograd")
    library.define("triton_serves(Tensor x, Tensor index, Tensor[] frozen, int channels) -> bool")
    if triton_key is None:
        library.impl("triton_serves", lambda *_: False, "CompositeExplicitAutograd")
        return library
    library.impl("triton_serves", is_for_block_kernels, "CompositeExplicitAutograd")
    for name, signature in schemas.items():
        library.define(name + signature)
    triton_kernels.register(library, triton_key)
    return library
