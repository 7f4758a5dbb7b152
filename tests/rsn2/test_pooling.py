"""The fast 2x2 maximum is torch's, to the bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import rsn2
from rsn2 import pooling
from rsn2.pooling import is_pair_maximum, pair_maximum

pytestmark = pytest.mark.cpu_only(reason="it is for the CPU")


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(3, 2, 7, 6), (1, 1, 2, 2), (2, 3, 5, 9), (1, 4, 2, 8), (0, 2, 4, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bytes_at_once", [1, 400, 2**20])
def test_values_and_gradients(shape, stride, dtype, bytes_at_once, monkeypatch):
    monkeypatch.setattr(pooling, "_BYTES_AT_ONCE", bytes_at_once)
    torch.manual_seed(0)
    x = torch.randint(-2, 3, shape).to(dtype).relu_()  # many are equal, as behind a ReLU
    own, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, wanted = pair_maximum(own, stride), F.max_pool2d(other, 2, stride)
    assert torch.equal(y, wanted)
    gradient = torch.randint(-8, 9, y.shape).to(dtype)  # whole numbers: sums are exact in any order
    y.backward(gradient)
    wanted.backward(gradient)
    assert torch.equal(own.grad, other.grad)
    with torch.no_grad():
        assert torch.equal(pair_maximum(own, stride), wanted)


def test_a_second_derivative_is_refused():
    x = torch.ones(1, 1, 3, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(pair_maximum(x, 1).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("module, expected", [
    (nn.MaxPool2d(2), True), (nn.MaxPool2d(2, 1), True), (nn.MaxPool2d((2, 2), (1, 1)), True),
    (nn.MaxPool2d(3), False), (nn.MaxPool2d(2, 3), False), (nn.MaxPool2d(2, padding=1), False),
    (nn.MaxPool2d(2, dilation=2), False), (nn.MaxPool2d(2, ceil_mode=True), False),
    (nn.MaxPool2d(2, return_indices=True), False), (nn.MaxPool2d((2, 1)), False), (nn.AvgPool2d(2), False),
])  # fmt: skip
def test_which_modules(module, expected):
    assert is_pair_maximum(module, torch.zeros(1, 1, 4, 4)) is expected


def test_which_inputs():
    module, x = nn.MaxPool2d(2), torch.zeros(2, 3, 4, 4)
    assert not is_pair_maximum(module, x.to(memory_format=torch.channels_last))
    assert not is_pair_maximum(module, x[0]) and not is_pair_maximum(module, x.half())
    assert not is_pair_maximum(module, x[..., :1].contiguous())  # torch's own error comes


def test_a_trunk_gives_what_its_layers_give_one_by_one():
    torch.manual_seed(0)
    net = rsn2.MultitaskNetwork(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2, 1), nn.Flatten()))
    net.add_task("a")
    x = torch.randn(6, 1, 8, 8)
    rsn2.claim(net, "a", [(x, torch.zeros(6, dtype=torch.int64))], F.cross_entropy, 0.5)
    fast = net(x, task="a")
    seen = []
    net.trunk[2].register_forward_hook(lambda module, inputs, output: seen.append(output))
    assert torch.equal(net(x, task="a"), fast) and len(seen) == 1  # a hook wants to see the module called
