"""Constructors refuse what only a first call would fail with, and take numbers of NumPy."""

from __future__ import annotations

import pytest
import torch

from rsn2_kernels.formats import SeededBase, StoredBase
from rsn2_kernels.nn import TaskConv1d, TaskConv2d, TaskLayerNorm, TaskLinear


def linear(**options):
    return TaskLinear(3, 4, **{"num_slots": 1, **options})


def conv(*arguments, **options):
    return TaskConv2d(3, 4, *arguments or (3,), **{"num_slots": 1, **options})


BAD = {
    "same_strided": (lambda: conv(padding="same", stride=2),
                     r'TaskConv2d: padding "same" needs stride 1, got \[2, 2\]'),
    "same_strided_once": (lambda: TaskConv1d(3, 4, 3, 2, "same", num_slots=1), 'TaskConv1d: padding "same" needs'),
    "padding_word": (lambda: conv(padding="foo"), 'padding must be "same", "valid" or numbers, got \'foo\''),
    "padding_below_zero": (lambda: conv(padding=-1), "TaskConv2d: padding must be an int >= 0, got -1"),
    "padding_below_zero_once": (lambda: conv(padding=(1, -2)), "padding must be an int >= 0, got -2"),
    "padding_of_floats": (lambda: conv(padding=1.5), r"padding must be a number or 2 numbers, got 1\.5"),
    "kernel_of_nothing": (lambda: conv(0), "TaskConv2d: kernel_size must be a positive int, got 0"),
    "kernel_of_nothing_once": (lambda: TaskConv1d(3, 4, (0,), num_slots=1), "TaskConv1d: kernel_size must be a pos"),
    "kernel_of_floats": (lambda: conv((3, 2.0)), r"kernel_size must be a positive int, got 2\.0"),
    "kernel_of_a_word": (lambda: conv("33"), "kernel_size must be a number or 2 numbers, got '33'"),
    "stride_zero": (lambda: conv(stride=0), "stride must be a positive int, got 0"),
    "dilation_zero": (lambda: conv(dilation=(1, 0)), "dilation must be a positive int, got 0"),
    "no_channels": (lambda: TaskConv2d(0, 4, 3, num_slots=1), "in_channels must be a positive int, got 0"),
    "no_outputs": (lambda: TaskConv2d(3, 0, 3, num_slots=1), "out_channels must be a positive int, got 0"),
    "no_groups": (lambda: conv(groups=0), "groups must be a positive int, got 0"),
    "activation": (lambda: conv(activation="gelu"), r"TaskConv2d: activation must be one of .*relu.*, got 'gelu'"),
    "activation_of_linear": (lambda: linear(activation="gelu"), "TaskLinear: activation must be one of"),
    "no_activation": (lambda: linear(activation=None), "activation must be one of .*, got None"),
    "integers": (lambda: linear(dtype=torch.int64), "TaskLinear: dtype must be float32, .* got torch.int64"),
    "complex": (lambda: conv(dtype=torch.complex64), "TaskConv2d: dtype must be float32, .* got torch.complex64"),
    "transposed_base": (lambda: linear(base=StoredBase(torch.zeros(3, 4))),
                        r"TaskLinear: base must be float \[4, 3\], got torch.float32 \[3, 4\]"),
    "long_base": (lambda: linear(base=StoredBase(torch.zeros(70))), r"base must be float \[4, 3\], got .* \[70\]"),
    "flat_base": (lambda: conv(base=StoredBase(torch.zeros(4, 27))),
                  r"TaskConv2d: base must be float \[4, 3, 3, 3\], got .* \[4, 27\]"),
    "base_of_whole_channels": (lambda: TaskConv2d(4, 4, 3, groups=2, num_slots=1,
                                                  base=StoredBase(torch.zeros(4, 4, 3, 3))),
                               r"base must be float \[4, 2, 3, 3\]"),
    "base_of_integers": (lambda: linear(base=StoredBase(torch.zeros(4, 3, dtype=torch.int64))), "got torch.int64"),
    "base_bias": (lambda: linear(base_bias=torch.zeros(3)), r"base_bias must be float \[4\], got torch.float32 \[3\]"),
    "initializer": (lambda: linear(base=SeededBase(1, "cauchy", 1.0)), "base must have an initializer of .*'cauchy'"),
    "seed": (lambda: linear(base=SeededBase(-1, "normal", 1.0)), r"base must have a seed in 0\.\.2\*\*64-1, got -1"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_refused(name):
    make, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: linear(base=torch.zeros(4, 3)), "TaskLinear: base must be a SeededBase or a StoredBase, got Tensor"),
        (lambda: linear(base=StoredBase([[0.0] * 3] * 4)), r"base must be a float tensor \[4, 3\], got list"),
        (lambda: conv(base_bias=0.0), r"TaskConv2d: base_bias must be a float tensor \[4\], got float"),
    ],
)
def test_refused_kinds(make, message):
    with pytest.raises(TypeError, match=message):
        make()


def test_what_fits_is_taken():
    weight, bias = torch.randn(4, 3), torch.randn(4)
    layer = linear(base=StoredBase(weight.double()), base_bias=bias)
    layer.claim(0, layer.free())
    assert torch.equal(layer.to_dense(0).weight, weight) and torch.equal(layer.bias[0], bias)
    kernel = torch.randn(4, 3, 2, 3)
    layer = conv((2, 3), base=StoredBase(kernel), padding="same")
    layer.claim(0, layer.free())
    assert torch.equal(layer.to_dense(0).weight, kernel)


def test_numbers_of_numpy():
    np = pytest.importorskip("numpy")
    three = np.int64(3)
    layer = TaskConv2d(three, np.int32(4), three, np.int64(2), (np.int64(1), 0), num_slots=1)
    assert layer(torch.zeros(2, 3, 7, 7), 0).shape == (2, 4, 4, 3)
    assert type(layer.kernel_size[0]) is int
    assert TaskLinear(three, np.int64(4), num_slots=1)(torch.zeros(2, 3), 0).shape == (2, 4)
    assert TaskLayerNorm(three, num_slots=1)(torch.zeros(2, 3), 0).shape == (2, 3)
