"""What the gradients of all operators share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rsn2_kernels._schema import LIBRARY, NAMESPACE, operator
from rsn2_kernels.formats import value_starts

_grad_bias = operator("task_grad_bias")


def remember(ctx: Any, x: Tensor, values: Tensor, positions: Tensor, index: Tensor, slots: Tensor, bias: Tensor | None,
             frozen: list[Tensor], activation: str, parameters: Sequence[Any], y: Tensor) -> None:  # fmt: skip
    """Keep what the backward pass needs; ``parameters`` are the last four arguments of a forward operator."""
    weight_params, weight_slots, _, bias_slots = parameters
    saved = [x, values, positions, index, slots, *frozen]
    if activation == "relu":
        saved.append(y)  # which outputs passed the ReLU can be read off the result
    if ctx.needs_input_grad[0]:
        # Not used: the Parameters share the memory of ``values`` but count their versions themselves, and autograd is
        # to refuse a backward pass after an optimizer's step, as it does for torch.nn.Linear.
        saved.extend(weight_params)
    ctx.save_for_backward(*saved)
    ctx.num_frozen = len(frozen)
    ctx.activation = activation
    ctx.weight_slots, ctx.num_owned = weight_slots, [p.numel() for p in weight_params]
    ctx.bias_slots = bias_slots
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.num_slots = None if bias is None else bias.shape[0]


def recall(ctx: Any, grad_y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
    """``grad_y`` of the product before its activation, and x, values, positions, index, slots, frozen."""
    x, values, positions, index, slots, *rest = ctx.saved_tensors
    frozen = rest[: ctx.num_frozen]
    if ctx.activation == "relu":
        grad_y = torch.ops.aten.threshold_backward(grad_y, rest[ctx.num_frozen], 0)
    return grad_y, x, values, positions, index, slots, frozen


def split_values(flat: Tensor, num_owned: list[int]) -> list[Tensor]:
    """One gradient per trainable Parameter, each with storage of its own."""
    return [part.clone() for part in flat.split(num_owned)] if len(num_owned) > 1 else [flat]


def bias_gradients(ctx: Any, grad_y: Tensor, slots: Tensor, needs_all: bool) -> tuple[Tensor | None, list[Tensor]]:
    """The gradient of the whole bias, and those of the trainable rows."""
    whole = None
    if needs_all:
        whole = _grad_bias(grad_y, slots, list(range(ctx.num_slots))).to(ctx.bias_dtype)
    rows: list[Tensor] = []
    if ctx.bias_slots:
        rows = list(_grad_bias(grad_y, slots, ctx.bias_slots).to(ctx.bias_dtype).unbind())
    return whole, rows


def nothing_for(numbers: list[int]) -> list[int] | None:
    """The gradient of an ``int[]``: torch takes an empty list for a list of tensors, and wants one back."""
    return None if numbers else []


def all_slots(positions: Tensor) -> tuple[list[int], list[int]]:
    """Every slot and the number of weights it owns: for gradients of the flat values as a whole."""
    starts = value_starts(positions)
    return list(range(len(starts) - 1)), [b - a for a, b in zip(starts, starts[1:], strict=False)]


def register_autocast(name: str) -> None:
    """Under autocast ``x`` becomes 16-bit; values and bias stay as they are."""
    op = operator(name)

    def for_device(device: str) -> Callable[..., Tensor]:
        def cast_x(x: Tensor, *rest: Any) -> Tensor:
            values = rest[0]
            if x.dtype == torch.float32 and values.dtype == torch.float32:
                x = x.to(torch.get_autocast_dtype(device))
            with torch.autocast(device, enabled=False):
                return op(x, *rest)

        return cast_x

    LIBRARY.impl(name, for_device("cpu"), "AutocastCPU")
    LIBRARY.impl(name, for_device("cuda"), "AutocastCUDA")


def refuse_second_derivative(name: str) -> None:
    """Gradients of gradients are refused loudly, until they are built."""

    def backward(ctx: Any, grad: Tensor) -> Any:
        raise NotImplementedError(f"{name}: second derivatives are not implemented (backward with create_graph=True)")

    torch.library.register_autograd(f"{NAMESPACE}::{name}", backward)


def refuse_vmap(name: str) -> None:
    """So is vectorisation over a further dimension."""

    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        raise NotImplementedError(f"{name}: torch.vmap is not implemented; put the mapped dimension into the rows")

    torch.library.register_vmap(f"{NAMESPACE}::{name}", vmap)
