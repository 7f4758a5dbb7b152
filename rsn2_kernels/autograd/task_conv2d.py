"""How ``task_conv2d`` is differentiated."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rsn2_kernels._schema import operator
from rsn2_kernels.autograd import _common

_grad_input = operator("task_conv2d_grad_input")
_grad_values = operator("task_conv2d_grad_values")


def _gradient_of_x(grad_y: Tensor, shape: Any, packed: Any, frozen: Any, window: Any) -> Tensor:
    gradient: Tensor = _grad_input(grad_y, *packed, frozen, list(shape[1:]), *window)
    return gradient


def _gradient_of_values(x: Tensor, grad_y: Tensor, packed: Any, wanted: Any, num_owned: Any, window: Any) -> Tensor:
    gradient: Tensor = _grad_values(x, grad_y, *packed, wanted, num_owned, *window)
    return gradient


_common.register_product("task_conv2d", _gradient_of_x, _gradient_of_values)
_common.register_autocast("task_conv2d")
for _name in ("task_conv2d_grad_input", "task_conv2d_grad_values", "task_grad_bias"):
    _common.refuse_second_derivative(_name)
for _name in ("task_conv2d", "task_conv2d_grad_input", "task_conv2d_grad_values", "task_grad_bias"):
    _common.refuse_vmap(_name)
