"""Batch normalisation of which every slot has its own running statistics and affine transformation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rsn2_kernels.nn._gather import runs
from rsn2_kernels.nn._rows import RowLayer, joined
from rsn2_kernels.nn._slots import is_host_known


def _laid_out_as(x: Tensor, y: Tensor) -> Tensor:
    """``y`` in the memory format that ``batch_norm`` gives the result for ``x``."""
    if x.is_contiguous() or x.dim() != 4 or not x.stride(1) < x.stride(3) <= x.stride(2):
        return y
    return y.contiguous(memory_format=torch.channels_last)


class _TaskBatchNorm(RowLayer):
    """What the one- and two-dimensional layers share."""

    dense_class: ClassVar[Any]
    allowed_dims: ClassVar[tuple[int, ...]]
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True,
                 track_running_stats: bool = True, *, num_slots: int | Sequence[str],
                 device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> None:  # fmt: skip
        def row(value: float, wanted: bool) -> Tensor | None:
            return (
                torch.full((num_features,), value, device=device, dtype=dtype or torch.get_default_dtype())
                if wanted
                else None
            )

        count = torch.zeros((), dtype=torch.int64, device=device) if track_running_stats else None
        super().__init__(
            num_slots,
            {"weight": row(1.0, affine), "bias": row(0.0, affine)},
            {"running_mean": row(0.0, track_running_stats), "running_var": row(1.0, track_running_stats),
             "num_batches_tracked": count},
        )  # fmt: skip
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats

    @classmethod
    def from_dense(cls, norm: Any, *, num_slots: int | Sequence[str]) -> Any:
        """A layer of which every slot starts as ``norm``, running statistics included."""
        known = norm.weight if norm.affine else norm.running_mean
        layer = cls(
            norm.num_features,
            norm.eps,
            norm.momentum,
            norm.affine,
            norm.running_mean is not None,
            num_slots=num_slots,
            device=None if known is None else known.device,
            dtype=None if known is None else known.dtype,
        )
        layer._start_from(norm)
        return layer.train(norm.training)

    def to_dense(self, slot: int | str) -> Any:
        """The ``torch.nn`` layer like ``slot``."""
        dense = self.dense_class(self.num_features, self.eps, self.momentum, self.affine, self.track_running_stats)
        kinds = (*self._trained, *self._tracked)
        return self._into(dense.to(self._flat(kinds[0])) if kinds else dense, slot)

    def forward(self, x: Tensor, slots: Tensor | int | str | None = None) -> Tensor:
        """Normalise ``x`` ``[B, C]`` or ``[B, C, ...]`` with slots ``[]`` or ``[B]``; the result has its shape."""
        if x.dim() not in self.allowed_dims or x.shape[1] != self.num_features or not x.is_floating_point():
            wanted = " or ".join(f"[B, {self.num_features}{', *' * (dims - 2)}]" for dims in self.allowed_dims)
            raise ValueError(f"{type(self).__name__}: x must be float {wanted}, got {x.dtype} {list(x.shape)}")
        slots = self._checked_slots(slots, x)
        if slots.dim() == 1 and x.shape[0] == 0:
            return self._of_no_rows(x, slots)
        if self.running_mean is not None and not self.training:
            return self._with_running_statistics(x, slots)
        if is_host_known(slots):
            return self._slot_by_slot(x, slots)
        if slots.dim() == 0 and (self.running_mean is None or not self._frozen):
            return self._one_traced(x, slots)
        return self._with_segments(x, slots.expand(x.shape[0]))

    def _with_running_statistics(self, x: Tensor, slots: Tensor) -> Tensor:
        assert self.running_mean is not None and self.running_var is not None
        weight, bias = self._rows("weight", slots), self._rows("bias", slots)
        mean = self.running_mean.index_select(0, slots.reshape(-1)).reshape(-1)
        var = self.running_var.index_select(0, slots.reshape(-1)).reshape(-1)
        if slots.dim() == 0:
            return F.batch_norm(x, mean, var, weight, bias, False, 0.0, self.eps)
        # One row with the channels of all rows: the same kernel, with every row's own statistics.
        wide = x.reshape(1, -1, *x.shape[2:])
        weight, bias = (None if row is None else row.reshape(-1) for row in (weight, bias))
        return _laid_out_as(x, F.batch_norm(wide, mean, var, weight, bias, False, 0.0, self.eps).reshape(x.shape))

    def _slot_by_slot(self, x: Tensor, slots: Tensor) -> Tensor:
        """The slots that are present, one after another: each has the bits that it has alone."""
        if slots.dim() == 0:
            return self._one(x, int(slots), self._rows("weight", slots), self._rows("bias", slots))
        parts, order = self._by_slot(x, slots)
        if self.training and self.running_mean is not None:  # all of them can be computed, or nothing is changed
            for part in parts:
                if part.slot not in self._frozen and part.x.numel() == self.num_features:
                    raise ValueError(
                        f"{type(self).__name__}: x must have more than one value per channel of each slot in training, "
                        f"got one of slot {part.slot}"
                    )
        return joined([self._one(part.x, part.slot, part.weight, part.bias) for part in parts], order)

    def _one(self, x: Tensor, slot: int, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        if self.running_mean is None or self.running_var is None:
            return F.batch_norm(x, None, None, weight, bias, True, 0.0, self.eps)
        mean, var = self.running_mean[slot], self.running_var[slot]
        if slot in self._frozen:
            return F.batch_norm(x, mean, var, weight, bias, False, 0.0, self.eps)
        assert self.num_batches_tracked is not None
        count = int(self.num_batches_tracked[slot]) + 1
        factor = 1.0 / count if self.momentum is None else self.momentum
        y = F.batch_norm(x, mean, var, weight, bias, True, factor, self.eps)
        self.num_batches_tracked[slot] += 1
        return y

    # Without looking at the slots, for tracing and for devices that Python must not wait for.

    def _one_traced(self, x: Tensor, slots: Tensor) -> Tensor:
        weight, bias = self._rows("weight", slots), self._rows("bias", slots)
        if self.running_mean is None or self.momentum is None:
            return self._with_segments(x, slots.expand(x.shape[0]))
        assert self.running_var is not None and self.num_batches_tracked is not None
        place = slots.reshape(1)
        mean, var = self.running_mean.index_select(0, place), self.running_var.index_select(0, place)
        mean_row, var_row = mean[0].clone(), var[0].clone()
        y = F.batch_norm(x, mean_row, var_row, weight, bias, True, self.momentum, self.eps)
        self.running_mean.index_copy_(0, place, mean_row[None])
        self.running_var.index_copy_(0, place, var_row[None])
        self.num_batches_tracked.index_add_(0, place, torch.ones_like(place))
        return y

    def _with_segments(self, x: Tensor, slots: Tensor) -> Tensor:
        """Statistics of all slots at once, as sums over each slot's rows."""
        dtype = torch.float32 if x.dtype in (torch.bfloat16, torch.float16) else x.dtype
        pixels = x[0, 0].numel()
        flat = x.to(dtype).reshape(x.shape[0], self.num_features, pixels)
        zeros = flat.new_zeros(self.num_slots, self.num_features)
        rows = torch.zeros(self.num_slots, dtype=torch.int64, device=x.device).index_add(
            0, slots, torch.ones_like(slots)
        )
        count = (rows * pixels).to(dtype)[:, None]
        mean = zeros.index_add(0, slots, flat.sum(2)) / count.clamp(min=1)
        centred = flat - mean.index_select(0, slots)[:, :, None]
        var = zeros.index_add(0, slots, centred.square().sum(2)) / count.clamp(min=1)
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            frozen = torch.zeros(self.num_slots, dtype=torch.bool, device=x.device)
            for first, last, _ in runs(sorted(self._frozen)):  # without a copy from the host
                frozen[first:last] = True
            learns = (rows > 0) & ~frozen
            with torch.no_grad():
                seen = self.num_batches_tracked + learns
                factor = (1 / seen.clamp(min=1)).to(dtype)[:, None] if self.momentum is None else self.momentum
                unbiased = var * (count / (count - 1).clamp(min=1))
                new_mean = self.running_mean + (mean - self.running_mean) * factor
                new_var = self.running_var + (unbiased - self.running_var) * factor
                old_mean, old_var = self.running_mean.to(dtype, copy=True), self.running_var.to(dtype, copy=True)
                self.running_mean.copy_(torch.where(learns[:, None], new_mean, self.running_mean))
                self.running_var.copy_(torch.where(learns[:, None], new_var, self.running_var))
                self.num_batches_tracked.copy_(seen)
            mean = torch.where(frozen[:, None], old_mean, mean)
            var = torch.where(frozen[:, None], old_var, var)
        weight, bias = self._rows("weight", slots), self._rows("bias", slots)
        scale = (var + self.eps).rsqrt().index_select(0, slots)
        scale = scale if weight is None else scale * weight
        y = (flat - mean.index_select(0, slots)[:, :, None]) * scale[:, :, None]
        y = y if bias is None else y + bias[:, :, None]
        return _laid_out_as(x, y.to(x.dtype).reshape(x.shape))

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"track_running_stats={self.track_running_stats}, num_slots={self.num_slots}"
        )


class TaskBatchNorm2d(_TaskBatchNorm):
    """``torch.nn.BatchNorm2d`` with running statistics and an affine transformation per slot.

    In training, the statistics of a batch are computed over the rows of each slot: a slot learns what it would learn
    alone. A *frozen* slot normalises with its running statistics and never changes them, in train mode too, so that a
    finished task computes the same whatever the mode is. Without running statistics (``track_running_stats=False``)
    every slot always uses those of its own rows.

    On the CPU a mixed batch has the bits of the tasks run one by one; ``channels_last`` is kept everywhere. Traced by
    ``torch.compile``, or on a GPU, the training statistics of a mixed batch are sums of another order, and a slot with
    one value per channel, which is an error otherwise, keeps its variance unscaled.

    Gradients reach the trainable slots; one without a row gets zeros.
    """

    dense_class = nn.BatchNorm2d
    allowed_dims = (4,)


class TaskBatchNorm1d(_TaskBatchNorm):
    """``torch.nn.BatchNorm1d`` with statistics and affine transformation per slot; see :class:`TaskBatchNorm2d`."""

    dense_class = nn.BatchNorm1d
    allowed_dims = (2, 3)
