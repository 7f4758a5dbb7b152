"""How ``task_conv2d`` is differentiated."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rsn2_kernels._schema import NAMESPACE, operator
from rsn2_kernels.autograd import _common

_grad_input = operator("task_conv2d_grad_input")
_grad_values = operator("task_conv2d_grad_values")


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, values, positions, index, slots, bias, frozen, activation, _, *rest = inputs
    ctx.window = rest[:4]
    _common.remember(ctx, x, values, positions, index, slots, bias, frozen, activation, rest[4:], output)


def _backward(ctx: Any, grad_y: Tensor) -> tuple[Any, ...]:
    grad_y, x, values, positions, index, slots, frozen = _common.recall(ctx, grad_y)
    packed = (values, positions, index, slots)
    wants_x, wants_values, wants_bias = (ctx.needs_input_grad[i] for i in (0, 1, 5))
    grad_x = grad_values = None
    if wants_x:
        grad_x = _grad_input(grad_y, *packed, frozen, list(x.shape[1:]), *ctx.window)
    if wants_values:
        wanted, num_owned = _common.all_slots(positions)
        grad_values = _grad_values(x, grad_y, *packed, wanted, num_owned, *ctx.window)
    grad_params: list[Tensor] = []
    if ctx.weight_slots:
        flat = _grad_values(x, grad_y, *packed, ctx.weight_slots, ctx.num_owned, *ctx.window)
        grad_params = _common.split_values(flat, ctx.num_owned)
    grad_bias, grad_bias_params = _common.bias_gradients(ctx, grad_y, slots, wants_bias)
    return (
        grad_x,
        grad_values,
        None,  # positions
        None,  # index
        None,  # slots
        grad_bias,
        [None] * ctx.num_frozen,  # frozen
        None,  # activation
        None,  # out_channels
        None,  # kernel_size
        None,  # stride
        None,  # padding
        None,  # dilation
        grad_params,
        _common.nothing_for(ctx.weight_slots),
        grad_bias_params,
        _common.nothing_for(ctx.bias_slots),
    )


torch.library.register_autograd(f"{NAMESPACE}::task_conv2d", _backward, setup_context=_setup_context)
_common.register_autocast("task_conv2d")
for _name in ("task_conv2d_grad_input", "task_conv2d_grad_values", "task_grad_bias"):
    _common.refuse_second_derivative(_name)
for _name in ("task_conv2d", "task_conv2d_grad_input", "task_conv2d_grad_values", "task_grad_bias"):
    _common.refuse_vmap(_name)
