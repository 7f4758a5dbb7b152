"""Normalisation layers of which every slot has its own statistics and affine transformation."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rsn2_kernels.nn._rows import RowLayer, joined
from rsn2_kernels.nn._slots import is_host_known
from rsn2_kernels.ops._checks import HALVES


def _filled(shape: Sequence[int], value: float, wanted: bool, device: Any, dtype: torch.dtype | None) -> Tensor | None:
    return torch.full(tuple(shape), value, device=device, dtype=dtype or torch.get_default_dtype()) if wanted else None


def _check_float(layer: nn.Module, x: Tensor) -> None:
    if not x.is_floating_point():
        raise ValueError(f"{type(layer).__name__}: x must be a float tensor, got {x.dtype}")


class TaskLayerNorm(RowLayer):
    """``torch.nn.LayerNorm`` with an affine transformation per slot.

    ``layer(x, slots)`` takes ``[B, ..., *normalized_shape]`` and slots ``[]`` or ``[B]``; a row's result does not
    depend on the other rows of its batch. Gradients reach the trainable slots; one without a row gets zeros.
    """

    def __init__(self, normalized_shape: int | Sequence[int], eps: float = 1e-5, elementwise_affine: bool = True,
                 bias: bool = True, *, num_slots: int | Sequence[str], device: torch.device | str | None = None,
                 dtype: torch.dtype | None = None) -> None:  # fmt: skip
        shape = (int(normalized_shape),) if isinstance(normalized_shape, (int, Integral)) else tuple(normalized_shape)
        super().__init__(
            num_slots,
            {
                "weight": _filled(shape, 1.0, elementwise_affine, device, dtype),
                "bias": _filled(shape, 0.0, elementwise_affine and bias, device, dtype),
            },
        )
        self.normalized_shape, self.eps, self.elementwise_affine = shape, eps, elementwise_affine

    @classmethod
    def from_dense(cls, norm: nn.LayerNorm, *, num_slots: int | Sequence[str]) -> TaskLayerNorm:
        """A layer of which every slot starts as ``norm``."""
        weight = norm.weight
        layer = cls(
            norm.normalized_shape,
            norm.eps,
            norm.elementwise_affine,
            norm.bias is not None,
            num_slots=num_slots,
            device=None if weight is None else weight.device,
            dtype=None if weight is None else weight.dtype,
        )
        layer._start_from(norm)
        return layer

    def to_dense(self, slot: int | str) -> nn.LayerNorm:
        """A ``torch.nn.LayerNorm`` like ``slot``."""
        rows = [self._flat(kind) for kind in self._trained]
        dense = nn.LayerNorm(self.normalized_shape, self.eps, self.elementwise_affine, "bias" in self._trained)
        return self._into(dense.to(rows[0]) if rows else dense, slot)

    def forward(self, x: Tensor, slots: Tensor | int | str | None = None) -> Tensor:
        """Normalise ``x`` ``[B, ..., *normalized_shape]``; the result has its shape."""
        _check_float(self, x)
        dims = len(self.normalized_shape)
        if tuple(x.shape[x.dim() - dims :]) != self.normalized_shape or x.dim() < dims:
            raise ValueError(f"TaskLayerNorm: x must have shape [..., {self.normalized_shape}], got {list(x.shape)}")
        slots = self._checked_slots(slots, x)
        if slots.dim() == 0 or not self._trained:
            return self._normalised(x, self._rows("weight", slots), self._rows("bias", slots))
        if x.dim() == dims:  # the rows are the first dimension that is normalised
            raise ValueError(f"TaskLayerNorm: x must have a batch dimension beside slots [B], got {list(x.shape)}")
        if (x.dtype in HALVES or x.dtype != self._flat("weight").dtype) and is_host_known(slots) and len(slots):
            # Only the kernel itself rounds once, after the affine transformation, and what it adds up is its own.
            parts, order = self._by_slot(x, slots, self.batch_dim)
            return joined([self._normalised(part.x, part.weight, part.bias) for part in parts], order, self.batch_dim)
        return self._all_at_once(x, slots)

    def _normalised(self, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)

    def _all_at_once(self, x: Tensor, slots: Tensor) -> Tensor:
        """A mixed batch without looking at its slots: the bits of the kernel in float32 and float64."""
        weight, bias = self._rows("weight", slots), self._rows("bias", slots)
        assert weight is not None
        ones = [1] * (x.dim() - 1 - len(self.normalized_shape))
        leading = [*ones[: self.batch_dim], len(slots), *ones[self.batch_dim :]]
        weight = weight.reshape(*leading, *self.normalized_shape)
        dtype = self._normalised(x[:0]).dtype if x.dtype in HALVES else x.dtype  # autocast has its own mind
        y = self._normalised(x.float() if x.dtype in HALVES else x)
        # The sum that layer_norm itself computes.
        y = y * weight if bias is None else torch.addcmul(bias.reshape(weight.shape), y, weight)
        return y.to(dtype)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, num_slots={self.num_slots}"


class TaskGroupNorm(RowLayer):
    """``torch.nn.GroupNorm`` with an affine transformation per slot.

    ``layer(x, slots)`` takes ``[B, C, ...]`` and slots ``[]`` or ``[B]``; a row's result does not depend on the other
    rows of its batch, except that torch, with several threads, cuts its sums over large ``channels_last`` images by how
    many there are: a mixed batch then has the bits of each slot's rows together. Gradients reach the trainable slots;
    one without a row gets zeros.
    """

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True, *,
                 num_slots: int | Sequence[str], device: torch.device | str | None = None,
                 dtype: torch.dtype | None = None) -> None:  # fmt: skip
        if num_groups < 1 or num_channels % num_groups:
            raise ValueError(f"TaskGroupNorm: num_groups must divide num_channels {num_channels}, got {num_groups}")
        super().__init__(num_slots, {"weight": _filled([num_channels], 1.0, affine, device, dtype),
                                     "bias": _filled([num_channels], 0.0, affine, device, dtype)})  # fmt: skip
        self.num_groups, self.num_channels, self.eps, self.affine = num_groups, num_channels, eps, affine

    @classmethod
    def from_dense(cls, norm: nn.GroupNorm, *, num_slots: int | Sequence[str]) -> TaskGroupNorm:
        """A layer of which every slot starts as ``norm``."""
        weight = norm.weight
        layer = cls(
            norm.num_groups,
            norm.num_channels,
            norm.eps,
            norm.affine,
            num_slots=num_slots,
            device=None if weight is None else weight.device,
            dtype=None if weight is None else weight.dtype,
        )
        layer._start_from(norm)
        return layer

    def to_dense(self, slot: int | str) -> nn.GroupNorm:
        """A ``torch.nn.GroupNorm`` like ``slot``."""
        dense = nn.GroupNorm(self.num_groups, self.num_channels, self.eps, self.affine)
        return self._into(dense.to(self._flat("weight")) if self.affine else dense, slot)

    def forward(self, x: Tensor, slots: Tensor | int | str | None = None) -> Tensor:
        """Normalise ``x`` ``[B, C, ...]``; the result has its shape."""
        _check_float(self, x)
        if x.dim() < 2 or x.shape[1] != self.num_channels:
            raise ValueError(f"TaskGroupNorm: x must have shape [B, {self.num_channels}, ...], got {list(x.shape)}")
        slots = self._checked_slots(slots, x)
        if slots.dim() == 1 and x.shape[0] == 0:
            return self._of_no_rows(x, slots)
        if slots.dim() == 1 and x.dim() > 3 and not x.is_contiguous() and is_host_known(slots):
            # channels_last has a kernel of its own, which adds up in another order.
            parts, order = self._by_slot(x, slots)
            return joined([F.group_norm(p.x, self.num_groups, p.weight, p.bias, self.eps) for p in parts], order)
        weight, bias = self._rows("weight", slots), self._rows("bias", slots)
        if slots.dim() == 0 or weight is None or bias is None:
            return F.group_norm(x, self.num_groups, weight, bias, self.eps)
        # One row with the groups of all rows: the same kernel, with every row's own affine transformation.
        rows, channels = x.shape[:2]
        wide = x.reshape(1, rows * channels, *x.shape[2:])
        y = F.group_norm(wide, rows * self.num_groups, weight.reshape(-1), bias.reshape(-1), self.eps)
        return y.reshape(x.shape)

    def extra_repr(self) -> str:
        return (
            f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}, num_slots={self.num_slots}"
        )
