"""Compiles every Triton kernel for sm_90 at the sizes the table gives, without a GPU, and prints what became of each.

Run by test_compiles.py in a process of its own. The operators are called as they are; only the start of a kernel is
replaced by its compilation, for a device that stands in for one. One line of JSON for each kernel.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from rsn2_kernels.formats import gather_index, pack
from rsn2_kernels.testing import random_masks
from rsn2_kernels.triton_kernels import task_conv2d, task_linear

CAPABILITY = 90


class StandIn:
    """As much of a device as the compiler asks for."""

    binary_ext = "cubin"

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", CAPABILITY, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


seen: dict[str, dict[str, Any]] = {}
label = ""


def resources(cubin: bytes) -> dict[str, int]:
    """Registers, bytes of stack and of local memory that the code takes."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool), "--dump-resource-usage", file.name]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {name.lower(): int(number) for name, number in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}


def compile_instead(self: JITFunction[Any], *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
    compiled = run(self, *args, grid=grid, warmup=True, **kwargs)
    ptx = compiled.asm["ptx"]
    constants = {
        name: kwargs[name]
        for name in ("BO", "BC", "BM", "J", "BLOCK", "PRECISION", "IS_CONV", "HAS_FROZEN")
        if name in kwargs
    }
    seen.setdefault(
        compiled.hash,
        {
            "kernel": self.__name__,
            "from": label,
            **constants,
            **resources(compiled.asm["cubin"]),
            "shared": compiled.metadata.shared,
            "mma": len(re.findall(r"\b(?:mma\.sync|wgmma\.mma_async)", ptx)),
            "tf32": ".tf32" in ptx,
        },
    )


def masks_in_blocks(size: int, rows: int, columns: int) -> torch.Tensor:
    masks = random_masks(2, rows // size, columns // size, 0.3, torch.Generator().manual_seed(0))
    return masks.repeat_interleave(size, 1).repeat_interleave(size, 2)


PROBLEMS = {  # dtype of x, dtype of the values, blocks, whether TF32 is allowed, batches
    "float32": ("float32", "float32", 0, False, (1, 16, 96)),
    "float32-tf32": ("float32", "float32", 0, True, (16, 96)),
    "bfloat16": ("bfloat16", "bfloat16", 0, False, (1, 16, 96)),
    "float16-float32": ("float16", "float32", 0, False, (96,)),
    "float64": ("float64", "float64", 0, False, (96,)),
    **{f"bfloat16-blocks{size}": ("bfloat16", "bfloat16", size, False, (96,)) for size in (16, 32, 64)},
    **{f"float32-blocks{size}-tf32": ("float32", "float32", size, True, (96,)) for size in (16, 32, 64)},
    "float32-blocks64": ("float32", "float32", 64, False, (96,)),
}


def call_all(dtype: torch.dtype, value_dtype: torch.dtype, block: int, batches: tuple[int, ...]) -> None:
    rows, columns = 128, 9 * 64
    generator = torch.Generator().manual_seed(0)
    masks = masks_in_blocks(block, rows, columns) if block else random_masks(2, rows, columns, 0.1, generator)
    packed = pack(torch.randn(rows, columns).to(value_dtype), masks)
    index = gather_index(packed.positions)
    store = (packed.values, packed.positions, index)
    owned = [int(mask.sum()) for mask in masks]
    bias = torch.zeros(2, rows, dtype=value_dtype)
    for batch in batches:
        slots, frozen = torch.zeros(batch, dtype=torch.int64), list(store)
        if batch == 16:  # one slot, and nothing but what it owns
            slots, frozen = torch.tensor(1), []
        x, grad_y = torch.randn(batch, columns).to(dtype), torch.randn(batch, rows).to(dtype)
        task_linear.task_linear(x, *store, slots, bias, frozen, "relu", rows)
        task_linear.task_linear_grad_input(grad_y, *store, slots, frozen, columns)
        task_linear.task_linear_grad_values(x, grad_y, *store, slots, [0, 1], owned)
    window = ([3, 3], [1, 1], [1, 1, 1, 1], [1, 1])
    x, grad_y = torch.randn(2, 64, 8, 8).to(dtype), torch.randn(2, rows, 8, 8).to(dtype)
    slots = torch.tensor([0, 1])
    task_conv2d.task_conv2d(x, *store, slots, bias, list(store), "none", rows, *window)
    task_conv2d.task_conv2d_grad_input(grad_y, *store, slots, list(store), [64, 8, 8], *window)
    task_conv2d.task_conv2d_grad_values(x, grad_y, *store, slots, [0, 1], owned, *window)


if __name__ == "__main__":
    driver.set_active(StandIn())
    run, JITFunction.run = JITFunction.run, compile_instead
    for label in sys.argv[1:] or PROBLEMS:
        dtype, values, block, allows_tf32, batches = PROBLEMS[label]
        precision = "tf32" if allows_tf32 else "ieee"
        torch.backends.cuda.matmul.fp32_precision = torch.backends.cudnn.conv.fp32_precision = precision
        call_all(getattr(torch, dtype), getattr(torch, values), block, batches)
    for facts in seen.values():
        print(json.dumps(facts))
