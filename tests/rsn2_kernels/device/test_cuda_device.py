"""What the operators promise on a GPU besides their results: no waiting, graphs, streams, bits, devices, wrong ids."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rsn2.network import MultitaskNetwork
from rsn2_kernels import ops, reference
from rsn2_kernels.formats import pack
from rsn2_kernels.nn import TaskBatchNorm2d, TaskConv2d, TaskLayerNorm, TaskLinear, active
from rsn2_kernels.testing import assert_as_accurate

RESULTS = ("forward", "grad_input", "grad_values", "grad_bias")
each_result = pytest.mark.parametrize("result", RESULTS)
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)


@contextmanager
def no_waiting() -> Iterator[None]:
    """Whatever makes the host wait for the device is an error."""
    torch.cuda.synchronize()
    try:
        torch.cuda.set_sync_debug_mode("error")  # it warns that it is a prototype, which may be an error
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def captured(function: Callable[[], Any]) -> tuple[torch.cuda.CUDAGraph, Any]:
    """The graph of a call, and where it leaves its results."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        function()  # what libraries prepare on a first call is not captured
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    gc.collect()
    gc.disable()  # what is thrown away must not call CUDA now
    try:
        with torch.cuda.graph(graph):
            results = function()
    finally:
        gc.enable()
    return graph, results


def own_copy(problem: Any) -> Any:
    """With inputs that may be written to."""
    copy = replace(problem, x=problem.x.clone(), grad_y=problem.grad_y.clone(), slots=problem.slots.clone())
    return copy.with_values(problem.weight.values.clone())


def same_bits(ours: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(ours, wanted, rtol=0, atol=0, equal_nan=True)


@pytest.fixture(params=["linear", "conv"])
def layer_call(request: pytest.FixtureRequest) -> tuple[Callable[[], list[Tensor]], Tensor, Tensor]:
    """A layer of three slots: its result and all gradients; the input; the slots of its rows."""
    layer = TaskLinear(300, 70, num_slots=3) if request.param == "linear" else TaskConv2d(9, 20, 3, num_slots=3)
    owner = torch.randint(0, 6, layer.weight_shape)
    for slot in range(3):
        layer.claim(slot, owner == slot)
    x = torch.randn(40, 300) if request.param == "linear" else torch.randn(40, 9, 8, 7)
    x.requires_grad_()
    slots = torch.arange(40) % 3

    def call() -> list[Tensor]:
        y = layer(x, slots)
        return [y.detach(), *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])]

    return call, x, slots


@each_result
@each_dtype
@pytest.mark.parametrize("is_one", [True, False], ids=["one_slot", "mixed"])
def test_no_call_waits(make_problem, is_one, dtype, result):
    problem = make_problem(67, 5, dtype=dtype)
    problem = replace(problem, slots=torch.tensor(3)) if is_one else problem
    assert len(problem.num_owned) == 5  # which is read from the device, once
    problem.get(result)
    with no_waiting():
        problem.get(result)


def test_a_layer_does_not_wait(layer_call):
    call, _, _ = layer_call
    call()
    with no_waiting():
        call()


def layer_under_an_active_slot() -> Callable[[], Tensor]:
    layer, x = TaskLinear(300, 70, num_slots=3), torch.randn(40, 300)

    def call() -> Tensor:
        with active(2):
            return layer(x)

    return call


def partly_frozen_layer() -> Callable[[], Tensor]:
    """Biases of finished slots come from the flat tensor, the others' from Parameters."""
    layer, x, slots = TaskLayerNorm(70, num_slots=9), torch.randn(40, 70), torch.arange(40) % 9
    for slot in (0, 3, 4):
        layer.freeze(slot)
    return lambda: layer(x, slots)


def batch_norm_that_learns() -> Callable[[], Tensor]:
    layer, x, slots = TaskBatchNorm2d(20, num_slots=5), torch.randn(40, 20, 4, 4), torch.arange(40) % 5
    layer.freeze(1)
    return lambda: layer(x, slots)


@pytest.mark.parametrize("make", [layer_under_an_active_slot, partly_frozen_layer, batch_norm_that_learns],
                         ids=lambda make: make.__name__)  # fmt: skip
def test_layers_do_not_wait(make):
    call = make()
    wanted = call()
    with no_waiting():
        ours = call()
    assert ours.shape == wanted.shape and bool(ours.isfinite().all())


