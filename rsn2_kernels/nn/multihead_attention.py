"""Multi-head attention of which every task owns weights of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rsn2_kernels.formats import StoredBase
from rsn2_kernels.nn.task_linear import TaskLinear

_PROJECTIONS = ("q_proj", "k_proj", "v_proj")


class TaskMultiheadAttention(nn.Module):
    """``torch.nn.MultiheadAttention`` whose four projections are :class:`~rsn2_kernels.nn.TaskLinear` layers.

    ``q_proj``, ``k_proj``, ``v_proj`` and ``out_proj`` are claimed like any other layer. The call is that of the torch
    module, masks, ``need_weights`` and unbatched inputs included, with ``slots`` besides: ``[]``, or ``[B]`` for a
    mixed batch, where ``B`` is counted along the batch dimension whatever ``batch_first`` says.

    Args:
        embed_dim, num_heads, dropout, bias, add_zero_attn, kdim, vdim, batch_first, device, dtype: as in torch;
            ``add_bias_kv`` is not there.
        num_slots: how many slots, or their names.
    """

    # torch's transformer layers bypass their children where attention is of the kind that these describe.
    in_proj_weight = None
    in_proj_bias = None
    _qkv_same_embed_dim = False

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        *,
        num_slots: int | Sequence[str],
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if num_heads < 1 or embed_dim % num_heads:
            raise ValueError(f"TaskMultiheadAttention: num_heads must divide embed_dim {embed_dim}, got {num_heads}")
        self.embed_dim, self.num_heads, self.dropout, self.batch_first = embed_dim, num_heads, dropout, batch_first
        self.kdim, self.vdim = embed_dim if kdim is None else kdim, embed_dim if vdim is None else vdim
        self.head_dim, self.add_zero_attn = embed_dim // num_heads, add_zero_attn
        options: dict[str, Any] = {"num_slots": num_slots, "device": device, "dtype": dtype}
        self.q_proj = TaskLinear(embed_dim, embed_dim, bias, **options)
        self.k_proj = TaskLinear(self.kdim, embed_dim, bias, **options)
        self.v_proj = TaskLinear(self.vdim, embed_dim, bias, **options)
        self.out_proj = TaskLinear(embed_dim, embed_dim, bias, **options)

    @classmethod
    def from_dense(cls, attention: nn.MultiheadAttention, *, num_slots: int | Sequence[str]) -> TaskMultiheadAttention:
        """A task version whose base weights, and every slot's starting biases, are those of ``attention``."""
        if attention.bias_k is not None:
            raise ValueError("TaskMultiheadAttention: add_bias_kv=True is not supported")
        weight = attention.out_proj.weight
        layer = cls(attention.embed_dim, attention.num_heads, attention.dropout, attention.in_proj_bias is not None,
                    attention.add_zero_attn, attention.kdim, attention.vdim, attention.batch_first, num_slots=0,
                    device=weight.device, dtype=weight.dtype)  # fmt: skip
        if attention._qkv_same_embed_dim:
            weights = list(attention.in_proj_weight.chunk(3))
        else:
            weights = [attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight]
        biases = [None] * 3 if attention.in_proj_bias is None else list(attention.in_proj_bias.chunk(3))
        for name, matrix, bias in zip(_PROJECTIONS, weights, biases, strict=True):
            assert isinstance(matrix, Tensor)
            projection = TaskLinear(
                matrix.shape[1],
                matrix.shape[0],
                bias is not None,
                num_slots=num_slots,
                base=StoredBase(matrix),
                base_bias=bias,
                device=matrix.device,
                dtype=matrix.dtype,
            )
            setattr(layer, name, projection)
        layer.out_proj = TaskLinear.from_dense(attention.out_proj, num_slots=num_slots)
        return layer.train(attention.training)

    def to_dense(self, slot: int | str) -> nn.MultiheadAttention:
        """A ``torch.nn.MultiheadAttention`` that computes what ``slot`` computes."""
        projections = [getattr(self, name).to_dense(slot) for name in _PROJECTIONS]
        out = self.out_proj.to_dense(slot)
        dense = nn.MultiheadAttention(
            self.embed_dim,
            self.num_heads,
            self.dropout,
            out.bias is not None,
            False,
            self.add_zero_attn,
            self.kdim,
            self.vdim,
            self.batch_first,
            device=out.weight.device,
            dtype=out.weight.dtype,
        )
        with torch.no_grad():
            if dense._qkv_same_embed_dim:
                dense.in_proj_weight.copy_(torch.cat([projection.weight for projection in projections]))
            else:
                for name, projection in zip(_PROJECTIONS, projections, strict=True):
                    getattr(dense, f"{name}_weight").copy_(projection.weight)
            dense.out_proj.weight.copy_(out.weight)
            if dense.in_proj_bias is not None:
                dense.in_proj_bias.copy_(torch.cat([projection.bias for projection in projections]))
                dense.out_proj.bias.copy_(out.bias)
        return dense.train(self.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
        slots: Tensor | int | str | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """As ``torch.nn.MultiheadAttention``: the attended values, and the attention weights if they are needed."""
        for name, tensor in (("query", query), ("key", key), ("value", value)):
            if tensor.dim() not in (2, 3) or tensor.dim() != query.dim():
                raise ValueError(
                    f"TaskMultiheadAttention: {name} must have 3 dimensions, or 2 without a batch, as query, "
                    f"got {list(tensor.shape)}"
                )
        if is_causal and attn_mask is None:
            raise RuntimeError("TaskMultiheadAttention: is_causal is a hint about attn_mask, which is missing")
        is_batched = query.dim() == 3
        if not is_batched:
            query, key, value = query[None], key[None], value[None]
            key_padding_mask = None if key_padding_mask is None else key_padding_mask[None]
        elif not self.batch_first:
            query, key, value = (tensor.transpose(0, 1) for tensor in (query, key, value))
        rows, length, source = query.shape[0], query.shape[1], key.shape[1]
        q, k, v = (
            self._heads(layer(tensor, slots))
            for layer, tensor in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
        )
        # Whoever hints that the mask is causal, and needs nothing else, lets the kernel make it.
        causal = is_causal and key_padding_mask is None and not need_weights and not self.add_zero_attn
        mask = None if causal else self._mask(attn_mask, key_padding_mask, (rows, length, source), q)
        if self.add_zero_attn:
            k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
            mask = None if mask is None else F.pad(mask, (0, 1))
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = (q * self.head_dim**-0.5) @ k.transpose(-2, -1)
            weights = (scores if mask is None else scores + mask).softmax(-1)
            weights = F.dropout(weights, dropout) if dropout > 0 else weights
            y = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
            weights = weights if is_batched else weights[0]
        else:
            y = F.scaled_dot_product_attention(q, k, v, mask, dropout, causal)
        y = self.out_proj(y.transpose(1, 2).reshape(rows, length, self.embed_dim), slots)
        if not is_batched:
            return y[0], weights
        return (y if self.batch_first else y.transpose(0, 1)), weights

    def _heads(self, x: Tensor) -> Tensor:
        """``[B, L, E]`` -> ``[B, heads, L, E / heads]``."""
        return x.reshape(x.shape[0], x.shape[1], self.num_heads, self.head_dim).transpose(1, 2)

    def _mask(self, attn_mask: Tensor | None, key_padding_mask: Tensor | None, size: tuple[int, int, int],
              like: Tensor) -> Tensor | None:  # fmt: skip
        """Both masks as numbers to be added to the scores, ``[B or 1, heads or 1, L or 1, S]``."""
        rows, length, source = size
        total = None
        if key_padding_mask is not None:
            _check_mask("key_padding_mask", key_padding_mask, [(rows, source)])
            total = _as_summand(key_padding_mask, like)[:, None, None, :]
        if attn_mask is not None:
            _check_mask("attn_mask", attn_mask, [(length, source), (rows * self.num_heads, length, source)])
            attn_mask = _as_summand(attn_mask, like)
            if attn_mask.dim() == 3:
                attn_mask = attn_mask.reshape(rows, self.num_heads, length, source)
            total = attn_mask if total is None else total + attn_mask
        return total

    def extra_repr(self) -> str:
        return f"{self.embed_dim}, {self.num_heads}, dropout={self.dropout}, batch_first={self.batch_first}"


def _check_mask(name: str, mask: Tensor, shapes: list[tuple[int, ...]]) -> None:
    if tuple(mask.shape) not in shapes or not (mask.dtype == torch.bool or mask.is_floating_point()):
        wanted = " or ".join(str(list(shape)) for shape in shapes)
        raise ValueError(
            f"TaskMultiheadAttention: {name} must be bool or float {wanted}, got {mask.dtype} {list(mask.shape)}"
        )


def _as_summand(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, float("-inf"))
    return mask.to(like.dtype)
