"""Points of the linear layer's gradients: each on its own, and together with the forward product."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rsn2_kernels._schema import operator
from rsn2_kernels.formats import PackedWeight

from .. import alternatives, baselines, peers, proof
from ..baselines import without_grad
from ..registry import Case, Goal, Maker, Point
from .task_linear import Linear, truth


def _grad_y(spec: Linear) -> Tensor:
    return torch.randn(spec.B, spec.O, generator=torch.Generator().manual_seed(3))


def grad_input(spec: Linear) -> Case:
    """The gradient of the input alone: a forward product of the transposed weight, and compared with these."""
    layer, grad_y, slot = spec.layer(), _grad_y(spec), torch.tensor(0)
    transposed = nn.Linear(spec.O, spec.I, bias=False)
    with torch.no_grad():
        transposed.weight.copy_(layer.to_dense(0).weight.T)
    plain, exact = truth([transposed], [grad_y])
    packed: PackedWeight = layer.packed()
    op = operator("task_linear_grad_input")
    values = packed.values.detach()
    call = without_grad(lambda: op(grad_y, values, packed.positions, packed.index, slot, [], spec.I))
    return Case(proof.ours(call, plain, exact), alternatives.forward([transposed], [grad_y], exact))


def grad_values(spec: Linear) -> Case:
    """The gradient of the owned values alone; dense ones compute it for every weight."""
    layer, grad_y, (x, slot, _) = spec.layer(), _grad_y(spec), spec.rows()
    owned = layer.owned(0)
    packed: PackedWeight = layer.packed()
    op = operator("task_linear_grad_values")
    values, count = packed.values.detach(), [len(owned)]
    call = without_grad(lambda: op(x, grad_y, values, packed.positions, packed.index, slot, [0], count))

    def pick(returned: Any) -> Tensor:
        return proof.tensors(returned)[0].flatten()[owned]

    plain, exact = [pick(grad_y.T @ x)], [pick(grad_y.double().T @ x.double())]
    pattern = layer.to_dense(0).weight.detach()
    others = {
        "torch.mm": alternatives.maker(lambda: without_grad(lambda: grad_y.T @ x), exact, pick),
        "onnxruntime": alternatives.maker(lambda: baselines.onnxruntime(_Product(), [grad_y, x]), exact, pick),
        "torch CSR": alternatives.maker(
            lambda: baselines.csr_sampled(pattern, grad_y, x), exact, lambda returned: pick(returned.to_dense())
        ),
    }
    return Case(proof.ours(call, plain, exact), others)


class _Product(nn.Module):
    def forward(self, grad_y: Tensor, x: Tensor) -> Tensor:
        return grad_y.T @ x


Step = Callable[[Tensor], Tensor]


def training(parts: Sequence[tuple[Tensor, Tensor]], params: Sequence[Sequence[nn.Parameter]], steps: Sequence[Step]
             ) -> Callable[[], Any]:  # fmt: skip
    """Forward and backward of several models, each with its input and the gradient of its output.

    The call returns, for each model, the gradients of the input and of the parameters.
    """

    def call() -> Any:
        for (x, grad_y), own, step in zip(parts, params, steps, strict=True):
            for parameter in (x, *own):
                parameter.grad = None
            step(x).backward(grad_y)
        return [[x.grad, *(p.grad for p in own)] for (x, _), own in zip(parts, params, strict=True)]

    return call


def forward_backward(spec: Linear) -> Case:
    layer, grad_y, (x, slots, groups) = spec.layer(), _grad_y(spec), spec.rows()
    x.requires_grad_()
    models = [layer.to_dense(slot) for slot in range(spec.num_slots)]
    parts = [(x.detach()[rows].requires_grad_(), grad_y[rows]) for rows in groups]
    masks = [(model.weight.detach() != 0).float() for model in models]
    owned = [layer.owned(slot) for slot in range(spec.num_slots)]
    params = [[model.weight, model.bias] for model in models]

    def only_owned(returned: Any) -> Any:
        return [[gx, gw.flatten()[own], gb] for (gx, gw, gb), own in zip(returned, owned, strict=True)]

    wides = [proof.wide(model) for model in models]
    wide_parts = [(part.detach().double().requires_grad_(), grad.double()) for part, grad in parts]
    exact = proof.tensors(only_owned(training(wide_parts, [[w.weight, w.bias] for w in wides], wides)()))
    plain = training(parts, params, models)
    parameters = [p for slot in range(spec.num_slots) for p in (layer.values[slot], layer.bias[slot])]

    def ours() -> Any:
        for parameter in (x, *parameters):
            parameter.grad = None
        layer(x, slots).backward(grad_y)
        return x.grad

    def picked(grad_x: Tensor) -> Any:
        return [[grad_x[rows], *(p.grad for p in parameters[2 * slot : 2 * slot + 2])]
                for slot, rows in enumerate(groups)]  # fmt: skip

    def with_steps(steps: Sequence[Step]) -> Maker:
        return alternatives.maker(lambda: training(parts, params, steps), exact, only_owned)

    others: dict[str, Maker] = {
        "F.linear": with_steps(models),
        # An input in oneDNN's layout sends the product and both gradients there.
        "oneDNN": with_steps([lambda x, m=m: F.linear(x.to_mkldnn(), m.weight, m.bias).to_dense() for m in models]),
        "torch.compile": lambda: with_steps([torch.compile(model) for model in models])(),
        "masked dense": with_steps(
            [lambda x, m=m, k=k: baselines.masked_product(m, k, x) for m, k in zip(models, masks, strict=True)]
        ),
    }
    if spec.num_slots == 1:
        others["SparseProp"] = lambda: _sparseprop(models[0], parts[0], owned[0], exact)
    return Case(proof.ours(ours, proof.tensors(only_owned(plain())), exact, picked), others)


def _sparseprop(model: nn.Linear, part: tuple[Tensor, Tensor], owned: Tensor, exact: Sequence[Tensor]) -> Any:
    layer = peers.sparseprop(model, part[0].detach())
    if isinstance(layer, str):
        return layer
    order = owned.argsort().argsort()  # its values stand in the order of the flattened weight
    call = training([part], [[layer.W_val, layer.bias]], [layer])
    return proof.other(call, exact, lambda returned: [[gx, gw[order], gb] for gx, gw, gb in returned])


# The bar is PyTorch's default, since that is what trains; "best dense" is reported beside it.
TRAINING = {0.10: (Goal("F.linear", 5, 8),), 0.20: (Goal("F.linear", 3, 4.5),)}
LARGE = Linear(1000, 1000, 512, 0.10)


def points() -> Iterator[Point]:
    dense = ("F.linear", "oneDNN", "torch.compile")
    for density, goals in TRAINING.items():
        spec = LARGE._replace(density=density)
        yield Point("task_linear", "forward+backward", spec.settings, lambda s=spec: forward_backward(s), dense, goals,
                    quick=density == 0.10)  # fmt: skip
    for spec in (LARGE._replace(num_slots=10), LARGE._replace(B=64)):
        yield Point("task_linear", "forward+backward", spec.settings, lambda s=spec: forward_backward(s), dense)
    for rows in (512, 64, 16, 1):
        for density in (0.10, 0.20) if rows == 512 else (0.10,):
            spec = LARGE._replace(B=rows, density=density)
            yield Point("task_linear", "gradient of the input", spec.settings, lambda s=spec: grad_input(s),
                        alternatives.DENSE_LINEAR)  # fmt: skip
            yield Point("task_linear", "gradient of the values", spec.settings, lambda s=spec: grad_values(s),
                        ("torch.mm", "onnxruntime"))  # fmt: skip
