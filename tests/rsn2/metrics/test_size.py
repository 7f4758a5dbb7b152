from __future__ import annotations

import torch
from torch import nn

from rsn2.metrics import bytes_of_gradients, bytes_of_module, bytes_of_optimizer, bytes_of_tensors
from rsn2_kernels.nn import TaskLinear


def test_a_storage_counts_once():
    flat = torch.zeros(100)
    assert bytes_of_tensors([flat, flat[:10], flat[50:].view(5, 10)]) == 400
    assert bytes_of_tensors([flat[:10]]) == 400  # the rest is held too
    assert bytes_of_tensors([flat, torch.zeros(3, dtype=torch.float64), torch.zeros(0)]) == 424
    assert bytes_of_tensors([]) == 0


def test_module():
    module = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5))
    assert bytes_of_module(module) == 4 * (15 + 5 + 4 * 5) + 8
    tied = nn.Linear(3, 5, bias=False)
    assert bytes_of_module(nn.ModuleList([tied, tied])) == 60


def test_gradients_and_optimizer():
    module = nn.Linear(3, 5)
    optimizer = torch.optim.Adam(module.parameters())
    assert bytes_of_gradients(module) == 0 and bytes_of_optimizer(optimizer) == 0
    module(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    assert bytes_of_gradients(module) == 80
    assert bytes_of_optimizer(optimizer) == 2 * 80 + 2 * 4  # two moments, and a step count for each parameter
    sgd = torch.optim.SGD(module.parameters(), momentum=0.9)
    sgd.step()
    assert bytes_of_optimizer(sgd) == 80


def test_a_task_layer_counts_what_it_derives():
    layer = TaskLinear(64, 32, num_slots=2)
    layer.claim(0, torch.ones(32, 64, dtype=torch.bool))
    held = [layer.flat_values, layer.flat_bias, layer.positions, layer.index]
    assert bytes_of_module(layer) >= bytes_of_tensors(held) > 4 * 32 * 64
