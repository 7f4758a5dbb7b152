from __future__ import annotations

import pytest
import torch

from rsn2_kernels.nn import TaskConv2d, TaskLinear

OPTIMIZERS = {
    "adam": (lambda p: torch.optim.Adam(p, lr=0.1), ("exp_avg", "exp_avg_sq")),
    "adam_foreach_amsgrad": (
        lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True, foreach=True), ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")),
    "sgd_momentum": (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), ("momentum_buffer",)),
    "rmsprop": (lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.5), ("square_avg", "momentum_buffer")),
}  # fmt: skip


def by_weight(layer, slot, tensor):
    """A tensor in value order as one of the weight's shape."""
    whole = torch.zeros(layer.numel)
    whole[layer.owned(slot)] = tensor.detach()
    return whole


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_state_moves_with_the_weights(name, kind, draw):
    layer = TaskLinear(300, 20, num_slots=2) if kind == "linear" else TaskConv2d(4, 6, 3, num_slots=2)
    x = torch.randn(4, 300) if kind == "linear" else torch.randn(4, 4, 5, 5)
    make, states = OPTIMIZERS[name]
    layer.claim(0, draw(layer, 0.3))
    layer.claim(1, draw(layer, 0.2))
    optimizer = make(layer.parameters())

    def step():
        optimizer.zero_grad()
        layer(x, 0).square().sum().backward()
        optimizer.step()

    step(), step()
    value = layer.values[0]
    before = {state: by_weight(layer, 0, optimizer.state[value][state]) for state in states}
    owned, weights = layer.mask(0).flatten(), by_weight(layer, 0, value)
    extra = draw(layer, 0.1)
    with pytest.raises(
        RuntimeError, match=f"claim: a live {type(optimizer).__name__} keeps state .* pass it as optimizer="
    ):
        layer.claim(0, extra)
    assert torch.equal(layer.mask(0).flatten(), owned)
    layer.claim(0, extra, optimizer=optimizer)
    gone = (torch.rand(layer.numel) < 0.5) & owned
    with pytest.raises(RuntimeError, match="release: a live"):
        layer.release(0, gone.reshape(layer.weight_shape))
    layer.release(0, gone.reshape(layer.weight_shape), optimizer=optimizer)
    stays = owned & ~gone
    assert torch.equal(layer.mask(0).flatten(), stays | extra.flatten())
    assert layer.values[0] is value and torch.equal(by_weight(layer, 0, value)[stays], weights[stays])
    for state in states:
        after = by_weight(layer, 0, optimizer.state[value][state])
        assert torch.equal(after[stays], before[state][stays])
        assert not after[extra.flatten()].any()  # new weights start without a history
    step()
    assert value.isfinite().all()


def test_other_slots_and_optimizers_that_are_gone_do_not_matter(draw):
    layer = TaskLinear(9, 7, num_slots=2)
    layer.claim(0, draw(layer, 0.3))
    layer(torch.randn(2, 9), 0).sum().backward()
    own = torch.optim.Adam(layer.parameters_of(0))
    own.step()
    layer.claim(1, draw(layer, 0.3))  # it keeps no state of slot 1
    with pytest.raises(RuntimeError, match="a live Adam"):
        layer.release(0)
    del own
    layer.release(0)


def test_an_optimizer_made_before_any_claim_trains_what_is_claimed_later(draw):
    layer = TaskLinear(9, 7, num_slots=2)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    layer.claim(1, draw(layer, 0.3))
    before = layer.to_dense(1).weight.clone()
    layer(torch.randn(2, 9), 1).sum().backward()
    optimizer.step()
    after = layer.to_dense(1).weight
    assert torch.equal(after != before, layer.mask(1))


def test_state_that_is_not_one_number_per_weight_is_refused(draw):
    layer = TaskLinear(9, 7, num_slots=2)
    layer.claim(0, draw(layer, 0.3))
    x = torch.randn(2, 9)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=2)

    def loss():
        optimizer.zero_grad()
        result = layer(x, 0).square().sum()
        result.backward()
        return result

    optimizer.step(loss)
    for given in (None, optimizer):
        with pytest.raises(RuntimeError, match="claim: a live LBFGS holds this slot's values"):
            layer.claim(1, draw(layer, 0.1), optimizer=given)

    layer = TaskLinear(9, 7, num_slots=2)
    layer.claim(0, draw(layer, 0.3))
    adam = torch.optim.Adam(layer.parameters())
    layer(x, 0).sum().backward()
    adam.step()
    adam.state[layer.values[0]]["history"] = [torch.zeros(3)]
    with pytest.raises(RuntimeError, match="Adam keeps 'history', which is not one number per weight"):
        layer.release(0, optimizer=adam)


def test_a_step_between_forward_and_backward_is_refused():
    layer = TaskLinear(4, 3, num_slots=1)
    layer.claim(0, torch.ones(3, 4, dtype=torch.bool))
    y = layer(torch.randn(2, 4, requires_grad=True), 0)
    with torch.no_grad():
        layer.values[0].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
