"""Vectors and blocks at the same keep: what is claimed, and what a line holds."""

from __future__ import annotations

import pytest
import torch

from rsn2.experiments import granularity, load_experiment, protocol
from rsn2.experiments.granularity import KEEPS, SIZES, claim_options
from rsn2.experiments.running import run
from rsn2.procedure import claim

OPTIONS = dict(seeds=[0], smoke=True, progress=False, say=lambda line: None)


def test_every_size_at_every_keep_and_a_control():
    experiment = load_experiment("granularity")
    found = {(v.settings.block, v.settings.keep) for v in experiment.variants.values() if not v.is_control}
    assert found == {(size, keep) for size in SIZES for keep in KEEPS} and experiment.controls == ("control",)
    widths = granularity.Settings().widths
    assert all(width % rows == 0 and width % columns == 0 for width in widths[1:-1] for rows, columns in SIZES)


def test_a_line_holds_all_metrics(tiny_data, tmp_path):
    lines = run(load_experiment("granularity"), tmp_path, data_dir=tiny_data, **OPTIONS)
    assert len(lines) == 2 * (len(SIZES) * len(KEEPS) + 1)
    numel = 784 * 64 + 2 * 64 * 64 + 64 * 10
    for line in lines:
        metrics, task = line["metrics"], line["stage"]
        assert 0 <= metrics["tasks"][task]["accuracy"] <= 1
        assert 0 <= metrics["tasks"][task]["validation"]["accuracy"] <= 1
        assert metrics["epochs"] == 1 and metrics["seconds_per_epoch"] > 0 and metrics["bytes"]["file"] > 0
        if line["variant"] == "control":
            assert metrics["owned_weights"] == numel
        else:  # a quarter of 64 x 64 is whole blocks of every size: the same keep is the same number of weights
            num_tasks = 1 + (task == "fashion")
            assert metrics["owned_weights"] == num_tasks * (numel // 4)


@pytest.mark.parametrize("block", SIZES)
def test_weights_are_claimed_in_whole_blocks(tiny_data, tmp_path, monkeypatch, block):
    nets = []

    def seen(net, *args, **kwargs):
        nets.append(net)
        return claim(net, *args, **kwargs)

    monkeypatch.setattr(protocol, "claim", seen)
    name = f"{block[0]}x{block[1]}-0.1"
    run(load_experiment("granularity"), tmp_path, data_dir=tiny_data, variants=[name], **OPTIONS)
    for layer_name in ("hidden2", "hidden3"):
        layer = nets[-1].trunk.get_submodule(layer_name)
        for slot in (0, 1):
            counts = layer.mask(slot).reshape(64 // block[0], block[0], 64 // block[1], block[1]).sum((1, 3))
            assert set(counts.unique().tolist()) == {0, block[0] * block[1]}
        assert not bool((layer.mask(0) & layer.mask(1)).any())
    first = nets[-1].trunk.get_submodule("hidden1").mask(0)
    assert len(torch.unique(first.sum(1))) > 1  # single weights, the largest of the layer


def test_blocks_are_asked_for_between_hidden_layers_only():
    options = claim_options({"block": (16, 16)})
    assert options["scope"] == "tensor" and list(options["granularity"]) == ["hidden1", "hidden*"]
    assert options["granularity"] == {"hidden1": (1, 1), "hidden*": (16, 16)}
