"""Inputs of the operators on any device: random masks of any number of slots, made there, one slot at a time."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from rsn2_kernels import reference
from rsn2_kernels.formats import PackedWeight, encode_slot, join, value_starts
from rsn2_kernels.ops import task_conv2d_index, task_linear_index
from rsn2_kernels.testing import assert_as_accurate

OPERATORS = torch.ops.rsn2_kernels
RESULTS = ("forward", "grad_input", "grad_values", "grad_bias")
Window = tuple[list[int], ...]  # kernel_size, stride, padding, dilation of a convolution; () for a linear layer


def generator_for(seed: int, name: str, device: torch.device | str = "cpu") -> torch.Generator:
    """Numbers that depend on the run's seed and on what they are for, not on what ran before."""
    return torch.Generator(device).manual_seed((seed * 1_000_003 + zlib.crc32(name.encode())) % (1 << 63))


def random_owners(num_slots: int, num_rows: int, num_columns: int, density: float, generator: torch.Generator,
                  block: tuple[int, int] = (1, 1)) -> Tensor:  # fmt: skip
    """The slot of each weight, int16 ``[O, K]``, ``num_slots`` or more where it is nobody's; whole blocks alike."""
    size = (-(-num_rows // block[0]), -(-num_columns // block[1]))
    draw = torch.rand(size, generator=generator, device=generator.device)
    owner = (draw / density).clamp_(max=num_slots).to(torch.int16)
    owner = owner.repeat_interleave(block[0], 0) if block[0] > 1 else owner
    owner = owner.repeat_interleave(block[1], 1) if block[1] > 1 else owner
    return owner[:num_rows, :num_columns]


def n_of_m_owners(num_rows: int, num_columns: int, n: int, m: int, generator: torch.Generator) -> Tensor:
    """0 for ``n`` of every ``m`` neighbours in a row, 1 for the others: int16 ``[O, K]``, ``K`` a multiple of ``m``."""
    draw = torch.rand(num_rows, num_columns // m, m, generator=generator, device=generator.device)
    owner = torch.ones(draw.shape, dtype=torch.int16, device=draw.device)
    return owner.scatter_(2, draw.topk(n, dim=2).indices, 0).reshape(num_rows, num_columns)


def pack_owners(weight: Tensor, owner: Tensor, num_slots: int, kernel_size: list[int] | None = None) -> PackedWeight:
    """Pack ``weight`` ``[O, K]`` by owners: what ``formats.pack`` does, without masks ``[T, O, K]``, and its index."""
    num_rows, num_columns = owner.shape
    segments, values = [], []
    for slot in range(num_slots):
        flat = (owner == slot).flatten().nonzero().squeeze(1)
        words, order = encode_slot(flat, num_rows, num_columns)
        segments.append(words)
        values.append(weight.reshape(-1)[flat[order]])
    positions = join(segments, [len(part) for part in values], num_rows, num_columns)
    packed = PackedWeight(torch.cat(values), positions, positions.new_zeros(0, dtype=torch.int32),
                          (num_slots, num_rows, num_columns))  # fmt: skip
    return with_index(packed, kernel_size)


def with_index(packed: PackedWeight, kernel_size: list[int] | None = None) -> PackedWeight:
    """The weight with what the kernels of its device derive from the positions."""
    if kernel_size is None:
        return packed._replace(index=task_linear_index(packed.positions))
    return packed._replace(index=task_conv2d_index(packed.positions, kernel_size))


def _moved(packed: PackedWeight, device: torch.device, window: Window, index: bool) -> PackedWeight:
    values, positions = packed.values.to(device), packed.positions.to(device)
    packed = packed._replace(values=values, positions=positions, index=positions.new_zeros(0, dtype=torch.int32))
    return with_index(packed, window[0] if window else None) if index else packed


@dataclass(frozen=True)
class Problem:
    """Arguments of a forward operator and of its gradients."""

    op: str
    x: Tensor
    weight: PackedWeight
    slots: Tensor
    bias: Tensor | None
    grad_y: Tensor
    window: Window = ()
    frozen: PackedWeight | None = None
    activation: str = "none"

    @cached_property
    def num_owned(self) -> list[int]:
        return [last - first for first, last in pairwise(value_starts(self.weight.positions))]

    @property
    def packed(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.weight.values, self.weight.positions, self.weight.index, self.slots

    @property
    def frozen_tensors(self) -> list[Tensor]:
        return [] if self.frozen is None else [self.frozen.values, self.frozen.positions, self.frozen.index]

    def forward(self, where: Any = OPERATORS) -> Tensor:
        return getattr(where, self.op)(
            self.x, *self.packed, self.bias, self.frozen_tensors, self.activation, self.weight.shape[1], *self.window,
            [], [], [], [],
        )  # fmt: skip

    def grad_input(self, where: Any = OPERATORS) -> Tensor:
        size = list(self.x.shape[1:]) if self.window else self.x.shape[1]
        grad = getattr(where, f"{self.op}_grad_input")
        return grad(self.grad_y, *self.packed, self.frozen_tensors, size, *self.window)

    def grad_values(self, where: Any = OPERATORS) -> Tensor:
        grad = getattr(where, f"{self.op}_grad_values")
        wanted = list(range(self.weight.shape[0]))
        return grad(self.x, self.grad_y, *self.packed, wanted, self.num_owned, *self.window)

    def grad_bias(self, where: Any = OPERATORS) -> Tensor:
        return where.task_grad_bias(self.grad_y, self.slots, list(range(self.weight.shape[0])))

    def get(self, result: str, where: Any = OPERATORS) -> Tensor:
        return getattr(self, result)(where)

    def to(self, device: torch.device | str, *, index: bool = True) -> Problem:
        """The same on another device, without the index where only the reference is to run."""
        device = torch.device(device)
        return replace(
            self,
            x=self.x.to(device),
            weight=_moved(self.weight, device, self.window, index),
            slots=self.slots.to(device),
            bias=None if self.bias is None else self.bias.to(device),
            grad_y=self.grad_y.to(device),
            frozen=None if self.frozen is None else _moved(self.frozen, device, self.window, index),
        )

    def double(self) -> Problem:
        """The same in float64."""
        return replace(
            self,
            x=self.x.double(),
            weight=self.weight._replace(values=self.weight.values.double()),
            bias=None if self.bias is None else self.bias.double(),
            grad_y=self.grad_y.double(),
            frozen=None if self.frozen is None else self.frozen._replace(values=self.frozen.values.double()),
        )

    def with_exact_sums(self) -> Problem:
        """The same with numbers of 20 bits, so that every float64 sum of their products is exact in any order."""

        def rounded(tensor: Tensor) -> Tensor:
            return (tensor * 2**16).round() / 2**16

        return replace(
            self,
            x=rounded(self.x),
            weight=self.weight._replace(values=rounded(self.weight.values)),
            bias=None if self.bias is None else rounded(self.bias),
            grad_y=rounded(self.grad_y),
            frozen=None if self.frozen is None else self.frozen._replace(values=rounded(self.frozen.values)),
        )

    def rows(self, rows: Tensor) -> Problem:
        """The same layer with some rows of the batch."""
        return replace(self, x=self.x[rows], grad_y=self.grad_y[rows], slots=self.slots[rows])


def judge(result: str, ours: Tensor, plain: Tensor, exact: Tensor) -> dict[str, float]:
    """Ours is about as close to ``exact`` as plain PyTorch in the same dtype is.

    Returns:
        Both errors.

    Raises:
        AssertionError: it is not.
    """
    exact, plain = exact.to(ours.device), plain.to(ours.device)
    # float32 sums of the kernels run in fewer chains than those of BLAS: as in tests/rsn2_kernels/conftest.py.
    factor = 3 if ours.dtype == torch.float32 and result != "grad_bias" else 2
    assert_as_accurate(ours, plain, exact, factor)
    if ours.numel() == 0:
        return {"error": 0.0, "plain_error": 0.0}
    return {
        "error": (ours.double() - exact).abs().max().item(),
        "plain_error": (plain.double() - exact).abs().max().item(),
    }


def answers(problem: Problem, result: str, oracle: torch.device) -> tuple[Tensor, Tensor]:
    """What plain PyTorch computes in the same dtype on the problem's device, and the float64 answer by ``oracle``."""
    plain = problem.get(result, reference)
    return plain, problem.double().to(oracle, index=False).get(result, reference)
