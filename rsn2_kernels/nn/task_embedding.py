"""An embedding of which every slot has a table of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rsn2_kernels.nn._gather import gather_rows
from rsn2_kernels.nn._rows import RowLayer
from rsn2_kernels.nn._slots import SlotParameters, check_range, is_host_known


class TaskEmbedding(RowLayer):
    """``torch.nn.Embedding`` with a whole table per slot, ``layer.weight[t]`` of ``[num_embeddings, embedding_dim]``.

    Gradients reach the trainable slots; one without a row gets zeros, and so does ``padding_idx``.
    """

    weight: SlotParameters
    flat_weight: Tensor

    def __init__(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None, *,
                 num_slots: int | Sequence[str], device: torch.device | str | None = None,
                 dtype: torch.dtype | None = None) -> None:  # fmt: skip
        dense = nn.Embedding(num_embeddings, embedding_dim, padding_idx, device=device, dtype=dtype)
        super().__init__(num_slots, {"weight": dense.weight})
        self.num_embeddings, self.embedding_dim, self.padding_idx = num_embeddings, embedding_dim, dense.padding_idx

    @classmethod
    def from_dense(cls, embedding: nn.Embedding, *, num_slots: int | Sequence[str]) -> TaskEmbedding:
        """A layer of which every slot's table starts as that of ``embedding``."""
        layer = cls(embedding.num_embeddings, embedding.embedding_dim, embedding.padding_idx, num_slots=num_slots,
                    device=embedding.weight.device, dtype=embedding.weight.dtype)  # fmt: skip
        layer._start_from(embedding)
        return layer

    def to_dense(self, slot: int | str) -> nn.Embedding:
        """A ``torch.nn.Embedding`` with the table of ``slot``."""
        dense = nn.Embedding(self.num_embeddings, self.embedding_dim, self.padding_idx)
        return self._into(dense.to(self._flat("weight")), slot)

    def forward(self, x: Tensor, slots: Tensor | int | str | None = None) -> Tensor:
        """The table rows of ``x``, int64 or int32 ``[B, ...]``, as ``[B, ..., embedding_dim]``."""
        if x.dtype not in (torch.int64, torch.int32):
            raise ValueError(f"TaskEmbedding: x must be int64 or int32, got {x.dtype}")
        slots = self._checked_slots(slots, x)
        x = x.long()
        if is_host_known(x):
            check_range("TaskEmbedding: x", x, self.num_embeddings)
        if slots.dim() == 1:
            ones = [1] * (x.dim() - 1)
            slots = slots.reshape(*ones[: self.batch_dim], len(slots), *ones[self.batch_dim :])
        if self.weight.were_replaced():
            y = torch.stack(self.weight.checked(self.flat_weight.unbind()))[slots, x]
        else:
            trainable, wanted = self.weight.trainable()
            y = gather_rows(self.flat_weight, slots, trainable, wanted, x)
        if self.padding_idx is None or not y.requires_grad:
            return y
        return torch.where((x == self.padding_idx)[..., None], y.detach(), y)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, num_slots={self.num_slots}"
