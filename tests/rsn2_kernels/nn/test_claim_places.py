"""Claims of several slots at once."""

from __future__ import annotations

import copy

import pytest
import torch

from rsn2_kernels.nn import TaskConv2d, TaskLayer, TaskLinear

LAYERS = {
    "several_tiles": lambda: TaskLinear(300, 20, num_slots=3),
    "grouped_conv": lambda: TaskConv2d(4, 6, (3, 2), groups=2, num_slots=3),
}


@pytest.fixture(params=LAYERS.values(), ids=LAYERS)
def layer(request: pytest.FixtureRequest) -> TaskLayer:
    return request.param()


def places_of(layer: TaskLayer) -> dict[int, torch.Tensor]:
    order = torch.randperm(layer.numel)
    return {slot: order[slot::6].sort().values for slot in range(3)}


def same(layer: TaskLayer, state: dict[str, torch.Tensor]) -> bool:
    now = layer.state_dict()
    return now.keys() == state.keys() and all(torch.equal(now[name], state[name]) for name in now)


def test_they_are_those_made_one_by_one(layer: TaskLayer) -> None:
    start = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    places = places_of(layer)
    values = torch.arange(len(places[1]), dtype=torch.float32)
    layer.claim_places({0: (places[0], None), 1: (places[1], values), 2: (places[2], None)})
    together = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    layer.load_state_dict(start)
    dense = torch.zeros(layer.numel).index_put((places[1],), values).reshape(layer.weight_shape)
    for slot, indices in places.items():
        mask = torch.zeros(layer.numel, dtype=torch.bool).index_fill(0, indices, True).reshape(layer.weight_shape)
        layer.claim(slot, mask, values=dense if slot == 1 else None)
    assert same(layer, together)


def test_refused_ones_change_nothing(layer: TaskLayer) -> None:
    places = places_of(layer)
    layer.claim_places({0: (places[0], None), 1: (places[1], None)})
    free = places[2]
    two_taken = torch.cat([places[0][:2], free[-1:]]).sort().values
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    refused = {
        "taken by slot 1": {2: (places[1][:1], None)},
        "2 of its 3 are taken by slot 0": {1: (free[:1], None), 2: (two_taken, None)},
        "must be ascending": {2: (free[:2].flip(0), None)},
        f"in 0..{layer.numel - 1}": {2: (torch.tensor([layer.numel]), None)},
        "values must be float": {2: (free[:2], torch.zeros(1))},
        "must be finite": {2: (free[:1], torch.tensor([torch.inf]))},
    }
    for message, claims in refused.items():
        with pytest.raises(ValueError, match=message):
            layer.claim_places(claims)
        assert same(layer, before)


def test_overlaps_within_one_call_name_the_slot(layer: TaskLayer) -> None:
    places = places_of(layer)[0]
    count = layer.numel - len(places)
    with pytest.raises(ValueError, match=f"taken by slot 0; {count} of {layer.numel} are free"):
        layer.claim_places({0: (places, None), 1: (places[:3], None)})
    assert bool(layer.free().all())


def test_a_slot_is_named_once() -> None:
    layer = TaskLinear(5, 4, num_slots=["a", "b"])
    with pytest.raises(ValueError, match="a slot must be named once"):
        layer.claim_places({"a": (torch.arange(3), None), 0: (torch.arange(3, 5), None)})
    assert bool(layer.free().all())


def test_values_leave_their_graph_behind() -> None:
    layer = TaskLinear(5, 4, num_slots=1)
    values = torch.ones(3, requires_grad=True) * 2
    layer.claim_places({0: (torch.arange(3), values)})
    assert not layer.flat_values.requires_grad
    copy.deepcopy(layer)
