"""Sizes count every weight once."""

from __future__ import annotations

from torch import nn

from rsn2.experiments.training import DenseNetworks, sizes_of
from rsn2.network import MultitaskNetwork


def test_tasks_that_share_a_slot_own_its_weights_together(tmp_path):
    net = MultitaskNetwork(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5)))
    net.add_task("a", head=nn.Linear(5, 2), prune_head=True)
    net.add_task("b", head=nn.Linear(5, 3), share={"0": "a"})
    for task, num_own in (("a", 3), ("b", 2)):
        for layer, slot in net.task_layers(task).values():
            if not len(layer.values[slot]):
                mask = layer.mask(slot)
                mask.view(-1)[10 * slot : 10 * slot + num_own] = True
                layer.claim(slot, mask)
    sizes = sizes_of(net, tmp_path / "net.safetensors")
    assert sizes["weights_per_layer"] == {"0": 24, "2": 30, "heads.a.0": 10}
    assert sizes["owned_per_layer"] == {"0": {"a": 3, "b": 3}, "2": {"a": 3, "b": 2}, "heads.a.0": {"a": 3}}
    assert sizes["owned_per_slot"] == {"0": {"a+b": 3}, "2": {"a": 3, "b": 2}, "heads.a.0": {"a": 3}}
    assert sizes["owned_weights"] == 11 == sizes["bytes"]["values"] // 4


def test_dense_networks_own_all_of_their_weights(tmp_path):
    sizes = sizes_of(
        DenseNetworks({"a": nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 1))}), tmp_path / "net.safetensors"
    )
    assert sizes["owned_per_slot"] == sizes["owned_per_layer"] == {"0": {"a": 24}, "1": {"a": 6}}
    assert sizes["weights_per_layer"] == {"0": 24, "1": 6} and sizes["owned_weights"] == 30
    assert sizes["bytes"]["file"] > 4 * 30
