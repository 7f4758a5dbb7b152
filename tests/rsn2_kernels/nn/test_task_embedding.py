from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from rsn2_kernels.nn import TaskEmbedding


@pytest.mark.parametrize("padding_idx", [None, 3, -1])
@pytest.mark.parametrize("shape", [(6,), (6, 5), (0, 5)])
@pytest.mark.parametrize("frozen", [None, 1])
def test_each_row_reads_its_own_table(padding_idx, shape, frozen):
    dense = nn.Embedding(7, 4, padding_idx)
    layer = TaskEmbedding.from_dense(dense, num_slots=3)
    tables = []
    for slot in range(3):
        table = copy.deepcopy(dense)
        with torch.no_grad():
            table.weight.mul_(slot + 1)
            layer.weight[slot].copy_(table.weight)
        tables.append(table)
    if frozen is not None:
        layer.freeze(frozen)
    x, slots = torch.randint(0, 7, shape), torch.randint(0, 3, shape[:1])
    y = layer(x, slots)
    assert y.shape == (*shape, 4)
    y.square().sum().backward()
    for slot in range(3):
        expected = tables[slot](x[slots == slot])
        assert torch.equal(y[slots == slot], expected)
        expected.square().sum().backward()
        if slot == frozen:
            assert layer.weight[slot].grad is None
        else:
            torch.testing.assert_close(layer.weight[slot].grad, tables[slot].weight.grad)
        assert torch.equal(layer(x.int(), slot), tables[slot](x))
        assert torch.equal(layer.to_dense(slot).weight, tables[slot].weight)


def test_bad_dtype():
    with pytest.raises(ValueError, match="x must be int64 or int32, got torch.float32"):
        TaskEmbedding(7, 4, num_slots=2)(torch.zeros(2), 1)


@pytest.mark.cpu_only(reason="a GPU is not waited for to look at numbers")
def test_out_of_range():
    layer = TaskEmbedding(7, 4, num_slots=2)
    with pytest.raises(IndexError, match=r"x must be in 0\.\.6, got 7"):
        layer(torch.tensor([0, 7]), 1)  # not the first row of the next table
    with pytest.raises(IndexError, match=r"x must be in 0\.\.6, got -1"):
        layer(torch.tensor([0, -1]), 1)
    with pytest.raises(IndexError, match=r"slots must be in 0\.\.1, got 5"):
        layer(torch.tensor([0, 1]), torch.tensor(5))
