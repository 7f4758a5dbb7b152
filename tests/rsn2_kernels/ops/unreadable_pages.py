"""Runs an operator and its gradients while all that other slots hold lies on pages without read permission,
and the inputs end where such a page begins.

Run by test_only_own_weights.py in a process of its own: a kernel that touches such a page ends it by a signal.
The pages of slot 1 alone can be read; the product is that of the slot given.
"""

from __future__ import annotations

import ctypes
import faulthandler
import mmap
import sys

import torch
from torch import Tensor

from rsn2_kernels import ops
from rsn2_kernels._build import native
from rsn2_kernels._schema import HAS_NATIVE
from rsn2_kernels.formats import PackedWeight, pack, value_starts

PROT_NONE = 0
MARGIN = 64  # words
WORDS = {torch.float32: 4, torch.float64: 8, torch.bfloat16: 2, torch.float16: 2}


class Pages:
    """A copy of a tensor on pages of its own, of which some can be made unreadable."""

    def __init__(self, tensor: Tensor) -> None:
        self.item = tensor.element_size()
        size = -(-tensor.numel() * self.item // mmap.PAGESIZE) * mmap.PAGESIZE
        self.memory = mmap.mmap(-1, max(size, mmap.PAGESIZE))
        if tensor.numel() == 0:  # the index of the reference
            self.tensor = tensor
            return
        self.tensor = torch.frombuffer(self.memory, dtype=tensor.dtype, count=tensor.numel()).copy_(tensor)

    def forbid(self, first: int, last: int) -> int:
        """Take read permission from the pages that lie wholly in elements ``first`` .. ``last``; how many these are."""
        libc = ctypes.CDLL(None, use_errno=True)
        begin = -(-first * self.item // mmap.PAGESIZE)
        num_pages = last * self.item // mmap.PAGESIZE - begin
        address = ctypes.c_void_p(self.tensor.data_ptr() + begin * mmap.PAGESIZE)
        if num_pages > 0 and libc.mprotect(address, ctypes.c_size_t(num_pages * mmap.PAGESIZE), PROT_NONE) != 0:
            raise OSError(ctypes.get_errno(), "mprotect")
        return max(num_pages, 0)


def before_a_wall(tensor: Tensor) -> Tensor:
    """A copy that ends where an unreadable page begins: nothing past its end is read."""
    num_bytes = tensor.numel() * tensor.element_size()
    num_pages = -(-num_bytes // mmap.PAGESIZE)
    pages = Pages(torch.zeros((num_pages + 1) * mmap.PAGESIZE, dtype=torch.uint8))
    first = num_pages * mmap.PAGESIZE - num_bytes
    copy = pages.tensor[first : first + num_bytes].view(tensor.dtype).view(tensor.shape).copy_(tensor)
    assert pages.forbid(first + num_bytes, len(pages.tensor)) == 1
    keep_alive.append(pages)
    return copy


def owned_masks(num_rows: int, num_columns: int, num_owned: list[int], seed: int) -> Tensor:
    """Disjoint random masks of exactly so many weights."""
    order = torch.randperm(num_rows * num_columns, generator=torch.Generator().manual_seed(seed))
    masks = torch.zeros(len(num_owned), num_rows * num_columns, dtype=torch.bool)
    first = 0
    for mask, count in zip(masks, num_owned, strict=True):
        mask[order[first : first + count]] = True
        first += count
    return masks.view(len(num_owned), num_rows, num_columns)


def own_part(index: Tensor, without: Tensor) -> tuple[int, int]:
    """Where an index speaks of one slot, found by comparison with the index of a layer in which it owns nothing.

    The layout of an index is the kernels' own business; all that is taken for granted is a short header, and that the
    slots stand one after another. Words at either end may agree by chance, hence the margin.
    """
    size = len(index) - len(without)
    differs = (index[MARGIN : len(without)] != without[MARGIN:]).nonzero()
    first = MARGIN + int(differs[0])
    assert torch.equal(index[first + size :], without[first:])
    return first, first + size


def protected(weight: PackedWeight, slot: int, index_without: Tensor) -> PackedWeight:
    """The same weight on pages, where those of slots other than ``slot`` cannot be read."""
    values, positions, index = (Pages(t) for t in (weight.values, weight.positions, weight.index))
    starts = value_starts(weight.positions)
    words = weight.positions[4 : 5 + weight.shape[0]].tolist()
    assert starts[slot] * values.item % mmap.PAGESIZE == 0 and starts[slot + 1] * values.item % mmap.PAGESIZE == 0
    forbidden = values.forbid(0, starts[slot]) + values.forbid(starts[slot + 1], starts[-1])
    assert forbidden * mmap.PAGESIZE == (starts[-1] - starts[slot + 1] + starts[slot]) * values.item
    header = 6 + 2 * weight.shape[0]
    assert positions.forbid(header, words[slot]) > 0 and positions.forbid(words[slot + 1], words[-1]) > 0
    if HAS_NATIVE:
        first, last = own_part(weight.index, index_without)
        assert index.forbid(MARGIN, first - MARGIN) > 0 and index.forbid(last + MARGIN, len(weight.index)) > 0
    keep_alive.append((values, positions, index))
    return weight._replace(values=values.tensor, positions=positions.tensor, index=index.tensor)


keep_alive: list[object] = []


def main(op: str, slot: int) -> None:
    faulthandler.enable()
    is_conv = op == "task_conv2d"
    num_rows, num_columns, window = (120, 64 * 9, ([3, 3], [1, 1], [1, 1, 1, 1], [1, 1])) if is_conv else (120, 700, ())
    x_shape = (9, 64, 8, 8) if is_conv else (70, num_columns)
    index_of = (lambda p: ops.task_conv2d_index(p, [3, 3])) if is_conv else ops.task_linear_index
    for x_dtype, value_dtype in [(t, t) for t in WORDS] + [(torch.bfloat16, torch.float32)]:
        page = mmap.PAGESIZE // WORDS[value_dtype]
        num_owned = [8 * page, page, 8 * page]
        masks = owned_masks(num_rows, num_columns, num_owned, seed=0)
        without = masks.clone()
        without[1] = False
        dense = torch.randn(num_rows, num_columns, generator=torch.Generator().manual_seed(1)).to(value_dtype)
        plain = pack(dense, masks)
        plain = plain._replace(index=index_of(plain.positions))
        weight = protected(plain, 1, index_of(pack(dense, without).positions))
        generator = torch.Generator().manual_seed(2)
        x = torch.randn(x_shape, generator=generator).to(x_dtype)
        out_shape = (len(x), num_rows, 8, 8) if is_conv else (len(x), num_rows)
        inputs = (x, torch.randn(out_shape, generator=generator).to(x_dtype))
        size = list(x.shape[1:]) if is_conv else num_columns
        operators = torch.ops.rsn2_kernels

        for level in native().available_cpu_levels() if HAS_NATIVE else ["reference"]:
            if HAS_NATIVE:
                native().set_cpu_level(level)
            for slots in (torch.tensor(slot), torch.full((len(x),), slot)):
                results = []
                for w, x, grad_y in ((plain, *inputs), (weight, *map(before_a_wall, inputs))):
                    packed = (w.values, w.positions, w.index, slots)
                    print(f"{op} {level} {x_dtype} {value_dtype} slots {list(slots.shape)}", flush=True)
                    rest = (None, [], "none", num_rows, *window, [], [], [], [])
                    y = getattr(operators, op)(x, *packed, *rest)
                    print("  forward read", flush=True)
                    grad_x = getattr(operators, f"{op}_grad_input")(grad_y, *packed, [], size, *window)
                    print("  grad_input read", flush=True)
                    wanted = ([slot], [num_owned[slot]])
                    grads = getattr(operators, f"{op}_grad_values")(x, grad_y, *packed, *wanted, *window)
                    print("  grad_values read", flush=True)
                    rest = (None, list(w[:3]), "relu", num_rows, *window, [], [], [], [])
                    frozen = getattr(operators, op)(x, *packed, *rest)
                    print("  frozen store read", flush=True)
                    results.append((y, grad_x, grads, frozen))
                assert all(map(torch.equal, *results))
    print("all read")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
