"""A mixed batch has the dtype, the memory format and the bits of its slots one by one."""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch
from torch import nn

from rsn2_kernels.nn import (
    TaskBatchNorm1d,
    TaskBatchNorm2d,
    TaskGroupNorm,
    TaskLayerNorm,
    TaskLinear,
    active,
    convert_,
)
from rsn2_kernels.testing import assert_as_accurate

SLOTS = {
    "mixed": torch.tensor([1, 0, 2, 0, 1, 1, 2, 2]),
    "one_row_each": torch.tensor([2, 0, 1]),
    "ascending": torch.tensor([0, 0, 2, 2, 2]),
    "one_slot": torch.tensor([1, 1, 1]),
}
HALVES = [torch.bfloat16, torch.float16]
LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
bits = pytest.mark.cpu_only(reason="a GPU does not look which slots are present, and rounds in another order")


@pytest.fixture(params=SLOTS.values(), ids=SLOTS)
def slots(request, device):
    return request.param.to(device)


def drawn(layer):
    """Parameters of all slots differ, as do their running statistics; one slot is frozen."""
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    if getattr(layer, "running_mean", None) is not None:
        layer.running_mean.normal_(), layer.running_var.uniform_(0.5, 2)
    layer.freeze(2)
    return layer


def check(layer, x, slots, context=contextlib.nullcontext, last=False):
    """Results and gradients of a mixed batch, and of each slot's rows alone."""
    alone, other = copy.deepcopy(layer), x.detach().clone().requires_grad_()
    x = x.detach().clone().requires_grad_()
    with context():
        y = layer(x, slots)
    direction = torch.randn(y.shape).to(y.dtype)
    (y * direction).sum().backward()
    assert not last or y.is_contiguous(memory_format=LAST[x.dim()])
    for slot in slots.unique().tolist():
        rows = (slots == slot).nonzero().squeeze(1)
        with context():
            part = alone(other[rows], slot)
        assert part.dtype == y.dtype
        torch.testing.assert_close(y[rows], part, rtol=0, atol=0)
        (part * direction[rows]).sum().backward()
    torch.testing.assert_close(x.grad, other.grad, rtol=0, atol=0)
    for parameter, twin in zip(layer.parameters(), alone.parameters(), strict=True):
        if twin.grad is not None:
            torch.testing.assert_close(parameter.grad, twin.grad, rtol=0, atol=0)
        elif parameter.grad is not None:
            assert torch.equal(parameter.grad, torch.zeros_like(parameter))


