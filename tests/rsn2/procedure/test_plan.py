"""Who may claim how much; what is wrong is said before anything is changed."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import rsn2
from rsn2.procedure.plan import make_plan
from rsn2.procedure.score import Scored
from rsn2_kernels.formats import num_kept
from rsn2_kernels.testing import seeded


def data(seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    x = torch.randn(12, 6, generator=seeded(seed))
    return [(x[:6], torch.arange(6) % 2), (x[6:], torch.arange(6) % 2)]


def network(*tasks: str, share: dict[str, dict[str, str]] | None = None) -> rsn2.MultitaskNetwork:
    torch.manual_seed(3)
    net = rsn2.MultitaskNetwork(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5)))
    for task in tasks:
        net.add_task(task, head=nn.Linear(5, 2), share=(share or {}).get(task))
    return net


def test_equal_share_is_exact() -> None:
    assert rsn2.equal_share(3) == Fraction(1, 3)
    assert num_kept(rsn2.equal_share(3), 999) == 333 and num_kept(rsn2.equal_share(49), 49) == 1
    for wrong in (0, -1, True, 2.0):
        with pytest.raises(ValueError, match="num_tasks must be an int of at least 1"):
            rsn2.equal_share(wrong)


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        (0.5, {"a": (24, 20), "b": (24, 20)}),
        ({"a": 0.25, "b": "0.5"}, {"a": (12, 10), "b": (24, 20)}),
        ({"0": Fraction(1, 4), "*": 0.5}, {"a": (12, 20), "b": (12, 20)}),
        ({"a": {"0": 0.5, "2": 0.25}, "b": 0.125}, {"a": (24, 10), "b": (6, 5)}),
        (lambda task, name, layer: 0.5 if task == "a" else 10 / layer.numel, {"a": (24, 20), "b": (10, 10)}),
    ],
    ids=["one", "by_task", "by_layer", "by_both", "function"],
)
def test_ways_to_say_what_to_keep(keep: Any, expected: dict[str, tuple[int, int]]) -> None:
    net = network("a", "b")
    report = rsn2.claim(net, ["a", "b"], {"a": data(1), "b": data(2)}, cross_entropy, keep)
    assert {task: tuple(counts.values()) for task, counts in report.claimed.items()} == expected


def nan_in_the_second_task(scored: Scored) -> Tensor:
    score = scored.gradient.abs()
    if not bool((scored.weight != 0).all()):  # the first task's weights are deactivated
        score.view(-1)[3] = float("nan")
    return score


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"keep": 0.6}, rsn2.CapacityError, "layer 0 has 48 of 48 weights left, but 56 are wanted for 'a', 'b'"),
        ({"keep": {"2": 0.7, "*": 0.1}}, rsn2.CapacityError, "layer 2 has 40 of 40"),
        ({"keep": 0.6, "scope": "global"}, rsn2.CapacityError, "52 weights are wanted, but 36 are left in layers 0, 2"),
        ({"keep": 0.0}, ValueError, r"task 'a', layer 0: keep must lie in \(0, 1\]"),
        ({"keep": 1.5}, ValueError, r"keep must lie in \(0, 1\]"),
        ({"keep": 0.001}, ValueError, "keep must be at least 1/48"),
        ({"keep": {"0": 0.1}}, ValueError, "keep says nothing of layer 2 of task 'a'"),
        ({"keep": {"x": 0.1, "*": 0.1}}, ValueError, "'x', which is neither a task nor a pattern of a layer"),
        ({"score": nan_in_the_second_task}, ValueError, "1 of 48 are not in layer 0 for task 'b'"),
        ({"score": lambda s: s.gradient[0]}, ValueError, r"must be float \[8, 6\], got torch.float32 \[6\]"),
        ({"score": "best"}, ValueError, "score must be a function or one of gradient, magnitude"),
        ({"mode": "x"}, ValueError, "mode must be one of sequential, preallocate"),
        ({"scope": "x"}, ValueError, "scope must be one of tensor, row, global"),
        ({"scope": {"0": "global"}}, ValueError, "scope must give 'tensor' or 'row' for each pattern"),
        ({"start": "x"}, ValueError, "start must be one of base, rescaled, per_task"),
        ({"tasks": ["a", "x"]}, KeyError, "unknown task 'x'; there are 'a', 'b'"),
        ({"tasks": ["a", "a"]}, ValueError, "different names"),
        ({"tasks": []}, ValueError, "different names"),
        ({"batches": data()}, ValueError, "with several tasks batches must be a dict"),
        ({"batches": {"a": data()}}, ValueError, r"must have the keys \['a', 'b'\], got \['a'\]"),
        ({"batches": {"a": data(), "b": []}}, ValueError, "the batches of task 'b' are empty"),
        ({"loss_fn": lambda output, y: output}, ValueError, r"must be a scalar tensor, got torch.float32 \[6, 2\]"),
        ({"loss_fn": lambda output, y: output.sum() * float("inf")}, ValueError, "must be finite"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_and_changes_nothing(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    net = network("a", "b")
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    arguments: dict[str, Any] = {
        "tasks": ["a", "b"],
        "batches": {"a": data(1), "b": data(2)},
        "loss_fn": cross_entropy,
        "keep": 0.2,
        **change,
    }
    with pytest.raises(error, match=message):
        rsn2.claim(net, **arguments)
    after = net.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)
    assert all(layer.probe is None for layer, _ in net.task_layers("a").values())


def test_who_cannot_claim() -> None:
    net = network("a", "b")
    rsn2.claim(net, "a", data(), cross_entropy, 0.2)
    with pytest.raises(ValueError, match="task 'a' owns weights of layer 0 already; release them first"):
        rsn2.claim(net, "a", data(), cross_entropy, 0.2)
    net.freeze("b")
    with pytest.raises(ValueError, match="task 'b' is finished; thaw it first"):
        rsn2.claim(net, "b", data(), cross_entropy, 0.2)
    net.closed = "it was sold"
    with pytest.raises(RuntimeError, match="it was sold"):
        rsn2.claim(net, "b", data(), cross_entropy, 0.2)
    sharers = network("a", "b", share={"b": {"0": "a"}})
    with pytest.raises(
        ValueError, match="tasks 'a' and 'b' share a slot of layer 0, but keep gives it 9 and 14 weights"
    ):
        rsn2.claim(sharers, ["a", "b"], {"a": data(), "b": data()}, cross_entropy, {"a": 0.2, "b": 0.3})


def test_a_key_that_is_a_task_and_a_layer_is_refused():
    net = rsn2.MultitaskNetwork(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)))
    net.add_task("0")
    with pytest.raises(ValueError, match="keep has '0', which is a task and a layer, among .'0', '2'."):
        make_plan(net, ["0"], {"0": 0.1, "2": 0.2})
    assert set(make_plan(net, ["0"], {"0": {"0": 0.25, "2": 0.5}}).num_kept.values()) == {4}


@pytest.mark.parametrize("argument", ["scope", "granularity"])
def test_patterns_must_match_a_layer(argument):
    net = rsn2.MultitaskNetwork(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)))
    net.add_task("a")
    given = {"scope": {"output": "row"}, "granularity": {"output": (1, 2)}}[argument]
    with pytest.raises(ValueError, match=f"claim: {argument} pattern 'output' matches no layer; there are 0, 2"):
        rsn2.claim(net, "a", [], cross_entropy, 0.5, **{argument: given})
