"""Layers that are exported on their own, not inside of another module."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

from rsn2_kernels.nn import (
    TaskBatchNorm1d,
    TaskConv2d,
    TaskEmbedding,
    TaskGroupNorm,
    TaskLayer,
    TaskLayerNorm,
    TaskLinear,
    active,
)

ROWS = (6, 4)
LAYERS = {  # with and without what a layer may do without
    "linear": (lambda: TaskLinear(4, 3, num_slots=2), ROWS),
    "linear_without_bias": (lambda: TaskLinear(4, 3, bias=False, num_slots=2), ROWS),
    "linear_from_dense": (lambda: TaskLinear.from_dense(nn.Linear(4, 3), num_slots=2), ROWS),
    "conv": (lambda: TaskConv2d(2, 3, 3, num_slots=2), (6, 2, 5, 4)),
    "layer_norm": (lambda: TaskLayerNorm(4, num_slots=2), ROWS),
    "layer_norm_without_bias": (lambda: TaskLayerNorm(4, bias=False, num_slots=2), ROWS),
    "group_norm": (lambda: TaskGroupNorm(2, 4, num_slots=2), ROWS),
    "batch_norm": (lambda: TaskBatchNorm1d(4, num_slots=2), ROWS),
    "batch_norm_without_statistics": (lambda: TaskBatchNorm1d(4, track_running_stats=False, num_slots=2), ROWS),
    "batch_norm_of_statistics_only": (lambda: TaskBatchNorm1d(4, affine=False, num_slots=2), ROWS),
    "embedding": (lambda: TaskEmbedding(4, 3, num_slots=2), None),
}


@pytest.fixture(params=LAYERS.values(), ids=LAYERS)
def case(request):
    """A layer whose slots differ, and an input."""
    make, shape = request.param
    layer = make()
    if isinstance(layer, TaskLayer):
        halves = torch.arange(layer.numel).reshape(layer.weight_shape) % 2
        for slot in range(2):
            layer.claim(slot, halves == slot)
    with torch.no_grad():
        for parameter in layer.parameters():
            nn.init.normal_(parameter)
    return layer, torch.tensor([0, 3, 1, 2, 2, 0]) if shape is None else torch.randn(shape)


# Both warnings are torch's own: of its trees, and of views, which it saves one by one.
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
@pytest.mark.filterwarnings("ignore:No complete tensor found in the group:UserWarning")
@pytest.mark.parametrize("how", ["one_slot", "mixed", "active"])
@pytest.mark.parametrize("training", [True, False])
def test_export_of_a_layer_alone(case, how, training):
    layer, x = case
    layer.train(training)
    slots = torch.tensor([0, 1, 1, 0, 0, 1]) if how == "mixed" else torch.tensor(1)
    expected = copy.deepcopy(layer)(x, slots)
    arguments = (x,) if how == "active" else (x, slots)
    with active(slots):
        program = torch.export.export(layer, arguments)
    torch.testing.assert_close(copy.deepcopy(program).module()(*arguments), expected)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    torch.testing.assert_close(torch.export.load(file).module()(*arguments), expected)


def test_export_of_a_layer_that_reads_more_than_it_owns(draw):
    layer = TaskLinear(4, 3, num_slots=2)
    for slot in range(2):
        layer.claim(slot, draw(layer, 0.4))
    layer.freeze(0)
    layer.read(1, [0])
    x, slots = torch.randn(5, 4), torch.tensor([0, 1, 1, 0, 1])
    for given in (slots, torch.tensor(1)):
        program = torch.export.export(layer, (x, given))
        torch.testing.assert_close(program.module()(x, given), layer(x, given))
