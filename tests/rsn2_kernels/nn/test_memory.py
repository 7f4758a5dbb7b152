"""Nothing of the size of the dense weight is made while a slot trains."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from rsn2_kernels.nn import TaskBatchNorm1d, TaskConv2d, TaskLinear

WIDTH, SHARE = 512, 0.05


class Largest(TorchDispatchMode):
    """Remembers the largest result of any operator."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().nbytes() >= tensor.numel():
                self.numel = max(self.numel, tensor.numel())
        return result


def make(kind: str, draw) -> tuple[nn.Module, Tensor]:
    if kind == "linear":
        layer, x = TaskLinear(WIDTH, WIDTH, num_slots=3), torch.randn(4, WIDTH)
    else:
        layer, x = TaskConv2d(WIDTH // 3, WIDTH // 3, 3, num_slots=3), torch.randn(4, WIDTH // 3, 3, 3)
    for slot in range(3):
        layer.claim(slot, draw(layer, SHARE))
    return layer, x


@pytest.mark.parametrize("kind", ["linear", "conv"])
@pytest.mark.parametrize("slots", [torch.tensor(1), torch.tensor([0, 2, 1, 1])], ids=["one", "mixed"])
def test_results_gradients_and_optimizer_state_are_as_small_as_what_is_owned(kind, slots, draw):
    layer, x = make(kind, draw)
    optimizer = torch.optim.Adam(layer.parameters(), weight_decay=0.1, foreach=False)
    with Largest() as largest:
        for _ in range(2):
            optimizer.zero_grad(set_to_none=False)
            layer(x.requires_grad_(), slots).square().sum().backward()
            optimizer.step()
    assert int(SHARE * layer.numel) <= largest.numel < layer.numel // 2
    for slot, value in enumerate(layer.values):
        assert value.numel() == int(SHARE * layer.numel)
        assert value.grad.shape == value.shape and value.grad.untyped_storage().nbytes() == value.numel() * 4, slot
    tensors = [tensor for state in optimizer.state.values() for tensor in state.values() if isinstance(tensor, Tensor)]
    assert len(tensors) == 6 * 3
    assert all(tensor.untyped_storage().nbytes() <= 4 * int(SHARE * layer.numel) for tensor in tensors)


@pytest.mark.parametrize("kind", ["linear", "conv"])
@pytest.mark.parametrize("slots", [torch.tensor(1), torch.tensor([0, 2, 1, 1])], ids=["one", "mixed"])
def test_kernels_allocate_nothing_of_the_dense_size(kind, slots, draw, compiled):
    layer, x = make(kind, draw)
    layer(x.requires_grad_(), slots).square().sum().backward()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        layer(x, slots).square().sum().backward()
    sizes = [event.nbytes() for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    assert sizes and max(sizes) < 4 * layer.numel // 2


def test_a_frozen_slot_leaves_no_gradient_and_no_state(draw):
    layer, x = make("linear", draw)
    layer.freeze(0)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(x, torch.tensor([0, 1, 2, 0])).square().sum().backward()
    optimizer.step()
    assert all(parameter.grad is None and parameter not in optimizer.state for parameter in layer.parameters_of(0))


@pytest.mark.parametrize("slots", [torch.tensor(1), torch.tensor([0, 1, 1, 0])], ids=["one", "mixed"])
def test_finished_slots_add_nothing_to_a_step_of_a_normalisation(slots):
    layer = TaskBatchNorm1d(64, num_slots=40)
    for slot in range(40):
        if slot != 1:
            layer.freeze(slot)
    with Largest() as largest:
        layer(torch.randn(4, 64), slots).square().sum().backward()
    assert 64 < largest.numel <= 4 * 64
    assert layer.weight[1].grad.abs().sum() > 0 and layer.weight[39].grad is None
