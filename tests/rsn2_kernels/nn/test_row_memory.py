"""Layers with a row per slot under what walks over Parameters and buffers: averages, copies, moves."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from rsn2_kernels.nn import (
    TaskBatchNorm1d,
    TaskBatchNorm2d,
    TaskEmbedding,
    TaskGroupNorm,
    TaskLayerNorm,
)

LAYERS = {
    "layer_norm": lambda: TaskLayerNorm(4, num_slots=2),
    "layer_norm_without_bias": lambda: TaskLayerNorm(4, bias=False, num_slots=2),
    "group_norm": lambda: TaskGroupNorm(2, 4, num_slots=2),
    "batch_norm": lambda: TaskBatchNorm1d(4, num_slots=2),
    "batch_norm_without_statistics": lambda: TaskBatchNorm1d(4, track_running_stats=False, num_slots=2),
    "batch_norm_of_statistics_only": lambda: TaskBatchNorm1d(4, affine=False, num_slots=2),
    "embedding": lambda: TaskEmbedding(5, 4, num_slots=2),
}


@pytest.fixture(params=LAYERS.values(), ids=LAYERS)
def layer(request):
    return request.param()


def inputs(layer):
    return torch.tensor([0, 3, 1]) if isinstance(layer, TaskEmbedding) else torch.randn(3, 4)


# Torch has no average of a model without Parameters.
WITH_PARAMETERS = {name: make for name, make in LAYERS.items() if name != "batch_norm_of_statistics_only"}


@pytest.mark.parametrize("layer", WITH_PARAMETERS.values(), ids=WITH_PARAMETERS, indirect=True)
@pytest.mark.parametrize("use_buffers", [False, True])
def test_an_average_is_one(layer, use_buffers):
    average = AveragedModel(layer, multi_avg_fn=get_ema_multi_avg_fn(0.75), use_buffers=use_buffers)
    expected = [parameter.detach().clone() for parameter in layer.parameters()]
    for step in range(3):
        with torch.no_grad():
            for place, parameter in enumerate(layer.parameters()):
                parameter.add_(torch.randn_like(parameter))
                if step == 0:
                    expected[place] = parameter.detach().clone()
                else:
                    expected[place].lerp_(parameter, 0.25)
        average.update_parameters(layer)
    for parameter, wanted in zip(average.module.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.detach(), wanted)
    x = inputs(layer)
    kinds = average.module._trained
    for slot in range(2):
        for kind in kinds:
            assert torch.equal(average.module._flat(kind)[slot], getattr(average.module, kind)[slot])
        dense = average.module.to_dense(slot)
        torch.testing.assert_close(average(x, slot), dense(x))


def test_no_buffer_shares_the_memory_of_a_parameter(layer):
    for one in (layer, copy.deepcopy(layer), layer.double(), layer.float()):
        one.add_slot()
        storages = {parameter.untyped_storage().data_ptr() for parameter in one.parameters()}
        assert not storages & {buffer.untyped_storage().data_ptr() for buffer in one.buffers()}


def test_moves_take_the_rows_along(layer):
    before = layer.state_dict()
    layer.share_memory()
    for kind in layer._trained:
        assert layer._flat(kind).is_shared() and getattr(layer, kind)[1].is_shared()
        assert layer._flat(kind)[1].data_ptr() == getattr(layer, kind)[1].data_ptr()
    for name, tensor in layer.state_dict().items():
        assert torch.equal(tensor, before[name])
    layer.to("meta")
    assert {tensor.device.type for name, tensor in layer.state_dict().items() if name != "frozen"} == {"meta"}


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_what_is_made_or_loaded_in_inference_mode_can_be_trained(make):
    with torch.inference_mode():
        layer = make()
        layer.load_state_dict(layer.state_dict())
    assert not any(tensor.is_inference() for tensor in (*layer.parameters(), *layer.buffers()))
    y = layer(inputs(layer), 0)
    if layer._trained:
        y.sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())


def test_compiled_layers_see_rows_that_change():
    layer = TaskBatchNorm2d(3, num_slots=2).eval()
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    x, slots = torch.randn(4, 3, 2, 2), torch.tensor([0, 1, 1, 0])
    for change in (lambda: None, lambda: layer.weight[1].mul_(2), lambda: layer.load_state_dict(layer.state_dict())):
        with torch.no_grad():
            change()
        torch.testing.assert_close(compiled(x, slots), layer(x, slots))
