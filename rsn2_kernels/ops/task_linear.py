"""The task-gathered matrix product: every row of a batch times the weights that its own slot owns."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rsn2_kernels._schema import NAMESPACE, operator
from rsn2_kernels.formats import PackedWeight
from rsn2_kernels.ops._calling import call
from rsn2_kernels.ops._checks import check_frozen, check_inputs, check_slots

_task_linear = operator("task_linear")


def task_linear(
    x: Tensor,
    weight: PackedWeight,
    slots: Tensor,
    bias: Tensor | None = None,
    *,
    frozen: PackedWeight | None = None,
    activation: str = "none",
    bias_params: Sequence[Tensor] = (),
    bias_slots: Sequence[int] = (),
) -> Tensor:
    """Multiply each row of a batch by the weights that its own slot owns.

    ``y[b, o]`` is ``activation(bias[s, o] + sum of weight[s, o, i] * x[b, i])`` over the ``i`` that slot
    ``s = slots[b]`` owns (Eq. 1 of the paper under the masks of Eq. 3).

    Args:
        x: inputs, ``[B, I]`` or ``[B, ..., I]``; float32, float64, bfloat16 or float16; any strides.
        weight: values and positions of all slots, shape ``(T, O, I)``. Its values have the dtype of ``x``, or are
            float32 beside a 16-bit ``x``.
        slots: int64, ``[]`` when all rows share one slot, or ``[B]``, the slot of each row.
        bias: ``[T, O]``, dtype of the values.
        frozen: a second packed weight of the same shape that the same rows read too, without gradients.
        activation: ``"none"`` or ``"relu"``, applied after the bias.
        bias_params: the trainable Parameters that view rows of ``bias``, one per slot of ``bias_slots``.
        bias_slots: the slots of ``bias_params``.

    Returns:
        ``[B, O]`` or ``[B, ..., O]``, dtype of ``x``. 16-bit inputs are summed in float32. On a GPU where
        ``torch.backends.cuda.matmul`` allows TF32, products of more than 8 rows of float32 are rounded to it; in the
        gradients those of 1024 rows of one slot and more, the others stay in float32.

    Raises:
        ValueError: a shape, dtype or device does not fit.
        IndexError: a slot id is out of range (on the CPU).

    Gradients flow to ``x``, to the trainable Parameters of ``weight`` and ``bias_params``, and to ``weight.values`` and
    ``bias`` where these require one; a trainable slot without a row gets zeros. On the CPU a row's result does not
    depend on the other rows of its batch, nor on the number of threads, and repeated runs give the same bits. That the
    positions are a valid packed format is not checked here but by :func:`rsn2_kernels.formats.validate`.
    """
    _, num_outputs, num_inputs = weight.shape
    if x.dim() < 2 or x.shape[-1] != num_inputs:
        raise ValueError(f"task_linear: x must have shape [B, ..., {num_inputs}], got {list(x.shape)}")
    check_inputs("task_linear", x, weight, slots, bias, activation)
    check_slots("task_linear", slots, x.shape[0])
    leading = x.shape[:-1]
    if x.dim() > 2:
        if slots.dim() == 1:
            slots = slots.repeat_interleave(leading[1:].numel())
        x = x.reshape(-1, num_inputs)
    y = call(
        _task_linear,
        x,
        weight.values,
        weight.positions,
        weight.index,
        slots,
        bias,
        check_frozen("task_linear", weight, frozen),
        activation,
        num_outputs,
        list(weight.trainable),
        list(weight.trainable_slots),
        list(bias_params),
        list(bias_slots),
    )
    return y if len(leading) == 1 else y.reshape(*leading, num_outputs)


def task_linear_index(positions: Tensor) -> Tensor:
    """What the kernels derive from ``positions``: an opaque int32 tensor, built once per mask."""
    return operator("task_linear_index")(positions)


@torch.library.register_fake(f"{NAMESPACE}::task_linear")
def _task_linear_fake(
    x: Tensor,
    values: Tensor,
    positions: Tensor,
    index: Tensor,
    slots: Tensor,
    bias: Tensor | None,
    frozen: list[Tensor],
    activation: str,
    out_features: int,
    *_parameters: object,
) -> Tensor:
    return x.new_empty(x.shape[0], out_features)


@torch.library.register_fake(f"{NAMESPACE}::task_linear_grad_input")
def _task_linear_grad_input_fake(
    grad_y: Tensor,
    values: Tensor,
    positions: Tensor,
    index: Tensor,
    slots: Tensor,
    frozen: list[Tensor],
    in_features: int,
) -> Tensor:
    return grad_y.new_empty(grad_y.shape[0], in_features)
