"""gradcheck, registration and compilation of task_conv2d."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rsn2_kernels import ops

OPERATORS = torch.ops.rsn2_kernels
SMALL = ("smallest", "kernel_fills_image", "empty_batch")
LARGER = ("three_by_three", "strided", "dilated", "even_kernel_same")  # along random directions only


def window_of(problem):
    return dict(zip(("kernel_size", "stride", "padding", "dilation"), problem.window, strict=True))


@pytest.mark.parametrize("activation", ["none", "relu"])
@pytest.mark.parametrize("shape", SMALL + LARGER)
def test_gradcheck(make_conv, make_frozen, cpu_level, shape, activation):
    problem = make_conv(shape, dtype=torch.float64)
    frozen = make_frozen(problem)

    def run(x, values, bias):
        weight = problem.weight._replace(values=values)
        options = dict(frozen=frozen, activation=activation, **window_of(problem))
        return ops.task_conv2d(x, weight, problem.slots, bias, **options)

    inputs = [leaf.clone().requires_grad_() for leaf in (problem.x, problem.weight.values, problem.bias)]
    with torch.device("cpu"):  # where gradcheck draws its random vectors
        assert torch.autograd.gradcheck(run, inputs, fast_mode=shape in LARGER)


def test_gradcheck_channels_last(make_conv, cpu_level):
    problem = make_conv("kernel_fills_image", dtype=torch.float64)
    x = problem.x.to(memory_format=torch.channels_last).requires_grad_()
    values = problem.weight.values.clone().requires_grad_()

    def run(x, values):
        return ops.task_conv2d(x, problem.weight._replace(values=values), problem.slots, **window_of(problem))

    with torch.device("cpu"):  # where gradcheck draws its random vectors
        assert torch.autograd.gradcheck(run, (x, values))


@pytest.mark.parametrize("shape", ["strided", "empty_batch"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_opcheck(make_conv, make_layer, make_frozen, shape, layout):
    problem = replace(make_conv(shape), activation="relu")
    layer = make_layer(problem, (1,))
    packed = (layer.weight.values, *problem.packed[1:])
    frozen = list(make_frozen(problem)[:3])
    x = problem.x.clone().to(memory_format=layout).requires_grad_()
    grad_y = problem.grad_y.to(memory_format=layout)
    params = (layer.weight_params, [1], layer.bias_params, [1])
    rest = (problem.bias, frozen, "relu", problem.weight.shape[1], *problem.window)
    torch.library.opcheck(OPERATORS.task_conv2d.default, (x, *packed, *rest, *params))
    size = list(x.shape[1:])
    torch.library.opcheck(OPERATORS.task_conv2d_grad_input.default, (grad_y, *packed, frozen, size, *problem.window))
    owned = [problem.num_owned[1], problem.num_owned[0]]
    arguments = (x.detach(), grad_y, *packed, [1, 0], owned, *problem.window)
    torch.library.opcheck(OPERATORS.task_conv2d_grad_values.default, arguments)
    torch.library.opcheck(OPERATORS.task_grad_bias.default, (grad_y, problem.slots, [1, 0]))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_compile(make_conv, make_layer, layout):
    problem = make_conv("three_by_three")
    results = []
    for backend in (None, "aot_eager"):
        layer = make_layer(problem, (0, 2))
        run = layer if backend is None else torch.compile(layer, fullgraph=True, backend=backend)
        x = problem.x.clone(memory_format=layout).requires_grad_()
        y = run(x, problem.slots, activation="relu")
        y.backward(problem.grad_y)
        results.append((y, x.grad, *(p.grad for p in layer.weight_params), *(p.grad for p in layer.bias_params)))
    assert all(map(torch.equal, *results))
    assert results[0][0].stride() == results[1][0].stride()


def test_compiles_with_a_dynamic_batch_and_image(make_conv, make_layer):
    problem = make_conv("strided")
    layer = make_layer(problem, (0, 1))
    run = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True)
    for batch, height, width in ((3, 11, 8), (5, 9, 20)):
        x, slots = torch.randn(batch, 4, height, width), torch.arange(batch) % 2
        mine = x.clone().requires_grad_()
        y = run(mine, slots)
        assert torch.equal(y, layer(x, slots))
        y.sum().backward()
        assert mine.grad.shape == x.shape


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # torch's own, while it compiles
def test_inductor(make_linear, make_conv, make_layer):
    """Both operators through the default compiler. Nothing else is in the graph, so that it has no code to compile."""
    conv_problem, linear_problem = make_conv("three_by_three"), make_linear((6, 630, 20, 3))
    results = []
    for is_compiled in (False, True):
        conv, linear = make_layer(conv_problem, (0,)), make_layer(linear_problem, (0, 2))

        def net(x, slots, conv=conv, linear=linear):
            return linear(conv(x, slots, activation="relu").flatten(1), slots)

        run = torch.compile(net, fullgraph=True, options={"compile_threads": 1}) if is_compiled else net
        x = conv_problem.x.clone().requires_grad_()
        y = run(x, conv_problem.slots)
        y.sum().backward()
        results.append((y, x.grad, conv.weight_params[0].grad, *(p.grad for p in linear.weight_params)))
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, eager)


def test_export(make_conv, make_layer):
    problem = make_conv("three_by_three")

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = make_layer(problem, ())

        def forward(self, x, slots):
            return self.layer(x, slots, activation="relu")

    batch = torch.export.Dim("batch", min=2)
    shapes = {"x": {0: batch}, "slots": {0: batch}}
    exported = torch.export.export(Net(), (problem.x, problem.slots), dynamic_shapes=shapes)
    assert OPERATORS.task_conv2d.default in {node.target for node in exported.graph.nodes}
    x, slots = torch.randn(11, 5, 9, 10), torch.arange(11) % 3
    assert torch.equal(exported.module()(x, slots), Net()(x, slots))