@bits
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("shape", [(6,), (3, 37), (2, 3, 300)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_layer_norm_in_16_bits(slots, dtype, shape, bias):
    layer = drawn(TaskLayerNorm(shape[-1], bias=bias, num_slots=3, dtype=dtype))
    x = torch.randn(len(slots), *shape, dtype=dtype)
    check(layer, x, slots)
    dense = layer.to_dense(1)
    assert torch.equal(layer(x, torch.ones_like(slots)), dense(x))


@bits
@pytest.mark.parametrize("dtype", HALVES)
def test_layer_norm_of_16_bit_rows_beside_float32_parameters(slots, dtype):
    layer = drawn(TaskLayerNorm(37, num_slots=3))
    check(layer, torch.randn(len(slots), 3, 37, dtype=dtype), slots)


@bits
@pytest.mark.parametrize(
    "kind",
    [TaskLayerNorm, TaskBatchNorm1d, lambda size, **options: TaskGroupNorm(2, size, **options)],
    ids=["layer", "batch", "group"],
)
def test_autocast(slots, kind):
    linear, norm = TaskLinear(8, 8, num_slots=3), drawn(kind(8, num_slots=3)).eval()

    def autocast():
        return torch.autocast("cpu", dtype=torch.bfloat16)

    with autocast():
        h = linear(torch.randn(len(slots), 8), slots)
        assert h.dtype == torch.bfloat16 and norm(h, slots).dtype == torch.bfloat16
        assert norm(h[:0], slots[:0]).dtype == norm(h, 0).dtype
    for slot in range(3):
        with autocast():
            torch.testing.assert_close(norm(h, slots)[slots == slot], norm(h[slots == slot], slot), rtol=0, atol=0)
    if isinstance(norm, TaskLayerNorm):
        check(norm, h, slots, autocast)


@bits
def test_layer_norm_whose_rows_are_the_second_dimension(slots):
    layer = drawn(TaskLayerNorm(7, num_slots=3, dtype=torch.bfloat16))
    x = torch.randn(4, len(slots), 7, dtype=torch.bfloat16)
    expected = layer(x.transpose(0, 1).contiguous(), slots)
    layer.batch_dim = 1
    y = layer(x, slots)
    assert torch.equal(y.transpose(0, 1), expected) and y.is_contiguous()


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("bias", [True, False])
def test_layer_norm_without_looking_at_the_slots(slots, dtype, bias):
    """What is traced, or runs where Python must not wait for a device."""
    layer = drawn(TaskLayerNorm(37, bias=bias, num_slots=3, dtype=dtype))
    x = torch.randn(len(slots), 3, 37, dtype=dtype)
    y, plain = layer._all_at_once(x, slots), layer(x, slots)
    assert y.dtype == dtype
    assert_as_accurate(y, plain, copy.deepcopy(layer).double()(x.double(), slots))
    compiled = torch.compile(layer, fullgraph=True, backend="eager")(x, slots)
    torch.testing.assert_close(compiled, y)


@bits
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALVES])
@pytest.mark.parametrize("size", [(4, 5), (32, 33), (1, 7), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("affine", [True, False])
def test_group_norm_of_channels_last(slots, dtype, size, affine):
    layer = drawn(TaskGroupNorm(3, 6, affine=affine, num_slots=3, dtype=dtype))
    x = torch.randn(len(slots), 6, *size, dtype=dtype)
    check(layer, x.contiguous(memory_format=LAST[x.dim()]), slots, last=True)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_of_channels_last(slots, training, affine, same_rows):
    layer = drawn(TaskBatchNorm2d(6, affine=affine, num_slots=3)).train(training)
    x = torch.randn(len(slots), 6, 4, 5)
    plain = copy.deepcopy(layer)(x, slots)
    y = copy.deepcopy(layer)(x.contiguous(memory_format=torch.channels_last), slots)
    assert y.is_contiguous(memory_format=torch.channels_last) and not y.is_contiguous()
    assert plain.is_contiguous()
    part = copy.deepcopy(layer)(torch.randn(len(slots), 12, 4, 5).contiguous(memory_format=torch.channels_last)
                                .chunk(2, 1)[1], slots)  # fmt: skip
    assert part.is_contiguous(memory_format=torch.channels_last)  # as torch.nn's
    traced = layer._with_segments(x.contiguous(memory_format=torch.channels_last), slots) if training else y
    assert traced.is_contiguous(memory_format=torch.channels_last)
    alone = copy.deepcopy(layer)
    for slot in slots.unique().tolist():
        rows = slots == slot
        same_rows(y[rows], alone(x[rows].contiguous(memory_format=torch.channels_last), slot))


@bits
@pytest.mark.parametrize("norm", [nn.BatchNorm2d, lambda channels: nn.GroupNorm(2, channels)], ids=["batch", "group"])
def test_a_converted_channels_last_network(models, claim_share, norm):
    model = models.ResNet18(blocks=(1, 1))
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, norm(module.num_features))
    convert_(model.to(memory_format=torch.channels_last).eval(), 3)
    for slot in range(3):
        claim_share(model, slot)
    slots, x = SLOTS["mixed"], torch.randn(8, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    with torch.no_grad(), active(slots):
        y = model(x)
    for slot in range(3):
        with torch.no_grad(), active(slot):
            torch.testing.assert_close(y[slots == slot], model(x[slots == slot]), rtol=0, atol=0)


NORMS = {
    "batch_norm": (lambda **options: TaskBatchNorm1d(4, num_slots=2, **options), (0, 4)),
    "batch_norm_of_images": (lambda **options: TaskBatchNorm2d(4, num_slots=2, **options), (0, 4, 3, 2)),
    "group_norm": (lambda **options: TaskGroupNorm(2, 4, num_slots=2, **options), (0, 4, 3)),
    "layer_norm": (lambda **options: TaskLayerNorm(4, num_slots=2, **options), (0, 3, 4)),
}
UNUSUAL = {
    "batch_norm": [{"track_running_stats": False}, {"affine": False}, {"affine": False, "track_running_stats": False}],
    "batch_norm_of_images": [{"track_running_stats": False}],
    "group_norm": [{"affine": False}],
    "layer_norm": [{"elementwise_affine": False}, {"bias": False}],
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("name", "options"), [(name, options) for name in NORMS for options in ({}, *UNUSUAL[name])], ids=str
)
def test_batches_without_rows(name, options, training):
    make, shape = NORMS[name]
    layer = make(**options).train(training)
    x = torch.zeros(shape, requires_grad=True)
    y = layer(x, torch.zeros(0, dtype=torch.int64))
    assert y.shape == shape and y.dtype == x.dtype
    y.sum().backward()
    assert x.grad.shape == shape
    for parameter in layer.parameters():
        assert torch.equal(parameter.grad, torch.zeros_like(parameter))
    if getattr(layer, "num_batches_tracked", None) is not None:
        assert layer.num_batches_tracked.tolist() == [0, 0]
