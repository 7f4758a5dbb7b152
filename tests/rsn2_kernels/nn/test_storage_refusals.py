"""What a layer cannot see or take is refused or reported, and changes nothing."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict

from rsn2_kernels.nn import SlotModule, TaskLinear


def state_of(layer: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in layer.state_dict().items()}


def is_unchanged(layer: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    now = layer.state_dict()
    return list(now) == list(before) and all(torch.equal(now[name], tensor) for name, tensor in before.items())


# Other memory and other Parameters.


@pytest.mark.parametrize("why", ["trains", "requires_grad", "frozen"])
def test_replaced_memory_is_refused(claimed_layer_and_input, why):
    layer, x = claimed_layer_and_input
    if why == "frozen":
        layer.freeze(0)
    elif why == "requires_grad":
        layer.requires_grad_(False)
    parameters = layer.parameters_of(0) if why == "frozen" else [*layer.parameters()]
    kept = layer.values[0].data
    vector = torch.nn.utils.parameters_to_vector(parameters).detach()
    torch.nn.utils.vector_to_parameters(torch.zeros_like(vector), parameters)
    for use in (
        lambda: layer(x, 1),
        layer.state_dict,
        lambda: layer.claim(2, layer.free()),
        lambda: layer.release(1),
        lambda: layer.double(),
        lambda: copy.deepcopy(layer),
        lambda: pickle.dumps(layer),
    ):
        with pytest.raises(RuntimeError, match="slot 0 does not view the layer's memory any more"):
            use()
    if why == "frozen":
        layer.values[0].data = kept
        with pytest.raises(RuntimeError, match="slot 0 does not view"):  # the bias, still
            layer.state_dict()


def test_replaced_parameters_are_refused(claimed_layer_and_input):
    layer, x = claimed_layer_and_input
    before, y = state_of(layer), layer(x, 0)
    for own in (layer.values, layer.bias):
        for replace in (
            lambda own: own.__setitem__(0, nn.Parameter(torch.zeros_like(own[0]))),
            lambda own: setattr(own, "0", nn.Parameter(torch.zeros_like(own[0]))),
            lambda own: own.__setitem__(0, torch.zeros_like(own[0])),
            lambda own: setattr(own, "0", None),
        ):
            with pytest.raises(ValueError, match="Parameter of slot 0 views the layer's memory and cannot be replaced"):
                replace(own)
        own[0] = own[0]
    assert is_unchanged(layer, before) and torch.equal(layer(x, 0), y)


@pytest.mark.parametrize("names", [[10, 20], ["a", 1], [True]])
def test_names_are_text(names):
    with pytest.raises(TypeError, match="num_slots must be an int or a list of names"):
        TaskLinear(3, 2, num_slots=names)


# States.


@pytest.mark.parametrize("base", ["base_seed", "base_weight"])
def test_a_state_without_a_base_leaves_the_present_one(draw, base):
    def make() -> TaskLinear:
        if base == "base_seed":
            return TaskLinear(9, 7, num_slots=2)
        return TaskLinear.from_dense(nn.Linear(9, 7), num_slots=2)

    layer, other = make(), make()
    layer.claim(1, draw(layer, 0.3))
    state = {name: tensor for name, tensor in layer.state_dict().items() if not name.startswith("base")}
    start = other.base.at(torch.arange(63), torch.float32)
    with pytest.raises(RuntimeError, match=f'Missing key.*"{base}"'):
        copy.deepcopy(other).load_state_dict(state)
    found = other.load_state_dict(state, strict=False)
    assert found.missing_keys == [base] and not found.unexpected_keys
    now = other.state_dict()
    assert all(torch.equal(now[name], tensor) for name, tensor in state.items())
    assert torch.equal(other.base.at(torch.arange(63), torch.float32), start)
    x = torch.randn(2, 9)
    assert torch.equal(other(x, 1), layer(x, 1))


@pytest.mark.parametrize("lost", ["values", "positions", "frozen", "bias"])
def test_what_a_state_cannot_give_is_reported(draw, lost):
    model = nn.Sequential(TaskLinear(9, 7, num_slots=2), nn.Linear(7, 2))
    model[0].claim(1, draw(model[0], 0.3))
    other = copy.deepcopy(model)
    before = state_of(other[0])
    state = model.state_dict()
    del state[f"0.{lost}"]
    rest = {name for name in state if name.startswith("0.")}
    with pytest.raises(RuntimeError, match=rf'Missing key.*"0\.{lost}".\s*Unexpected key.*"0\.base_seed"'):
        other.load_state_dict(state)
    found = other.load_state_dict(state, strict=False)
    assert found.missing_keys == [f"0.{lost}"] and {*found.unexpected_keys} == rest
    assert is_unchanged(other[0], before)
    found = other.load_state_dict(nn.Sequential(nn.Identity(), nn.Linear(7, 2)).state_dict(), strict=False)
    assert found.missing_keys == ["0.values", "0.positions", "0.frozen", "0.bias", "0.base_seed"]
    assert not found.unexpected_keys


def test_torchs_distributed_checkpoints_see_every_entry(claimed_layer_and_input):
    layer, x = claimed_layer_and_input
    layer.freeze(0)
    layer.read(1, [0])
    layer.slot_map = torch.tensor([0, 1])
    model, other = nn.Sequential(layer), nn.Sequential(type(layer).from_dense(layer.to_dense(0), num_slots=1))
    state = get_model_state_dict(model)
    assert list(state) == list(model.state_dict())
    set_model_state_dict(other, state)
    assert is_unchanged(other, state_of(model)) and torch.equal(other[0](x, 1), layer(x, 1))
    assert isinstance(layer, SlotModule) and layer.frozen.tolist() == [True, False, False]
