from __future__ import annotations

import pytest
import torch
from torch import nn

from rsn2_kernels.nn import TaskLinear
from rsn2_kernels.testing import assert_as_accurate


@pytest.mark.parametrize("shape", [(6,), (3, 6), (4, 2, 6), (4, 2, 3, 6), (0, 6)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_slot_that_owns_everything_is_the_dense_layer(shape, bias, dtype):
    dense = nn.Linear(6, 5, bias, dtype=dtype)
    layer = TaskLinear.from_dense(dense, num_slots=2)
    layer.claim(1, layer.free())
    x = torch.randn(shape, dtype=dtype)
    back = layer.to_dense(1)
    assert torch.equal(back.weight, dense.weight) and (not bias or torch.equal(back.bias, dense.bias))
    if dtype == torch.float64:  # nothing here is more exact than either
        torch.testing.assert_close(layer(x, 1), dense(x), rtol=1e-13, atol=1e-14)
    else:
        assert_as_accurate(layer(x, 1), dense(x), dense.double()(x.double()))


@pytest.mark.parametrize("shape", [(4, 6), (4, 2, 6), (4, 2, 3, 6)])
@pytest.mark.parametrize("activation", ["none", "relu"])
def test_rows_of_a_mixed_batch_follow_the_batch_dimension(shape, activation, draw):
    layer = TaskLinear(6, 5, num_slots=3, activation=activation)
    for slot in range(3):
        layer.claim(slot, draw(layer, 0.3))
    x, slots = torch.randn(shape), torch.tensor([2, 0, 1, 0])
    y = layer(x, slots)
    for slot in range(3):
        expected = layer.to_dense(slot)(x[slots == slot])
        expected = expected.relu() if activation == "relu" else expected
        torch.testing.assert_close(y[slots == slot], expected)
    if len(shape) > 2:
        layer.batch_dim = 1
        torch.testing.assert_close(layer(x.transpose(0, 1), slots), y.transpose(0, 1), rtol=0, atol=0)


def test_16_bit_inputs_beside_float32_values(draw, device):
    layer = TaskLinear(6, 5, num_slots=1)
    layer.claim(0, draw(layer, 0.5))
    x = torch.randn(4, 6)
    with torch.autocast(device.type, torch.bfloat16):
        y = layer(x, 0)
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert layer.values[0].grad.dtype == torch.float32
    torch.testing.assert_close(y.float(), layer(x, 0), rtol=2e-2, atol=2e-2)


def test_the_seed_decides_the_starting_values():
    layers = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        layers.append(TaskLinear(6, 5, num_slots=2))
        layers[-1].claim(1, layers[-1].free())
    assert torch.equal(layers[0].values[1], layers[1].values[1]) and torch.equal(layers[0].bias[1], layers[1].bias[1])
    assert not torch.equal(layers[0].values[1], layers[2].values[1])
    assert not torch.equal(layers[0].bias[0], layers[0].bias[1])
    assert layers[0].values[1].abs().max() <= 6**-0.5


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda layer: layer(torch.zeros(2, 7), 0), ValueError, r"x must have shape \[B, \.\.\., 6\], got \[2, 7\]"),
        (lambda layer: layer(torch.zeros(2, 6).double(), 0),
         ValueError, "x must have the weight's dtype torch.float32 .or bfloat16 or float16., got torch.float64"),
        (lambda layer: layer(torch.zeros(2, 6, dtype=torch.complex64), 0),
         ValueError, "x must be float.* got torch.complex64"),
        (lambda layer: layer(torch.zeros(2, 6, dtype=torch.int64), 0), ValueError, "x must be float.* got torch.int64"),
        (lambda layer: layer(torch.zeros(2, 6, device="meta"), torch.tensor(0)),
         ValueError, "on x's device meta, got (cpu|cuda:0)"),
        (lambda layer: layer(torch.zeros(2, 6), torch.zeros(2, dtype=torch.int32)),
         ValueError, "slots must be int64, got torch.int32"),
        (lambda layer: layer(torch.zeros(2, 6), torch.zeros(2, dtype=torch.bool)),
         ValueError, "slots must be int64, got torch.bool"),
        (lambda layer: layer(torch.zeros(2, 6), torch.zeros(2, 1, dtype=torch.int64)),
         ValueError, r"slots must have shape .* got \[2, 1\]"),
        (lambda layer: layer(torch.zeros(2, 6), torch.zeros(3, dtype=torch.int64)),
         ValueError, r"\[\] or \[2\], one per row of x, got \[3\]"),
        (lambda layer: layer(torch.zeros(2, 6), 2), IndexError, r"slot must be in 0\.\.1, got 2"),
        (lambda layer: layer([[0.0] * 6], 0), TypeError, "TaskLinear: x must be a tensor, got list"),
        (lambda layer: layer(torch.zeros(2, 6).numpy(), torch.tensor(0)), TypeError, "x must be a tensor, got ndarray"),
        (lambda layer: layer(torch.zeros(2, 6), 0.5), TypeError, r"slot must be an int or a name .*, got float"),
        (lambda layer: layer(torch.zeros(2, 6)), RuntimeError, "no slot given and none active"),
        (lambda layer: TaskLinear(0, 5, num_slots=1), ValueError, "in_features must be a positive int, got 0"),
        (lambda layer: TaskLinear(6, 5.0, num_slots=1), ValueError, r"out_features must be a positive int, got 5\.0"),
        (lambda layer: TaskLinear(6, 5, num_slots=-1),
         ValueError, "num_slots must be a number >= 0 or different names"),
        (lambda layer: TaskLinear(6, 5, num_slots="ab"), TypeError, "must be an int or a list of names, got 'ab'"),
        (lambda layer: TaskLinear(6, 5, num_slots=1.5), TypeError, "must be an int or a list of names, got 1.5"),
        (lambda layer: TaskLinear(6, 5, num_slots=True),
         ValueError, "num_slots must be a number >= 0 or different names"),
    ],
)  # fmt: skip
def test_bad_input(call, error, message):
    layer = TaskLinear(6, 5, num_slots=2)
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    with pytest.raises(error, match=message):
        call(layer)
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())


@pytest.mark.cpu_only(reason="a GPU is not waited for to look at numbers: they give NaN")
@pytest.mark.parametrize(("slots", "got"), [(torch.tensor([0, 2]), 2), (torch.tensor(-1), -1)], ids=["mixed", "one"])
def test_slot_out_of_range(slots, got):
    with pytest.raises(IndexError, match=rf"slots must be in 0\.\.1, got {got}"):
        TaskLinear(6, 5, num_slots=2)(torch.zeros(2, 6), slots)
