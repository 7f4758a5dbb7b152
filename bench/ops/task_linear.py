"""Points of the linear layer."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn

from bench import baselines
from bench.registry import Case, Point
from rsn2_kernels.nn import TaskLinear
from rsn2_kernels.testing import assert_as_accurate, random_masks

FORWARD = [  # O, I, rows, density, slots in the batch
    *((1000, 1000, 512, d, 1) for d in (0.05, 0.10, 0.20, 0.25)),
    (1000, 1000, 512, 0.10, 10),
    (4096, 4096, 512, 0.10, 1),
    (256, 43264, 512, 0.20, 1),
    *((1000, 1000, rows, 0.10, 1) for rows in (1, 16, 64)),
    (4096, 4096, 1, 0.10, 1),
    (997, 613, 130, 0.10, 1),
]
BACKWARD = [(1000, 1000, 512, 0.10, 1), (1000, 1000, 512, 0.20, 1), (1000, 1000, 512, 0.10, 10)]


def make_layer(num_outputs: int, num_inputs: int, density: float, num_slots: int) -> TaskLinear:
    torch.manual_seed(0)
    layer = TaskLinear(num_inputs, num_outputs, num_slots=num_slots)
    generator = torch.Generator().manual_seed(1)
    for slot, mask in enumerate(random_masks(num_slots, num_outputs, num_inputs, density, generator)):
        layer.claim(slot, mask)
    return layer


def _rows_of(slots: torch.Tensor, num_slots: int) -> list[torch.Tensor]:
    return [(slots == slot).nonzero().squeeze(1) for slot in range(num_slots)]


def _forward(num_outputs: int, num_inputs: int, rows: int, density: float, num_slots: int) -> Case:
    layer = make_layer(num_outputs, num_inputs, density, num_slots)
    x = torch.randn(rows, num_inputs)
    dense = [layer.to_dense(slot) for slot in range(num_slots)]
    slots = torch.tensor(0) if num_slots == 1 else torch.randint(0, num_slots, (rows,))
    per_slot = [x[r] for r in _rows_of(slots.expand(rows), num_slots)]

    def ours() -> object:
        with torch.no_grad():
            return layer(x, slots)

    def each_dense() -> object:
        with torch.no_grad():
            return [model(part) for model, part in zip(dense, per_slot, strict=True)]

    def masked() -> object:
        with torch.no_grad():
            return [
                F.linear(part, model.weight * mask, model.bias)
                for model, mask, part in zip(dense, masks, per_slot, strict=True)
            ]

    masks = [(model.weight != 0).float() for model in dense]
    others: dict[str, baselines.Call | str] = {"F.linear": each_dense, "masked dense": masked}
    if num_slots == 1:
        others["oneDNN"] = baselines.onednn(nn.Sequential(layer.to_dense(0)), x)
        others["onnxruntime"] = baselines.onnx(layer.to_dense(0), x)
        others["torch CSR"] = baselines.csr(dense[0].weight.detach(), x)

    def check() -> None:
        with torch.no_grad():
            for slot, part in enumerate(per_slot):
                exact = F.linear(part.double(), dense[slot].weight.double(), dense[slot].bias.double())
                assert_as_accurate(layer(part, slot), dense[slot](part), exact)

    return Case(ours, others, check)


def _backward(num_outputs: int, num_inputs: int, rows: int, density: float, num_slots: int) -> Case:
    layer = make_layer(num_outputs, num_inputs, density, num_slots)
    x = torch.randn(rows, num_inputs, requires_grad=True)
    grad = torch.randn(rows, num_outputs)
    dense = [layer.to_dense(slot) for slot in range(num_slots)]
    slots = torch.tensor(0) if num_slots == 1 else torch.randint(0, num_slots, (rows,))
    groups = _rows_of(slots.expand(rows), num_slots)
    per_slot = [(x.detach()[r].requires_grad_(), grad[r]) for r in groups]
    masks = [(model.weight != 0).float() for model in dense]

    def ours() -> object:
        for parameter in (x, *layer.parameters()):
            parameter.grad = None
        return layer(x, slots).backward(grad)

    def each_dense() -> object:
        for model, (part, own) in zip(dense, per_slot, strict=True):
            model.weight.grad = model.bias.grad = part.grad = None
            model(part).backward(own)
        return None

    def masked() -> object:
        for model, mask, (part, own) in zip(dense, masks, per_slot, strict=True):
            model.weight.grad = model.bias.grad = part.grad = None
            F.linear(part, model.weight * mask, model.bias).backward(own)
        return None

    def check() -> None:
        ours()
        for slot, (part, own) in enumerate(per_slot):
            weight = dense[slot].weight
            if x.grad is None or layer.values[slot].grad is None:
                raise AssertionError("a gradient is missing")
            wide = own.double() @ weight.double()
            assert_as_accurate(x.grad[groups[slot]], own @ weight, wide)
            rows_, columns = layer.owned(slot) // num_inputs, layer.owned(slot) % num_inputs
            exact = (own.double().T @ part.double())[rows_, columns]
            plain = (own.T @ part)[rows_, columns]
            assert_as_accurate(layer.values[slot].grad, plain.detach(), exact.detach())

    return Case(ours, {"F.linear": each_dense, "masked dense": masked}, check)


def points() -> Iterator[Point]:
    for what, rows_of_table, prepare in (("forward", FORWARD, _forward), ("forward+backward", BACKWARD, _backward)):
        for num_outputs, num_inputs, rows, density, num_slots in rows_of_table:
            settings = {"O": num_outputs, "I": num_inputs, "B": rows, "density": density, "slots": num_slots}
            yield Point(
                "task_linear", what, settings,
                lambda f=prepare, a=(num_outputs, num_inputs, rows, density, num_slots): f(*a),
                ("F.linear", "oneDNN", "onnxruntime"),
            )  # fmt: skip
