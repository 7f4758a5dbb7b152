"""The narrow ResNet-18 has the published shape, and becomes a network of many tasks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rsn2.models import resnet18
from rsn2.models.resnet import BasicBlock
from rsn2.network import MultitaskNetwork
from rsn2.procedure import claim
from rsn2_kernels.nn import TaskBatchNorm2d, TaskConv2d
from rsn2_kernels.testing import seeded


def test_it_has_eighteen_layers_besides_the_shortcuts():
    network = resnet18(5).whole()
    convolutions = {name: m for name, m in network.named_modules() if isinstance(m, nn.Conv2d)}
    assert sum("shortcut" not in name for name in convolutions) == 17  # and the linear layer
    assert sum("shortcut" in name for name in convolutions) == 3
    assert sum(isinstance(m, nn.BatchNorm2d) for m in network.modules()) == 20


def test_the_number_of_weights():
    def expected(channels, outputs):
        total, previous = 27 * channels[0], channels[0]
        for width in channels:
            total += 9 * previous * width + 3 * 9 * width * width + (previous * width if previous != width else 0)
            previous = width
        return total + previous * outputs

    for channels in ((20, 40, 80, 160), (64, 128, 256, 512)):
        network = resnet18(10, channels=channels).whole()
        assert sum(p.numel() for p in network.parameters() if p.dim() > 1) == expected(channels, 10)
    assert expected((20, 40, 80, 160), 10) == 1_091_740 and expected((20, 40, 80, 160), 5) == 1_090_940


@pytest.mark.parametrize(("size", "channels"), [(32, (4, 6, 8, 10)), (9, (3, 5)), (1, (2,))])
def test_shapes(size, channels):
    trunk, head = resnet18(7, in_channels=2, channels=channels)
    hidden = trunk(torch.randn(3, 2, size, size))
    assert hidden.shape == (3, channels[-1]) and head(hidden).shape == (3, 7)
    sizes = []
    x = torch.randn(3, 2, size, size)
    for name, child in trunk.named_children():
        x = child(x)
        if name.startswith("block"):
            sizes.append(x.shape[2])
    assert sizes == [-(-size // 2 ** (block // 2)) for block in range(2 * len(channels))]


def test_a_block_adds_its_input():
    block = BasicBlock(3, 3).eval()
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 3, 5, 4)
    assert torch.equal(block(x), x.relu())


def test_a_generator_decides_the_values():
    first, second, other = (resnet18(3, channels=(2, 3), generator=seeded(seed)).whole() for seed in (1, 1, 2))
    assert torch.equal(first.block3.conv2.weight, second.block3.conv2.weight)
    assert not torch.equal(first.block3.conv2.weight, other.block3.conv2.weight)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"resnet18: sizes .* channels=\[\]"):
        resnet18(channels=())
    with pytest.raises(ValueError, match="resnet18: sizes .* num_outputs=0"):
        resnet18(0)


def test_tasks_own_its_weights_and_have_their_own_normalisation():
    torch.manual_seed(0)
    net = MultitaskNetwork(resnet18(4, channels=(2, 4)).whole())
    assert sum(isinstance(m, TaskConv2d) for m in net.modules()) == 10  # 1 + 4 * 2 and one shortcut
    assert sum(isinstance(m, TaskBatchNorm2d) for m in net.modules()) == 10
    assert not any(type(m) in (nn.Conv2d, nn.BatchNorm2d, nn.Linear) for m in net.modules())
    x, y = torch.randn(6, 3, 8, 8), torch.arange(6) % 4
    for task in ("a", "b"):
        net.add_task(task)
        report = claim(net, task, [(x, y)], nn.functional.cross_entropy, 0.5, start="rescaled")
    assert set(report.free.values()) == {0}
    net.train()
    net.freeze("a")
    before = net.eval()(x, task="a")
    net.train()
    optimizer = torch.optim.SGD(net.parameters_of("b"), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x, task="b"), y).backward()
        optimizer.step()
    net.eval()
    assert torch.equal(net(x, task="a"), before)
    norm = net.trunk.get_submodule("block1.norm1")
    assert not torch.equal(norm.running_mean[0], norm.running_mean[1])


def test_a_claim_of_everything_computes_what_the_dense_network_does():
    torch.manual_seed(0)
    dense = resnet18(4, channels=(3, 4)).whole().eval()
    x, y = torch.randn(6, 3, 8, 8), torch.arange(6) % 4
    expected = dense(x)
    exact = dense.double()(x.double())
    dense.float()
    net = MultitaskNetwork(dense)
    net.add_task("a")
    claim(net, "a", [(x, y)], nn.functional.cross_entropy, 1.0)
    error = (net.eval()(x, task="a") - exact).abs().max()
    # As close to the float64 result as torch is, within a small factor for another order of sums.
    assert error <= 4 * (expected - exact).abs().max()
