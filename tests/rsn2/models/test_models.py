"""The paper's networks have the paper's sizes and starting values."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rsn2.models import INITIALISERS, conv_network, fully_connected, initialise
from rsn2_kernels.testing import seeded


def num_weights(*modules: nn.Module) -> int:
    return sum(p.numel() for m in modules for p in m.parameters() if p.dim() > 1)


def num_biases(*modules: nn.Module) -> int:
    return sum(p.numel() for m in modules for p in m.parameters() if p.dim() == 1)


def test_fully_connected_has_the_papers_size():
    network = fully_connected()
    assert num_weights(*network) == 5_794_000
    assert num_biases(*network) == 6_010


def test_fully_connected_shapes():
    trunk, head = fully_connected((5, 7, 3, 2))
    hidden = trunk(torch.randn(4, 5))
    assert hidden.shape == (4, 3) and bool((hidden >= 0).all())
    assert head(hidden).shape == (4, 2)


def test_whole_is_the_same_layers():
    network = fully_connected((5, 7, 3, 2))
    x = torch.randn(4, 5)
    whole = network.whole()
    assert torch.equal(whole(x), network.head(network.trunk(x)))
    assert whole.output is network.head and whole.hidden1 is network.trunk.hidden1


@pytest.mark.parametrize(("stride", "weights"), [(1, 11_208_480), (2, 935_712)])
def test_conv_network_has_the_papers_size(stride, weights):
    assert num_weights(*conv_network(pool_stride=stride)) == weights


@pytest.mark.parametrize("stride", [1, 2])
def test_conv_network_shapes(stride):
    trunk, head = conv_network(3, 4, image_size=(9, 11), channels=(2, 3), hidden=(8, 6), pool_stride=stride)
    assert head(trunk(torch.randn(2, 3, 9, 11))).shape == (2, 4)


@pytest.mark.parametrize(
    ("name", "std"), [("normal_0.05", 0.05), ("he", (2 / 500) ** 0.5), ("glorot", (2 / 800) ** 0.5)]
)
def test_initialisers_have_their_variance(name, std):
    layer = nn.Linear(500, 300)
    initialise(layer, name, generator=seeded(0))
    # 150 000 draws: the standard error of the standard deviation is below 0.3 %, five of them are allowed.
    assert layer.weight.std().item() == pytest.approx(std, rel=0.015)
    assert not bool(layer.bias.any())


def test_a_generator_decides_the_values():
    first, second, other = (fully_connected((4, 3, 2), generator=seeded(s)) for s in (1, 1, 2))
    assert torch.equal(first.head.weight, second.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"fully_connected: widths must be .* got \[3, 2\]"):
        fully_connected((3, 2))
    with pytest.raises(ValueError, match="fully_connected: widths"):
        fully_connected((3, 0, 2))
    with pytest.raises(ValueError, match="conv_network: image_size must allow 2 poolings"):
        conv_network(image_size=(2, 2))
    with pytest.raises(ValueError, match="conv_network: sizes .* pool_stride=0"):
        conv_network(pool_stride=0)
    with pytest.raises(ValueError, match=f"initialise: initialiser must be one of {', '.join(INITIALISERS)}, got 'no'"):
        fully_connected((3, 2, 1), initialiser="no")
