"""Exactly k, ties to the lower index; gradients that leave the network as it was."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

import rsn2
from rsn2.procedure.score import check_loss, gradients, largest, largest_by_row


@given(st.data())
def test_largest_is_a_stable_sort(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 40))
    numbers = st.sampled_from([-1.0, -0.0, 0.0, 0.5, 0.5000001, 3.0])
    scores = torch.tensor(data.draw(st.lists(numbers, min_size=size, max_size=size)))
    allowed = torch.tensor(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    k = data.draw(st.integers(0, int(allowed.sum())))
    ranked = sorted(allowed.nonzero().flatten().tolist(), key=lambda i: (-float(scores[i]), i))
    assert largest(scores, k, allowed).tolist() == sorted(ranked[:k])


def test_largest_by_row_takes_the_largest_of_each_row_and_then_of_the_rest() -> None:
    scores = torch.tensor([[9, 8, 7, 6], [1, 2, 2, 2], [5, 0, 0, 0.0]])
    allowed = torch.tensor([[True, True, True, True], [True, True, True, True], [True, False, False, False]])
    chosen = largest_by_row(
        scores.flatten(), 7, allowed.flatten(), 3
    )  # two of each row; the last has one; two are left over
    assert chosen.tolist() == [0, 1, 2, 3, 5, 6, 8]
    assert largest_by_row(scores.flatten(), 2, allowed.flatten(), 3).tolist() == [0, 1], (
        "less than one a row: the largest"
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_largest_compares_in_the_dtype_of_the_scores(dtype: torch.dtype) -> None:
    step = torch.finfo(dtype).eps
    scores = torch.tensor([1.0, 1.0 + step, 1.0, 1.0 + 2 * step], dtype=dtype)
    assert largest(scores, 2, torch.ones(4, dtype=torch.bool)).tolist() == [1, 3]


def test_largest_refuses_more_than_there_are() -> None:
    with pytest.raises(ValueError, match="k must be in 0..1, got 2"):
        largest(torch.ones(3), 2, torch.tensor([False, True, False]))


def network() -> rsn2.MultitaskNetwork:
    torch.manual_seed(0)
    net = rsn2.MultitaskNetwork(
        nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 3))
    )
    net.add_task("a", stem=nn.BatchNorm1d(4))
    return net


def test_gradients_are_those_of_a_dense_network_over_all_rows() -> None:
    net = network()
    layers = net.trunk_layers()
    weights = {name: torch.randn(layers[name].weight_shape) for name in ("0", "4")}
    x, y = torch.randn(10, 4), torch.arange(10) % 3
    found = gradients(net, "a", [(x[:5], y[:5]), (x[5:], y[5:])], cross_entropy, weights)
    dense = {name: weight.clone().requires_grad_() for name, weight in weights.items()}
    for half in (slice(0, 5), slice(5, 10)):
        z = nn.functional.batch_norm(x[half], None, None, training=True)
        z = nn.functional.linear(z, dense["0"], layers["0"].bias[0].detach())
        z = nn.functional.batch_norm(z, None, None, training=True).relu()
        (5 * cross_entropy(nn.functional.linear(z, dense["4"], layers["4"].bias[0].detach()), y[half])).backward()
    for name, weight in dense.items():
        torch.testing.assert_close(found[name], weight.grad)


@pytest.mark.parametrize("fails", [False, True])
def test_gradients_leave_no_trace(fails: bool) -> None:
    net = network()
    net.trunk[3].eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    modes = [module.training for module in net.modules()]

    def loss_fn(output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return cross_entropy(output, y) * (float("nan") if fails else 1)

    batches = [(torch.randn(6, 4), torch.arange(6) % 3)]
    weights = {name: torch.randn(layer.weight_shape) for name, (layer, _) in net.task_layers("a").items()}
    if fails:
        with pytest.raises(ValueError, match="the loss must be finite, got nan \\(task 'a', batch 0\\)"):
            gradients(net, "a", batches, loss_fn, weights)
    else:
        gradients(net, "a", batches, loss_fn, weights)
    after = net.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert [module.training for module in net.modules()] == modes
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(layer.probe is None for layer, _ in net.task_layers("a").values())


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (torch.ones(2), r"must be a scalar tensor, got torch.float32 \[2\]"),
        (1.5, "must be a scalar tensor, got float"),
        (torch.tensor(1j), "must be a scalar tensor, got torch.complex64"),
        (torch.tensor(float("inf")), "must be finite, got inf"),
    ],
)
def test_what_is_no_loss(loss: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_loss("fit", loss, "here")
