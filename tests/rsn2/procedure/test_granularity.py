"""Claims of vectors and blocks: whole, aligned, free, the largest sums first, as many weights as fit into keep."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import rsn2
from rsn2.procedure.score import Scored
from rsn2_kernels.formats import CapacityError


def network(*modules: nn.Module, tasks: int = 2) -> rsn2.MultitaskNetwork:
    net = rsn2.MultitaskNetwork(nn.Sequential(*modules))
    for number in range(tasks):
        net.add_task(f"task{number}")
    return net


def claim(net: rsn2.MultitaskNetwork, task: str, shape: tuple[int, ...], **how: object) -> rsn2.procedure.ClaimReport:
    batches = [(torch.randn(2, *shape), torch.zeros(2))]
    return rsn2.claim(net, task, batches, lambda y, target: y.square().mean(), **{"score": "random", **how})


def packed_mask(net: rsn2.MultitaskNetwork, task: str, name: str = "0") -> Tensor:
    """``[O, K]``, for a convolution columns (kernel position, input channel)."""
    layer, slot = net.task_layers(task)[name]
    mask = layer.mask(slot)
    return mask.permute(0, 2, 3, 1).flatten(1) if mask.dim() == 4 else mask


def in_blocks(matrix: Tensor, rows: int, columns: int) -> Tensor:
    """``[blocks down, blocks across, rows * columns]``."""
    down, across = matrix.shape[0] // rows, matrix.shape[1] // columns
    return matrix.view(down, rows, across, columns).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("size", [(16, 16), (1, 8), (8, 1), (32, 16), (2, 3)])
def test_linear_blocks_are_whole_and_disjoint(size):
    net = network(nn.Linear(48, 64))
    taken = torch.zeros(64, 48, dtype=torch.bool)
    for task in ("task0", "task1"):
        report = claim(net, task, (48,), keep=0.4, granularity=size)
        mask = packed_mask(net, task)
        area = size[0] * size[1]
        assert report.claimed[task]["0"] == int(mask.sum()) == 4 * 48 * 64 // 10 // area * area
        counts = in_blocks(mask, *size).sum(2)
        assert set(counts.unique().tolist()) == {0, area}
        assert not (mask & taken).any()
        taken |= mask


@pytest.mark.parametrize("size", [(16, 16), (1, 4), (32, 32)])
def test_blocks_of_a_convolution_stay_inside_one_kernel_position(size):
    net = network(nn.Conv2d(32, 64, 3))
    claim(net, "task0", (32, 4, 4), keep=0.3, granularity=size)
    counts = in_blocks(packed_mask(net, "task0"), *size).sum(2)
    assert set(counts.unique().tolist()) == {0, size[0] * size[1]}
    assert int(counts.sum()) == 3 * 64 * 288 // 10 // (size[0] * size[1]) * size[0] * size[1]


def test_the_largest_sums_are_taken_and_ties_go_to_the_lower_block():
    net = network(nn.Linear(32, 48))
    draw = torch.rand(48, 32)
    draw[16:32] = draw[:16]  # two pairs of equal blocks

    def score(scored: Scored) -> Tensor:
        return draw.clone()

    claim(net, "task0", (32,), keep=0.5, granularity=(16, 16), score=score)
    sums = in_blocks(draw.double(), 16, 16).sum(2).flatten()
    best = sorted(range(6), key=lambda block: (-float(sums[block]), block))[:3]
    owned = in_blocks(packed_mask(net, "task0"), 16, 16).all(2).flatten()
    assert owned.nonzero().flatten().tolist() == sorted(best)
    claim(net, "task1", (32,), keep=0.5, granularity=(16, 16), score=score)
    assert bool((packed_mask(net, "task0") | packed_mask(net, "task1")).all())


def test_kernels_see_the_blocks():
    from rsn2_kernels.formats import block_size_of, gather_index

    net = network(nn.Linear(64, 64), nn.Linear(64, 10))
    for task in ("task0", "task1"):
        claim(net, task, (64,), keep=0.3, granularity={"0": (32, 32)})
    layers = net.trunk_layers()
    assert block_size_of(gather_index(layers["0"].positions)) == 32
    assert block_size_of(gather_index(layers["1"].positions)) == 0


def test_blocks_that_are_not_whole_any_more_are_not_free():
    net = network(nn.Linear(32, 32))
    claim(net, "task0", (32,), keep=0.01)
    before = net.trunk_layers()["0"].free()
    with pytest.raises(CapacityError, match=r"layer 0 has \d whole blocks of 16 x 16 left, but 3 are wanted"):
        claim(net, "task1", (32,), keep=0.75, granularity=(16, 16))
    assert torch.equal(net.trunk_layers()["0"].free(), before)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (dict(granularity=(16, 7)), r"granularity \(16, 7\) must divide the 32 outputs and 32 inputs of layer 0"),
        (dict(granularity=(16, 16), keep=0.01), "10 weights of layer 0 are less than one block of 16 x 16"),
        (dict(granularity=(0, 16)), r"granularity must be \(rows, columns\), both positive, got \(0, 16\)"),
        (dict(granularity=16), r"granularity must be \(rows, columns\), both positive, got 16"),
        (dict(granularity=(16, 16), scope="row"), r"granularity \(16, 16\) needs scope 'tensor', got 'row'"),
        (dict(granularity={"0": (4, 4)}, scope="global"), "needs scope 'tensor', got 'global'"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(how, message):
    net = network(nn.Linear(32, 32))
    with pytest.raises(ValueError, match=message):
        claim(net, "task0", (32,), **{"keep": 0.5, **how})
    assert bool(net.trunk_layers()["0"].free().all())
