"""Optimizers that hold state without having stepped here, and those that step after weights have moved."""

from __future__ import annotations

import copy
import gc
import pickle

import pytest
import torch

from rsn2_kernels.nn import TaskLinear
from rsn2_kernels.nn._optimizers import forget

OPTIMIZERS = {
    "adam": (lambda p: torch.optim.Adam(p, lr=0.1), "exp_avg"),
    "sgd_momentum": (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), "momentum_buffer"),
}
X = torch.linspace(-1, 1, 24).reshape(3, 8)


def step(layer, optimizer, slot=0):
    optimizer.zero_grad()
    layer(X.to(layer.flat_values), slot).square().sum().backward()
    optimizer.step()


def saved(optimizer):
    return pickle.loads(pickle.dumps(optimizer.state_dict()))


@pytest.fixture(params=OPTIMIZERS)
def trained(request):
    """A layer, the state of an optimizer that has trained slot 0 of it and is gone, one to load it, a name in it."""
    make, name = OPTIMIZERS[request.param]
    layer = TaskLinear(8, 4, num_slots=2)
    layer.claim(0, torch.eye(4, 8) > 0)
    layer.claim(1, torch.eye(4, 8).roll(2, 1) > 0)
    first = make(layer.parameters())
    step(layer, first)
    return layer, saved(first), make, name


def other_weights(layer):
    return torch.eye(4, 8).roll(1, 1) > 0


@pytest.mark.parametrize("how", ["load_state_dict", "deepcopy", "pickle"])
def test_a_restored_optimizer_is_live(trained, how):
    layer, state, make, name = trained
    optimizer = make(layer.parameters())
    optimizer.load_state_dict(state)
    if how == "deepcopy":
        layer, optimizer = copy.deepcopy((layer, optimizer))
    elif how == "pickle":
        layer, optimizer = pickle.loads(pickle.dumps((layer, optimizer)))
    value, before = layer.values[0], layer.mask(0)
    for change in (lambda: layer.claim(0, other_weights(layer)), lambda: layer.release(0)):
        with pytest.raises(RuntimeError, match=f"a live {type(optimizer).__name__} keeps state of this slot's values"):
            change()
    assert torch.equal(layer.mask(0), before)
    momentum = {int(i): float(m) for i, m in zip(layer.owned(0), optimizer.state[value][name], strict=True)}
    layer.claim(0, other_weights(layer), optimizer=optimizer)
    for index, number in zip(layer.owned(0).tolist(), optimizer.state[value][name].tolist(), strict=True):
        assert number == momentum.get(index, 0.0)
    step(layer, optimizer)
    del optimizer, value
    layer.release(0)


def test_one_that_only_waits_for_the_garbage_collector_is_not_live(trained):
    layer, state, make, _ = trained
    optimizer = make(layer.parameters())
    optimizer.load_state_dict(state)
    optimizer.itself = optimizer
    gc.disable()
    try:
        del optimizer
        layer.release(0)
    finally:
        gc.enable()


def test_a_step_with_state_of_other_counts_is_refused(trained):
    layer, state, make, _ = trained
    layer.claim(0, other_weights(layer))
    optimizer = make(layer.parameters())
    optimizer.load_state_dict(state)
    before = [parameter.detach().clone() for parameter in layer.parameters()]
    with pytest.raises(
        RuntimeError, match=r"step: .* keeps state \[4\] of weights that slot 0 owned .* owns \[8\] now"
    ):
        step(layer, optimizer)
    assert all(map(torch.equal, layer.parameters(), before))
    with pytest.raises(RuntimeError, match=r"claim: .* keeps state \[4\] of weights that slot 0 owned"):
        layer.claim(1, layer.free(), optimizer=optimizer)
    optimizer.state.pop(layer.values[0])
    step(layer, optimizer)


@pytest.mark.parametrize("change", ["claim", "load"])
def test_a_step_after_weights_have_moved_is_refused(trained, change):
    layer, _, make, _ = trained
    optimizer = make(layer.parameters())
    step(layer, optimizer)
    state = saved(optimizer)
    if change == "claim":  # the number of weights stays the same
        forget(optimizer)
        layer.release(0)
        layer.claim(0, other_weights(layer))
    else:
        other = TaskLinear(8, 4, num_slots=2)
        other.claim(0, other_weights(layer))
        other.claim(1, layer.mask(1))
        layer.load_state_dict(other.state_dict())
    before = [parameter.detach().clone() for parameter in layer.parameters()]
    with pytest.raises(RuntimeError, match=r"step: .* keeps state \[4\] of weights that slot 0 owned before claim"):
        step(layer, optimizer)
    assert all(map(torch.equal, layer.parameters(), before))
    if change == "load":
        optimizer.load_state_dict(state)  # whoever loads says that it fits
    else:
        optimizer.state.pop(layer.values[0])
    step(layer, optimizer)
    step(layer, optimizer)


def test_the_same_weights_loaded_again_stop_nothing(trained):
    layer, _, make, _ = trained
    optimizer = make(layer.parameters_of(0))
    state = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    step(layer, optimizer)
    layer.load_state_dict(state)
    step(layer, optimizer)
    layer.release(1)  # of which nothing is kept
    layer.add_slot()
    step(layer, optimizer)


def test_a_forgotten_optimizer_is_live_again_from_its_next_step_on(trained):
    layer, _, make, _ = trained
    optimizer = make(layer.parameters())
    step(layer, optimizer)
    forget(optimizer)
    layer.claim(1, other_weights(layer))
    optimizer.state.pop(layer.values[1])
    step(layer, optimizer)
    with pytest.raises(RuntimeError, match="claim: a live"):
        layer.claim(0, layer.free())
    forget(optimizer)
    forget(optimizer)
    layer.claim(0, layer.free())


def test_lbfgs_goes_on_after_it_was_restored():
    layer = TaskLinear(8, 4, num_slots=1)
    layer.claim(0, torch.eye(4, 8) > 0)
    first, second = (torch.optim.LBFGS(layer.parameters(), max_iter=2) for _ in range(2))

    def loss():
        layer.zero_grad()
        result = layer(X, 0).square().sum()
        result.backward()
        return result

    first.step(loss)
    second.load_state_dict(first.state_dict())
    second.step(loss)
