"""Layers come out of their descriptions as they went in."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from rsn2.architecture import NotDescribableError, build, describe
from rsn2_kernels.nn import TaskBatchNorm2d, TaskConv1d, TaskConv2d, TaskLayerNorm, TaskLinear

LAYERS = [
    nn.Linear(3, 4, bias=False), nn.Conv1d(2, 4, 3, padding="same"), nn.Embedding(5, 2, padding_idx=1),
    nn.Conv2d(4, 6, (3, 1), stride=2, padding=(1, 0), dilation=2, groups=2, bias=False, padding_mode="reflect"),
    nn.BatchNorm2d(3, eps=1e-4, momentum=None, affine=False), nn.LayerNorm((2, 3), elementwise_affine=False),
    nn.GroupNorm(2, 4), nn.MaxPool2d(2, stride=1, ceil_mode=True), nn.AvgPool2d((2, 1)), nn.AdaptiveAvgPool2d((1, 2)),
    nn.Flatten(1, 2),
    nn.Dropout(0.25, inplace=True), nn.GELU("tanh"), nn.LeakyReLU(0.3), nn.Softmax(1), nn.Unflatten(1, (2, 3)),
    nn.Identity(), nn.Upsample(scale_factor=2.0),
    nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.ReLU(inplace=True)), nn.Sequential()),
    TaskLinear(3, 4, num_slots=0, activation="relu"), TaskConv1d(2, 3, 3, padding="same", bias=False, num_slots=0),
    TaskConv2d(2, 4, 3, stride=(2, 1), groups=2, num_slots=0), TaskBatchNorm2d(3, momentum=None, num_slots=0),
    TaskLayerNorm(4, eps=1e-3, num_slots=0),
]  # fmt: skip


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_a_layer_comes_back(layer: nn.Module) -> None:
    again = build(json.loads(json.dumps(describe(layer))))
    assert repr(again) == repr(layer)
    kept = {key: t.shape for key, t in layer.state_dict().items() if not key.endswith("base_seed")}
    assert {key: t.shape for key, t in again.state_dict().items() if not key.endswith("base_seed")} == kept


class Own(nn.Linear):
    pass


def test_other_modules_are_not_described() -> None:
    for module in (Own(2, 2), nn.Sequential(Own(2, 2)), nn.MultiheadAttention(4, 2), nn.ModuleList([nn.ReLU()])):
        with pytest.raises(NotDescribableError):
            describe(module)


def test_describing_takes_no_random_numbers() -> None:
    layers = nn.Sequential(nn.Linear(3, 4), nn.Conv2d(1, 2, 3))
    before = torch.get_rng_state()
    describe(layers)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "name", ["os.system", "torch.nn.functional", "torch.nn.Nothing", "builtins.eval", "Linear", None]
)
def test_only_layers_are_built(name: str | None) -> None:
    with pytest.raises(ValueError, match="there is no layer"):
        build({"class": name, "arguments": {}})


def test_a_layer_without_weights_may_stand_twice():
    act = nn.ReLU()
    module = nn.Sequential(act, nn.Linear(3, 3), act, nn.Linear(3, 2))
    again = build(describe(module))
    assert [type(child) for child in again] == [nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]


def test_a_layer_with_weights_may_not():
    layer = nn.Linear(3, 3)
    with pytest.raises(NotDescribableError, match="a layer with weights stands in the torch.nn.Sequential twice"):
        describe(nn.Sequential(layer, nn.ReLU(), layer))
