"""What the gradients of all operators share."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from rsn2_kernels._schema import LIBRARY, NAMESPACE, operator
from rsn2_kernels.formats import value_starts

_grad_bias = operator("task_grad_bias")
_num_owned: MutableMapping[Tensor, tuple[int, list[int]]] = WeakTensorKeyDictionary()


Gradient = Callable[..., Tensor]


def register_product(name: str, grad_input: Gradient, grad_values: Gradient) -> None:
    """How the forward operator ``name`` is differentiated.

    ``torch.library.register_autograd`` would register the same kind of kernel, one that flattens every argument, lists
    of tensors too, in each call and takes 60 microseconds for it.

    Args:
        name: of an operator whose arguments begin with x, values, positions, index, slots, bias, frozen, activation and
            the size of the output, and end with weight_params, weight_slots, bias_params, bias_slots. What stands
            between them is the window.
        grad_input: ``(grad_y, x's shape, packed, frozen, window)``; ``packed`` is (values, positions, index, slots).
        grad_values: ``(x, grad_y, packed, wanted, num_owned, window)``.
    """
    op = operator(name)

    def backward(ctx: Any, saved: tuple[Tensor, ...], grad_y: Tensor) -> tuple[Any, ...]:
        x, values, positions, index, slots, *rest = saved
        packed, frozen = (values, positions, index, slots), rest[: ctx.num_frozen]
        if ctx.activation == "relu":
            grad_y = torch.ops.aten.threshold_backward(grad_y, rest[ctx.num_frozen], 0)
        _, _, wants_x, wants_values, wants_bias, *_ = ctx.needs_input_grad
        grad_x = whole = None
        if wants_x:
            grad_x = grad_input(grad_y, x.shape, packed, frozen, ctx.window)
        if wants_values:
            whole = grad_values(x, grad_y, packed, *all_slots(positions), ctx.window)
        grad_params: list[Tensor] = []
        if ctx.weight_slots:
            flat = grad_values(x, grad_y, packed, ctx.weight_slots, ctx.num_owned, ctx.window)
            grad_params = split_values(flat, ctx.num_owned)
        whole_bias, grad_bias_params = bias_gradients(ctx, grad_y, slots, wants_bias)
        return (None, None, grad_x, whole, whole_bias, *grad_params, *grad_bias_params)

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, keyset: Any, args: tuple[Any, ...], *differentiable: Tensor | None) -> Tensor:
            with torch._C._AutoDispatchBelowAutograd():
                y: Tensor = op.redispatch(keyset & torch._C._after_autograd_keyset, *args)
            _remember(ctx, args, y)
            return y

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
            saved = ctx.saved_tensors  # may run a whole forward pass, with autograd
            if torch.is_grad_enabled():  # create_graph=True: the operators refuse what comes after them
                first, second, grad_x, *others = backward(ctx, saved, *grads)
                trainable = [p for p in saved[len(saved) - ctx.num_saved_params :] if p.requires_grad]
                if grad_x is not None and trainable and not grad_x.requires_grad:
                    grad_x = _Refusal.apply(name, grad_x, *trainable)
                return (first, second, grad_x, *others)
            with torch._C._AutoDispatchBelowAutograd():
                return backward(ctx, saved, *grads)

    def product(keyset: Any, *args: Any) -> Tensor:
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*args):
            x, values, bias, weight_params, bias_params = args[0], args[1], args[5], args[-4], args[-2]
            try:
                y: Tensor = Product.apply(keyset, args, x, values, bias, *weight_params, *bias_params)
            except RuntimeError:
                if torch._C._are_functorch_transforms_active():  # not asked in every call
                    raise NotImplementedError(
                        f"{name}: torch.func.grad, vjp and jacrev are not implemented; use torch.autograd.grad, with "
                        "torch.func.functional_call for other Parameters"
                    ) from None
                raise
            return y
        with torch._C._AutoDispatchBelowAutograd():
            y = op.redispatch(keyset & torch._C._after_autograd_keyset, *args)
        return y

    LIBRARY.impl(name, product, "Autograd", with_keyset=True)


class _Refusal(torch.autograd.Function):
    """The gradient of the input depends on the Parameters, which ``values`` does not show to autograd."""

    @staticmethod
    def forward(ctx: Any, name: str, grad_x: Tensor, *params: Tensor) -> Tensor:
        ctx.name = name
        return grad_x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise NotImplementedError(second_derivatives_of(ctx.name))


def second_derivatives_of(name: str) -> str:
    return f"{name}: second derivatives are not implemented (backward with create_graph=True)"


def _remember(ctx: Any, args: tuple[Any, ...], y: Tensor) -> None:
    """Keep what the backward pass needs."""
    x, values, positions, index, slots, bias, frozen, activation, _, *window = args[:-4]
    weight_params, weight_slots, _, bias_slots = args[-4:]
    saved = [x, values, positions, index, slots, *frozen]
    if activation == "relu":
        saved.append(y)  # which outputs passed the ReLU can be read off the result
    ctx.num_saved_params = 0
    if ctx.needs_input_grad[2]:
        ctx.num_saved_params = len(weight_params)
        # Not computed with: the Parameters share the memory of ``values`` but count their versions themselves, and
        # autograd is to refuse a backward pass after an optimizer's step, as it does for torch.nn.Linear.
        saved.extend(weight_params)
    ctx.save_for_backward(*saved)
    ctx.num_frozen, ctx.activation, ctx.window = len(frozen), activation, window
    ctx.weight_slots, ctx.num_owned = weight_slots, [p.numel() for p in weight_params]
    ctx.bias_slots = bias_slots
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.num_slots = None if bias is None else bias.shape[0]


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


def all_slots(positions: Tensor) -> tuple[list[int], list[int]]:
    """Every slot and the number of weights it owns: for gradients of the flat values as a whole.

    The numbers are read once for each tensor of positions, which on a GPU waits for it, and kept while that lives.
    """
    if positions.is_inference():  # such a tensor does not count its versions
        num_owned = [last - first for first, last in pairwise(value_starts(positions))]
        return list(range(len(num_owned))), num_owned
    version, num_owned = _num_owned.get(positions, (-1, []))
    if version != positions._version:
        num_owned = [last - first for first, last in pairwise(value_starts(positions))]
        _num_owned[positions] = (positions._version, num_owned)
    return list(range(len(num_owned))), num_owned


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
        raise NotImplementedError(second_derivatives_of(name))

    torch.library.register_autograd(f"{NAMESPACE}::{name}", backward)


def refuse_vmap(name: str) -> None:
    """So is vectorisation over a further dimension."""

    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        raise NotImplementedError(f"{name}: torch.vmap is not implemented; put the mapped dimension into the rows")

    torch.library.register_vmap(f"{NAMESPACE}::{name}", vmap)