def test_a_network_does_not_wait():
    """Tasks with one input each, and all of them with the same."""
    net = MultitaskNetwork(nn.Sequential(nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 10)))
    for name in ("one", "two"):
        net.add_task(name)
    net.to("cuda")
    inputs = {"one": torch.randn(8, 30), "two": torch.randn(5, 30)}
    x = inputs["one"]
    for call in (lambda: net(inputs), lambda: net(x, task="two"), lambda: net(x, task=["one", "two"])):
        call()
        with no_waiting():
            call()


def test_the_flat_values_may_want_a_gradient_in_a_graph(make_problem):
    """How much each slot owns is read once for a tensor of positions."""
    problem = make_problem(67, 5)
    values = problem.weight.values.detach().clone().requires_grad_()
    weight = problem.weight._replace(values=values)

    def call() -> Tensor:
        return torch.autograd.grad(ops.task_linear(problem.x, weight, problem.slots).sum(), values)[0]

    wanted = call()
    graph, ours = captured(call)
    graph.replay()
    same_bits(ours, wanted)


@pytest.mark.parametrize("block", [16, 32, 64])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("is_conv", [False, True], ids=["linear", "conv"])
def test_weights_in_blocks_beside_single_ones(make_linear, make_conv, make_index, is_conv, dtype, block):
    """One call of the CUDA library may go on to Triton; the result must not depend on who computes it."""
    if is_conv:
        problem = make_conv((40, 64, 128, 3, (9, 8), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)), dtype=dtype)
    else:
        problem = make_linear((200, 320, 128, 3), dtype=dtype)
    _, rows, columns = problem.weight.shape
    owner = torch.randint(0, 6, (rows // block, columns // block))
    owner = owner.repeat_interleave(block, 0).repeat_interleave(block, 1)
    weight = torch.randn(rows, columns, dtype=dtype) / columns**0.5
    packed = pack(weight, torch.stack([owner == slot for slot in range(3)]))
    problem = replace(problem, weight=packed)
    problem = replace(problem, weight=packed._replace(index=make_index(problem, packed.positions)))
    for result in RESULTS[:3]:
        assert_as_accurate(problem.get(result), problem.plain(result), problem.exact(result), 3)


def test_waiting_is_seen():
    """The two tests above can fail."""
    with pytest.raises(RuntimeError, match="synchroniz"), no_waiting():
        torch.ones(3).sum().item()


@each_result
@each_dtype
def test_a_graph_is_replayed_on_other_inputs(make_problem, dtype, result):
    problem = own_copy(make_problem(67, 5, dtype=dtype))
    assert len(problem.num_owned) == 5
    graph, ours = captured(lambda: problem.get(result))
    for _ in range(3):
        for tensor in (problem.x, problem.grad_y, problem.weight.values):
            tensor.copy_(torch.randn(tensor.shape))
        problem.slots.copy_(problem.slots.roll(1))
        graph.replay()
        same_bits(ours, problem.get(result))


def test_a_graph_of_a_layer_and_its_gradients(layer_call):
    call, x, slots = layer_call
    graph, ours = captured(call)
    for _ in range(2):
        with torch.no_grad():
            x.copy_(torch.randn(x.shape))
        slots.copy_(slots.roll(1))
        graph.replay()
        for found, wanted in zip(ours, call(), strict=True):
            same_bits(found, wanted)


@each_result
@each_dtype
def test_work_goes_to_the_current_stream(make_problem, dtype, result):
    """Behind what makes the input there, which takes a while."""
    problem = make_problem(67, 5, dtype=dtype)
    wanted = problem.get(result)
    stream = torch.cuda.Stream()
    x, grad_y = torch.zeros_like(problem.x), torch.zeros_like(problem.grad_y)
    large = torch.randn(4096, 4096)
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(20):
            large = large @ large
        x.copy_(problem.x)
        grad_y.copy_(problem.grad_y)
        ours = replace(problem, x=x, grad_y=grad_y).get(result)
    torch.cuda.current_stream().wait_stream(stream)
    same_bits(ours, wanted)


@each_result
@each_dtype
@pytest.mark.parametrize("batch", [3, 67, 700])
def test_every_run_gives_the_same_bits(make_problem, dtype, batch, result):
    """In memory that held other numbers."""
    problem = make_problem(batch, 5, dtype=dtype)
    first = problem.get(result).clone()
    for number in range(5):
        rubbish = [torch.full((size,), float(number)) for size in (1 << 10, 1 << 16, 1 << 20)]
        del rubbish
        same_bits(problem.get(result), first)


@each_result
def test_on_another_device(make_problem, result):
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one device")
    problem = make_problem(67, 5)
    there = problem.to("cuda:1")
    ours = there.get(result)  # while the first one is the current one
    assert ours.device == torch.device("cuda", 1)
    assert_as_accurate(ours.to("cuda:0"), problem.plain(result), problem.exact(result), 3)


@pytest.mark.parametrize("what", ["weight", "slots", "bias"])
def test_tensors_elsewhere_are_refused(make_linear, what):
    problem = make_linear("divides_nothing")
    given = dict(x=problem.x, weight=problem.weight, slots=problem.slots, bias=problem.bias)
    given[what] = problem.weight._replace(values=problem.weight.values.cpu()) if what == "weight" else given[what].cpu()
    with pytest.raises(ValueError, match=rf"task_linear: {what} must be on x's device cuda:0, got cpu"):
        ops.task_linear(**given)
    with pytest.raises(ValueError, match=r"task_linear: \w+ must be on x's device cpu, got cuda:0"):
        ops.task_linear(**{**given, "x": problem.x.cpu(), what: getattr(problem, what)})


@pytest.mark.parametrize("result", RESULTS[:3])
def test_an_index_elsewhere_is_refused(make_problem, result):
    problem = make_problem(5, 3)
    there = replace(problem, weight=problem.weight._replace(index=problem.weight.index.cpu()))
    with pytest.raises((ValueError, RuntimeError), match="device|cpu tensor"):
        there.get(result)


def test_an_input_elsewhere_is_refused():
    layer = TaskLinear(6, 5, num_slots=2)
    layer.claim(0, layer.free())
    with pytest.raises(ValueError, match="device"):
        layer(torch.randn(3, 6, device="cpu"), 0)


@each_dtype
@pytest.mark.parametrize("result", RESULTS[:3])
@pytest.mark.parametrize("slot", [-1, 5, 2**40, -(2**63)])
def test_ids_out_of_range_give_nan(make_problem, dtype, slot, result):
    """In their own rows; the gradient of the values goes without them."""
    problem = make_problem(67, 5, dtype=dtype)
    bad = torch.arange(67) % 7 == 3
    good = problem.rows(~bad)
    ours = replace(problem, slots=torch.where(bad, slot, problem.slots)).get(result)
    if result != "grad_values":
        assert bool(ours[bad].isnan().all())
        ours = ours[~bad]
    if dtype == torch.float64:
        torch.testing.assert_close(ours, good.exact(result), rtol=1e-12, atol=1e-12)
    else:
        assert_as_accurate(ours, good.get(result, reference), good.exact(result), 3)


CHILD = """
import torch
from rsn2_kernels import ops
from rsn2_kernels.testing import linear_sample

torch.set_default_device("cuda")
x, weight, slots, bias = linear_sample(12, 270, 20, 3)
slots[5] = 3
y = ops.task_linear(x, weight, slots, bias)
torch.cuda.synchronize()
print("nan" if bool(y[5].isnan().all()) else "number")
"""


@pytest.mark.parametrize("is_debug", [True, False], ids=["debug", "plain"])
def test_ids_out_of_range_stop_the_device_under_rsn2_debug(is_debug):
    """In a process of its own, which has no device afterwards."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "RSN2_DEBUG": "01"[is_debug]}
    run = subprocess.run([sys.executable, "-c", CHILD], env=environment, capture_output=True, text=True)
    if is_debug:
        assert run.returncode != 0 and "slots: an id is out of range" in run.stdout + run.stderr, run.stderr
    else:
        assert run.returncode == 0 and run.stdout.split() == ["nan"], run.stderr


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's own, of what the compiler finds here
@pytest.mark.parametrize("is_one", [True, False], ids=["one_slot", "mixed"])
def test_compiled_by_inductor(is_one):
    layers = [TaskLinear(300, 70, num_slots=3), TaskLinear(70, 20, num_slots=3)]
    for layer in layers:
        owner = torch.randint(0, 6, layer.weight_shape)
        for slot in range(3):
            layer.claim(slot, owner == slot)
    x = torch.randn(40, 300, requires_grad=True)
    slots = torch.tensor(2) if is_one else torch.arange(40) % 3
    parameters = [parameter for layer in layers for parameter in layer.parameters()]

    def net(x: Tensor, slots: Tensor) -> Tensor:
        return layers[1](layers[0](x, slots).sin(), slots).square()

    def results(run: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
        y = run(x, slots)
        return [y.detach(), *torch.autograd.grad(y.sum(), [x, *parameters])]

    for ours, wanted in zip(results(torch.compile(net, fullgraph=True)), results(net), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-4)
