"""One task as an ordinary model: what it computes, what it is made of, and that it is a copy."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import rsn2
from rsn2_kernels.nn import SlotModule
from rsn2_kernels.testing import seeded


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(16, 16), nn.Linear(16, 16)
        self.layers = [1, 2]

    def forward(self, x):
        return x + self.two(torch.relu(self.one(x)))


TRUNKS = {
    "linear": (lambda: nn.Sequential(nn.Linear(16, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 16)), (16,)),
    "one layer": (lambda: nn.Linear(16, 16), (16,)),
    "convolutions": (
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2, 1), nn.GroupNorm(2, 4),
                              nn.Flatten(), nn.Linear(4, 16)),
        (1, 4, 4),
    ),
    "residual": (lambda: nn.Sequential(Residual(), nn.BatchNorm1d(16), Residual()), (16,)),
    "attention": (
        lambda: nn.Sequential(nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True), nn.Flatten(),
                              nn.Linear(32, 16)),
        (2, 16),
    ),
}  # fmt: skip


def network(kind: str) -> tuple[rsn2.MultitaskNetwork, torch.Tensor]:
    torch.manual_seed(3)
    make, shape = TRUNKS[kind]
    x = torch.randn(24, *shape, generator=seeded(0))
    data = [(x, x.flatten(1)[:, 0].gt(0).long())]
    net = rsn2.MultitaskNetwork(make())
    for task in ("a", "b"):
        stem = nn.Sequential(nn.Linear(shape[-1], shape[-1]), nn.ReLU()) if task == "b" else None
        net.add_task(task, stem=stem, head=nn.Linear(16, 2), prune_stem=task == "b", prune_head=task == "b")
        if task == "b":
            rsn2.read_weights(net, "b", "a")
        rsn2.claim(net, task, data, cross_entropy, 0.3)
        rsn2.fit(net, task, data, data, cross_entropy, max_epochs=3, progress=False)
    return net.eval(), x


@pytest.mark.parametrize("kind", TRUNKS)
def test_it_computes_what_the_task_computes(kind):
    net, x = network(kind)
    for task in ("a", "b"):
        model = net.to_dense(task)
        assert not any(isinstance(module, SlotModule) for module in model.modules()) and not model.training
        assert {type(module).__module__.split(".")[0] for module in model.modules()} <= {
            "torch",
            __name__.split(".")[0],
        }
        torch.testing.assert_close(model(x), net(x, task=task), rtol=1e-4, atol=1e-5)


def test_it_is_a_copy_that_trains():
    net, x = network("linear")
    before = net(x, task="b")
    model = net.to_dense("b")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(x).square().sum().backward()
    optimizer.step()
    assert torch.equal(net(x, task="b"), before) and not torch.equal(model(x), before)
    assert list(dict(model.named_children())) == ["stem", "trunk", "head"]
    assert list(dict(net.to_dense("a").named_children())) == ["trunk", "head"]


def test_attention_of_several_slots_is_refused():
    torch.manual_seed(3)
    net = rsn2.MultitaskNetwork(nn.Sequential(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)))
    net.add_task("a")
    net.add_task("b", share={"*q_proj": "a"})
    with pytest.raises(ValueError, match=r"the layers of 0.self_attn must have one slot, got \[0, 1\]"):
        net.to_dense("b")
