"""Loading a part of a state into layers with a row per slot, and what that says."""

from __future__ import annotations

import pytest
import torch

from rsn2_kernels.nn import TaskBatchNorm2d, TaskLayerNorm, TaskLinear


def test_without_a_base_the_rest_is_loaded():
    source, target = TaskLayerNorm(4, num_slots=2), TaskLayerNorm(4, num_slots=1)
    with torch.no_grad():
        source.weight[1].fill_(3.0)
        source._buffers["base_weight"].fill_(7.0)
    state = source.state_dict()
    del state["base_weight"]
    found = target.load_state_dict(state, strict=False)
    assert found.missing_keys == ["base_weight"] and found.unexpected_keys == []
    assert target.num_slots == 2 and bool((target.weight[1] == 3).all()) and bool((target.base_weight == 1).all())


def test_without_rows_nothing_is_loaded_and_all_is_told():
    source, target = TaskBatchNorm2d(4, num_slots=2), TaskBatchNorm2d(4, num_slots=1)
    state = source.state_dict()
    del state["running_mean"]
    found = target.load_state_dict(state, strict=False)
    assert found.missing_keys == ["running_mean"] and set(found.unexpected_keys) == set(state)
    assert target.num_slots == 1
    with pytest.raises(RuntimeError, match="running_mean"):
        target.load_state_dict(state)


def test_memory_that_was_replaced_is_not_saved():
    layer = TaskLayerNorm(4, num_slots=2)
    layer.weight[0].data = torch.zeros(4)
    with pytest.raises(RuntimeError, match="does not view the layer's memory any more"):
        layer.state_dict()


def test_a_layer_can_be_made_where_the_default_device_is_meta():
    with torch.device("meta"):
        layer = TaskLinear(4, 3, num_slots=2)
    assert layer.flat_values.device.type == "meta"
