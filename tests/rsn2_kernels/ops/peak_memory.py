"""Prints by how many MiB the process's peak memory grows during an operator and each of its gradients.

Run by test_only_own_weights.py in a process of its own, whose peak nothing else has raised.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from rsn2_kernels import ops
from rsn2_kernels._schema import HAS_NATIVE
from rsn2_kernels.formats import encode_slot, join

NUM_OWNED = 4096


def peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def work(op: str, num_rows: int, num_columns: int) -> dict[str, Callable[[], Tensor]]:
    """One thunk for each result, for a matrix in which two slots own ``NUM_OWNED`` weights each."""
    is_conv = op == "task_conv2d"
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(0, num_rows * num_columns, (4 * NUM_OWNED,), generator=generator).unique()
    drawn = drawn[torch.randperm(len(drawn), generator=generator)]
    flats = [drawn[:NUM_OWNED].sort().values, drawn[NUM_OWNED : 2 * NUM_OWNED].sort().values]
    positions = join([encode_slot(f, num_rows, num_columns)[0] for f in flats], [NUM_OWNED] * 2, num_rows, num_columns)
    values = torch.randn(2 * NUM_OWNED)
    slots = torch.tensor([0, 1, 1])
    window = ([3, 3], [1, 1], [1, 1, 1, 1], [1, 1]) if is_conv else ()
    x = torch.randn(3, num_columns // 9, 3, 3) if is_conv else torch.randn(3, num_columns)
    grad_y = torch.randn(3, num_rows, 3, 3) if is_conv else torch.randn(3, num_rows)
    size = list(x.shape[1:]) if is_conv else num_columns
    operators = torch.ops.rsn2_kernels
    index = torch.empty(0, dtype=torch.int32)

    def build_index() -> Tensor:
        nonlocal index
        index = ops.task_conv2d_index(positions, [3, 3]) if is_conv else ops.task_linear_index(positions)
        return index

    def forward() -> Tensor:
        rest = (None, [], "none", num_rows, *window, [], [], [], [])
        return getattr(operators, op)(x, values, positions, index, slots, *rest)

    def grad_input() -> Tensor:
        return getattr(operators, f"{op}_grad_input")(grad_y, values, positions, index, slots, [], size, *window)

    def grad_values() -> Tensor:
        rest = ([0, 1], [NUM_OWNED] * 2, *window)
        return getattr(operators, f"{op}_grad_values")(x, grad_y, values, positions, index, slots, *rest)

    def grad_bias() -> Tensor:
        return operators.task_grad_bias(grad_y, slots, [0, 1])

    return {"index": build_index, "forward": forward, "grad_input": grad_input, "grad_values": grad_values,
            "grad_bias": grad_bias}  # fmt: skip


def main(op: str) -> None:
    if not HAS_NATIVE:
        print("no compiled kernels")
        return
    for small in work(op, 256, 288).values():  # loads code and starts threads
        small()
    for result, large in work(op, 8192, 8190).items():
        before = peak_mib()
        large()
        print(result, peak_mib() - before)


if __name__ == "__main__":
    main(sys.argv[1])
