"""``task_linear`` and its gradients by Triton; arguments and results are those of the reference."""

from __future__ import annotations

from torch import Tensor

from rsn2_kernels.formats import gather_index
from rsn2_kernels.triton_kernels import _launch


def task_linear(
    x: Tensor,  # [B, I]
    values: Tensor,
    positions: Tensor,
    index: Tensor,
    slots: Tensor,  # [] or [B]
    bias: Tensor | None,  # [T, O]
    frozen: list[Tensor],
    activation: str,
    out_features: int,
    *_parameters: object,
) -> Tensor:
    _launch.check("task_linear", positions, index, slots, frozen, out_features, x.shape[1])
    geometry = _launch.Geometry(O=out_features, K=x.shape[1], C=x.shape[1])
    y = x.new_empty(x.shape[0], out_features)
    return _launch.forward(x, values, index, slots, bias, frozen, activation, y, geometry)


def task_linear_grad_input(
    grad_y: Tensor,  # [B, O]
    values: Tensor,
    positions: Tensor,
    index: Tensor,
    slots: Tensor,
    frozen: list[Tensor],
    in_features: int,
) -> Tensor:
    _launch.check("task_linear_grad_input", positions, index, slots, frozen, grad_y.shape[1], in_features)
    geometry = _launch.Geometry(O=grad_y.shape[1], K=in_features, C=in_features)
    grad_x = grad_y.new_empty(grad_y.shape[0], in_features)
    return _launch.grad_input(grad_y, values, index, slots, frozen, grad_x, geometry)


def task_linear_grad_values(
    x: Tensor,  # [B, I]
    grad_y: Tensor,  # [B, O]
    values: Tensor,
    positions: Tensor,
    index: Tensor,
    slots: Tensor,
    wanted: list[int],
    num_owned: list[int],
) -> Tensor:
    _launch.check("task_linear_grad_values", positions, index, slots, [], grad_y.shape[1], x.shape[1])
    geometry = _launch.Geometry(O=grad_y.shape[1], K=x.shape[1], C=x.shape[1])
    return _launch.grad_values(x, grad_y, values, index, slots, wanted, num_owned, geometry)


def task_linear_index(positions: Tensor) -> Tensor:
    return gather_index(positions)
