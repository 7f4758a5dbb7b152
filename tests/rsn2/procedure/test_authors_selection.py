"""The rules of the authors, counted: by the gradient too much where earlier tasks have enough, by size too little."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import rsn2
from rsn2.procedure.authors_selection import authors_masks, count_authors_selection


def test_the_first_task_gets_the_largest():
    (mask,) = authors_masks([torch.tensor([5.0, 1.0, 4.0, 2.0, 3.0])], 0.6)
    assert mask.tolist() == [True, False, True, False, False]


def test_later_tasks_get_others_while_enough_are_left():
    scores = [torch.arange(1.0, 11.0), torch.arange(1.0, 11.0)]
    first, second = authors_masks(scores, 0.8)
    assert first.nonzero().flatten().tolist() == [8, 9] and second.nonzero().flatten().tolist() == [6, 7]


def test_the_last_of_all_gets_everything():
    """Five tasks that keep a fifth each: of the scores of the last one four fifths are zero, and the percentile is."""
    torch.manual_seed(0)
    masks = authors_masks([torch.rand(1001) + 0.1 for _ in range(5)], 0.8)
    assert [int(mask.sum()) for mask in masks[:4]] == [201] * 4
    assert int(masks[4].sum()) == 1001


def test_weights_of_two_tasks_are_free_again():
    everything = torch.zeros(4)  # all scores are zero, so that each takes all of them
    first, second, third = authors_masks([everything, everything, torch.arange(1.0, 5.0)], 0.5)
    assert bool(first.all()) and bool(second.all())
    assert third.tolist() == [False, False, True, True]  # had they counted as used, it would be all four


def test_counts_of_a_network():
    torch.manual_seed(0)
    net = rsn2.MultitaskNetwork(nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 5)))
    names = ["a", "b", "c"]
    for name in names:
        net.add_task(name)
    batches = {name: [(torch.randn(64, 20), torch.arange(64) % 5)] for name in names}
    counts = count_authors_selection(net, names, batches, dict.fromkeys(names, F.cross_entropy), 0.2)
    assert counts["0"] == {"a": 120, "b": 120, "c": 120, "of several tasks": 0, "of none": 240, "all": 600}
    assert net.owned_weights()["0"] == {"a": 0, "b": 0, "c": 0}
    with pytest.raises(ValueError, match="rule must be one of gradient, magnitude, got 'random'"):
        count_authors_selection(net, names, batches, dict.fromkeys(names, F.cross_entropy), 0.2, rule="random")
    overlapping = count_authors_selection(net, names, batches, dict.fromkeys(names, F.cross_entropy), 0.5)
    assert overlapping["0"]["c"] == 600 and overlapping["0"]["of several tasks"] == 600


def test_by_size_each_task_gets_its_share_of_what_is_left():
    torch.manual_seed(0)
    masks = authors_masks([torch.rand(100_000) + 0.1 for _ in range(4)], 0.75, "magnitude")
    assert not bool((torch.stack(masks).sum(0) > 1).any())
    shares = [float(mask.float().mean()) for mask in masks]
    assert shares == pytest.approx([0.25, 0.25 * 0.75, 0.25 * 0.75**2, 0.25 * 0.75**3], abs=0.005)


def test_the_percentile_is_of_the_share_that_was_asked_for():
    """288 weights, a fifth each: 57 are the whole weights of a fifth, but at least the percentile are 58, so that the
    fifth task finds the percentile at zero.
    """
    torch.manual_seed(0)
    net = rsn2.MultitaskNetwork(nn.Sequential(nn.Linear(9, 32), nn.ReLU(), nn.Linear(32, 5)))
    names = list("abcde")
    for name in names:
        net.add_task(name)
    batches = {name: [(torch.randn(64, 9), torch.arange(64) % 5)] for name in names}
    counts = count_authors_selection(net, names, batches, dict.fromkeys(names, F.cross_entropy), 0.2)
    assert [counts["0"][name] for name in names] == [58, 58, 58, 58, 288]
    by_size = count_authors_selection(net, names, batches, dict.fromkeys(names, F.cross_entropy), 0.2, rule="magnitude")
    assert by_size["0"]["a"] == 58 and by_size["0"]["e"] < 40 and by_size["0"]["of several tasks"] == 0
