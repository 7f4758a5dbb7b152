"""gradcheck, registration and compilation of task_linear."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rsn2_kernels import ops

OPERATORS = torch.ops.rsn2_kernels
SMALL = ("smallest", "one_task", "empty_batch")
LARGER = ("divides_nothing", "one_row_per_slot")  # along random directions only, which takes less time


@pytest.mark.parametrize("activation", ["none", "relu"])
@pytest.mark.parametrize("shape", SMALL + LARGER)
def test_gradcheck(make_linear, make_frozen, cpu_level, shape, activation):
    problem = make_linear(shape, dtype=torch.float64)
    frozen = make_frozen(problem)

    def run(x, values, bias):
        weight = problem.weight._replace(values=values)
        return ops.task_linear(x, weight, problem.slots, bias, frozen=frozen, activation=activation)

    leaves = (problem.x, problem.weight.values, problem.bias)
    inputs = [leaf.clone().requires_grad_() for leaf in leaves]
    with torch.device("cpu"):  # where gradcheck draws its random vectors
        assert torch.autograd.gradcheck(run, inputs, fast_mode=shape in LARGER)


@pytest.mark.parametrize("shape", ["divides_nothing", "empty_batch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck(make_linear, make_layer, make_frozen, shape, dtype):
    problem = replace(make_linear(shape, dtype=dtype), activation="relu")
    layer = make_layer(problem, (1,))
    packed = (layer.weight.values, *problem.packed[1:])
    frozen = list(make_frozen(problem)[:3])
    x = problem.x.clone().requires_grad_()
    num_inputs = x.shape[1]
    params = (layer.weight_params, [1], layer.bias_params, [1])
    rest = (problem.bias, frozen, "relu", problem.weight.shape[1])
    torch.library.opcheck(OPERATORS.task_linear.default, (x, *packed, *rest, *params))
    torch.library.opcheck(OPERATORS.task_linear.default, (x, *packed[:3], torch.tensor(1), *rest, [], [], [], []))
    torch.library.opcheck(OPERATORS.task_linear_grad_input.default, (problem.grad_y, *packed, frozen, num_inputs))
    owned = [problem.num_owned[1], problem.num_owned[0]]
    arguments = (problem.x, problem.grad_y, *packed, [1, 0], owned)
    torch.library.opcheck(OPERATORS.task_linear_grad_values.default, arguments)
    torch.library.opcheck(OPERATORS.task_grad_bias.default, (problem.grad_y, problem.slots, [1, 0]))


@pytest.mark.parametrize("is_one", [True, False], ids=["one_slot", "mixed"])
def test_compile(make_linear, make_layer, is_one):
    problem = replace(make_linear("divides_nothing"), activation="relu")
    slots = torch.tensor(1) if is_one else problem.slots
    results = []
    for backend in (None, "aot_eager"):
        layer = make_layer(problem, (0, 2))
        run = layer if backend is None else torch.compile(layer, fullgraph=True, backend=backend)
        x = problem.x.clone().requires_grad_()
        y = run(x, slots, activation="relu")
        y.backward(problem.grad_y)
        results.append((y, x.grad, *(p.grad for p in layer.weight_params), *(p.grad for p in layer.bias_params)))
    assert all(map(torch.equal, *results))


def test_compiles_once_for_all_slots(make_linear, make_layer):
    problem = make_linear("one_row_per_slot")
    layer = make_layer(problem, ())
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    run = torch.compile(layer, fullgraph=True, backend=counter)
    for slot in range(7):
        assert torch.equal(run(problem.x, torch.tensor(slot)), layer(problem.x, torch.tensor(slot)))
    assert counter.frame_count == 1


def test_compiles_with_a_dynamic_batch(make_linear, make_layer):
    problem = make_linear("several_tiles")
    layer = make_layer(problem, (0, 1))
    run = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True)
    for batch in (130, 17, 64):
        x = problem.x[:batch].clone().requires_grad_()
        y = run(x, problem.slots[:batch])
        assert torch.equal(y, layer(problem.x[:batch], problem.slots[:batch]))
        y.sum().backward()
        assert x.grad.shape == x.shape


def test_export(make_linear, make_layer):
    problem = make_linear("divides_nothing")

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = make_layer(problem, ())

        def forward(self, x, slots):
            return self.layer(x, slots, activation="relu")

    batch = torch.export.Dim("batch", min=2)
    shapes = {"x": {0: batch}, "slots": {0: batch}}
    exported = torch.export.export(Net(), (problem.x, problem.slots), dynamic_shapes=shapes)
    assert OPERATORS.task_linear.default in {node.target for node in exported.graph.nodes}
    x, slots = torch.randn(11, 33), torch.arange(11) % 3
    assert torch.equal(exported.module()(x, slots), Net()(x, slots))


def test_inference_mode(make_linear, make_layer):
    problem = make_linear("divides_nothing")
    layer = make_layer(problem, (0,))
    with torch.inference_mode():
        y = layer(problem.x, problem.slots)
    assert torch.equal(y, problem.forward())
