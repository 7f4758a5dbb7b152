"""A linear layer that several tasks share, each with weights of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rsn2_kernels import ops
from rsn2_kernels.formats import SeededBase, StoredBase, draw_seed
from rsn2_kernels.nn._arguments import check_values, number
from rsn2_kernels.nn._store import TaskLayer


class TaskLinear(TaskLayer):
    """``torch.nn.Linear`` whose weights belong to slots (Eq. 1 and 3 of the paper).

    All weights are free at first. ``claim(slot, mask)`` gives some to a slot, with the base weights as starting values;
    a row of the batch is multiplied by the weights of its own slot only, at the cost of these alone.

    A program made by ``torch.export`` is for computing, not for training: what is saved and loaded reads a copy of all
    values and biases, so that an optimizer over its Parameters, which do get gradients, changes nothing.

    Args:
        in_features: ``I``.
        out_features: ``O``.
        bias: whether each slot has a bias.
        num_slots: how many slots, or their names. ``add_slot`` appends more.
        base: starting values of claims; by default seeded (from torch's generator) with ``torch.nn.Linear``'s
            distribution.
        activation: ``"none"`` or ``"relu"``, computed with the product.
        device, dtype: as in ``torch.nn.Linear``.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, *, num_slots: int | Sequence[str],
                 base: SeededBase | StoredBase | None = None, base_bias: Tensor | None = None, activation: str = "none",
                 device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> None:  # fmt: skip
        in_features = number("TaskLinear", "in_features", in_features)
        out_features = number("TaskLinear", "out_features", out_features)
        check_values("TaskLinear", (out_features, in_features), base, base_bias, activation, dtype)
        self.in_features, self.out_features, self.activation = in_features, out_features, activation
        base = base or SeededBase(draw_seed(), "uniform", in_features**-0.5)
        dtype = dtype or torch.get_default_dtype()
        super().__init__((out_features, in_features), num_slots, bias, base, base_bias, device, dtype)

    @classmethod
    def from_dense(cls, linear: nn.Linear, *, num_slots: int | Sequence[str], activation: str = "none") -> TaskLinear:
        """A task layer whose base weights, and every slot's starting bias, are those of ``linear``."""
        weight = linear.weight
        bias = None if linear.bias is None else linear.bias
        return cls(
            linear.in_features,
            linear.out_features,
            bias is not None,
            num_slots=num_slots,
            base=StoredBase(weight),
            base_bias=bias,
            activation=activation,
            device=weight.device,
            dtype=weight.dtype,
        )

    def to_dense(self, slot: int | str) -> nn.Linear:
        """A ``torch.nn.Linear`` like ``slot``, with its :meth:`dense_weight` and bias, without activation."""
        number = self.slot_index(slot)
        dense = nn.Linear(self.in_features, self.out_features, self.bias is not None, device=self.flat_values.device,
                          dtype=self.flat_values.dtype)  # fmt: skip
        with torch.no_grad():
            dense.weight.copy_(self.dense_weight(number))
            if self.bias is not None:
                dense.bias.copy_(self.bias[number])
        return dense

    def forward(self, x: Tensor, slots: Tensor | int | str | None = None) -> Tensor:
        """``x`` is ``[B, ..., I]`` (or ``[I]`` with one slot), ``slots`` an int, a name, int64 ``[]`` or ``[B]``.

        Without ``slots`` those of the enclosing ``with active(slots):`` are used.

        Returns:
            ``[B, ..., O]``.
        """
        return self._run(x, slots, self.activation)

    def _run(self, x: Tensor, slots: Tensor | int | str | None, activation: str) -> Tensor:
        slots = self.resolve_slots(slots, x)
        if x.dim() == 1:
            return self._product(x[None], slots, activation)[0]
        if self.batch_dim == 0 or slots.dim() == 0:
            return self._product(x, slots, activation)
        return self._product(x.transpose(0, self.batch_dim), slots, activation).transpose(0, self.batch_dim)

    def _product(self, x: Tensor, slots: Tensor, activation: str) -> Tensor:
        if self.probe is not None:
            return self._probed(x, slots, activation)
        bias, bias_params, bias_slots = self.packed_bias()
        return ops.task_linear(x, self.packed(), slots, bias, frozen=self.packed_frozen(), activation=activation,
                               bias_params=bias_params, bias_slots=bias_slots)  # fmt: skip

    def _probed(self, x: Tensor, slots: Tensor, activation: str) -> Tensor:
        assert self.probe is not None
        self._check_probe(x, slots)
        y = F.linear(x, self.probe)
        if self.flat_bias is not None:
            row = self.flat_bias[slots]
            y = y + (row if slots.dim() == 0 else row.reshape(len(row), *[1] * (x.dim() - 2), self.out_features))
        return y.relu() if activation == "relu" else y

    def _num_columns(self) -> int:
        return self.in_features

    def _derive_index(self, positions: Tensor) -> Tensor:
        return ops.task_linear_index(positions)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, num_slots={self.num_slots}"
