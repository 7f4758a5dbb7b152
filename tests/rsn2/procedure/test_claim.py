"""Algorithm 1, lines 2-6: exact counts, disjoint masks, and nothing changed when something is wrong."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.nn.functional import cross_entropy, mse_loss

import rsn2
from rsn2.procedure.score import Scored
from rsn2_kernels.formats import StoredBase, num_kept
from rsn2_kernels.testing import seeded

Data = list[tuple[Tensor, Tensor]]


def data(seed: int = 0, rows: int = 12) -> Data:
    generator = seeded(seed)
    x = torch.randn(rows, 6, generator=generator)
    return [(x[: rows // 2], torch.arange(rows // 2) % 2), (x[rows // 2 :], torch.arange(rows // 2) % 2)]


def network(*tasks: str, share: dict[str, dict[str, str]] | None = None, **how: Any) -> rsn2.MultitaskNetwork:
    torch.manual_seed(3)
    net = rsn2.MultitaskNetwork(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5)))
    for task in tasks:
        net.add_task(task, head=nn.Linear(5, 2), share=(share or {}).get(task), **how)
    return net


def owned(net: rsn2.MultitaskNetwork, task: str) -> dict[str, list[int]]:
    return {name: layer.owned(slot).sort().values.tolist() for name, (layer, slot) in net.task_layers(task).items()}


def dense_gradients(
    net: rsn2.MultitaskNetwork, task: str, weights: dict[str, Tensor], batches: Data
) -> dict[str, Tensor]:
    """Plain autograd through the same network, written out."""
    weights = {name: weight.detach().clone().requires_grad_() for name, weight in weights.items()}
    number = net.task_number(task)
    biases = {name: layer.flat_bias[net.slot_of(task, name)] for name, layer in net.trunk_layers().items()}
    for x, y in batches:
        z = nn.functional.linear(x, weights["0"], biases["0"]).relu()
        z = net.heads[number](nn.functional.linear(z, weights["2"], biases["2"]))
        (len(y) * cross_entropy(z, y)).backward()
    return {name: weight.grad for name, weight in weights.items()}


def base(net: rsn2.MultitaskNetwork) -> dict[str, Tensor]:
    return {name: layer.base_weight.clone() for name, layer in net.trunk_layers().items()}


def expected_masks(scores: dict[str, Tensor], free: dict[str, Tensor], keep: str) -> dict[str, list[int]]:
    found = {}
    for name, score in scores.items():
        candidates = score.flatten().masked_fill(~free[name].flatten(), -1).tolist()
        ranked = sorted(range(len(candidates)), key=lambda i: (-candidates[i], i))  # noqa: B023
        found[name] = sorted(ranked[: num_kept(keep, len(candidates))])
    return found


@pytest.mark.parametrize("mode", ["sequential", "preallocate"])
def test_the_largest_gradients_of_free_weights_are_claimed(mode: str) -> None:
    net = network("a", "b", "c")
    batches = {task: data(seed) for seed, task in enumerate(net.tasks)}
    start = base(net)
    report = rsn2.claim(net, ["a", "b", "c"], batches, cross_entropy, "0.3", mode=mode)
    free = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in start.items()}
    for task in net.tasks:
        active = {name: weight * free[name] if mode == "sequential" else weight for name, weight in start.items()}
        scores = {name: grad.abs() for name, grad in dense_gradients(net, task, active, batches[task]).items()}
        assert owned(net, task) == expected_masks(scores, free, "0.3")
        for name, places in owned(net, task).items():
            free[name].view(-1)[places] = False
            layer, slot = net.task_layers(task)[name]
            assert torch.equal(layer.values[slot], start[name].flatten()[layer.owned(slot)])
    assert report.claimed == {task: {"0": 14, "2": 12} for task in net.tasks}
    assert report.free == {"0": 48 - 42, "2": 40 - 36}


def test_one_after_another_is_the_same_as_all_in_one_call() -> None:
    together, apart = network("a", "b"), network("a", "b")
    batches = {"a": data(1), "b": data(2)}
    rsn2.claim(together, ["a", "b"], batches, cross_entropy, 0.3)
    for task in ("a", "b"):
        rsn2.claim(apart, task, batches[task], cross_entropy, 0.3)
    for task in ("a", "b"):
        assert owned(together, task) == owned(apart, task)


def test_a_shared_slot_is_scored_by_the_sum_over_its_tasks() -> None:
    net = network("a", "b", share={"b": {"0": "a"}})
    batches = {"a": data(1), "b": data(2)}
    start = base(net)
    report = rsn2.claim(net, ["a", "b"], batches, cross_entropy, 0.3)
    free = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in start.items()}
    a, b = (dense_gradients(net, task, start, batches[task]) for task in ("a", "b"))
    shared = {"0": (a["0"] + b["0"]).abs(), "2": a["2"].abs()}
    assert owned(net, "a") == expected_masks(shared, free, "0.3")
    # The other layer's weights of the second task: the first one's are deactivated, but not what both of them use.
    free["2"].view(-1)[owned(net, "a")["2"]] = False
    b = dense_gradients(net, "b", {"0": start["0"], "2": start["2"] * free["2"]}, batches["b"])
    assert owned(net, "b")["2"] == expected_masks({"2": b["2"].abs()}, free, "0.3")["2"]
    assert owned(net, "b")["0"] == owned(net, "a")["0"]
    assert report.claimed == {"a": {"0": 14, "2": 12}, "b": {"2": 12}}


def test_a_slot_that_a_finished_task_shares_is_left_as_it_is() -> None:
    net = network("a", "b", share={"b": {"0": "a"}})
    rsn2.claim(net, "a", data(1), cross_entropy, 0.3)
    with torch.no_grad():
        net.task_layers("a")["0"][0].values[0].mul_(1.5)
    net.freeze("a")
    before = net.trunk_layers()["0"].flat_values.clone(), owned(net, "a")
    report = rsn2.claim(net, "b", data(2), cross_entropy, 0.3)
    assert report.claimed == {"b": {"2": 12}}
    assert torch.equal(net.trunk_layers()["0"].flat_values, before[0]) and owned(net, "a") == before[1]
    # It was scored with the weights that it shares, not with base weights.
    trained = net.trunk_layers()["0"].to_dense(0).weight
    start = base(net)["2"].clone()
    start.view(-1)[owned(net, "a")["2"]] = 0
    free = {"2": start != 0}
    b = dense_gradients(net, "b", {"0": trained, "2": start}, data(2))
    assert owned(net, "b")["2"] == expected_masks({"2": b["2"].abs()}, free, "0.3")["2"]


@pytest.mark.parametrize(
    ("size", "shape"),
    [(288, (3, 96)), (65_536, (256, 256)), pytest.param(11_075_584, (256, 43_264), marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("scores", ["all_equal", "all_zero", "few_values"])
def test_exact_counts_when_all_is_given_away(size: int, shape: tuple[int, int], scores: str) -> None:
    """Five tasks with a fifth each, where thresholds would give the last one everything that ties."""
    functions: dict[str, Callable[[Scored], Tensor]] = {
        "all_equal": lambda scored: torch.ones_like(scored.weight),
        "all_zero": lambda scored: torch.zeros_like(scored.weight),
        "few_values": lambda scored: (
            torch.arange(scored.weight.numel()).remainder(7).float().reshape(scored.weight.shape)
        ),
    }
    tasks = [f"task{number}" for number in range(5)]
    net = rsn2.MultitaskNetwork(nn.Sequential(nn.Linear(shape[1], shape[0], bias=False)))
    for task in tasks:
        net.add_task(task)
    layer = net.trunk_layers()["0"]
    batches = dict.fromkeys(tasks, [(torch.ones(1, shape[1]), torch.zeros(1, shape[0]))])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rsn2.claim(net, tasks, batches, mse_loss, rsn2.equal_share(5), score=functions[scores])
    assert [str(w.message).startswith("claim: all scores are zero in layer 0") for w in caught] == (
        [True] * 5 if scores == "all_zero" else []
    )
    counts = [layer.values[slot].numel() for slot in range(5)]
    assert counts == [size // 5] * 5
    taken = torch.zeros(size, dtype=torch.int64)
    for slot in range(5):
        taken[layer.owned(slot)] += 1
    assert int(taken.max()) == 1 and int(taken.sum()) == size // 5 * 5
    if scores != "few_values":
        assert torch.equal(layer.owned(0).sort().values, torch.arange(size // 5)), "ties go to the lower index"


@pytest.mark.parametrize("score", ["gradient", "magnitude", "gradient_x_weight", "random"])
def test_scores_by_name(score: str) -> None:
    net, again = network("a"), network("a")
    for network_ in (net, again):
        rsn2.claim(network_, "a", data(), cross_entropy, 0.25, score=score, seed=5)
    assert owned(net, "a") == owned(again, "a")
    start = base(net)
    gradients = dense_gradients(net, "a", start, data())
    if score != "random":
        scores = {"gradient": gradients, "magnitude": start}.get(score) or {n: gradients[n] * start[n] for n in start}
        free = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in start.items()}
        assert owned(net, "a") == expected_masks({n: s.abs() for n, s in scores.items()}, free, "0.25")
    else:
        other = network("a")
        rsn2.claim(other, "a", data(), cross_entropy, 0.25, score=score, seed=6)
        assert owned(net, "a") != owned(other, "a")


def test_global_scope_takes_the_largest_of_all_layers() -> None:
    net = network("a")
    rsn2.claim(net, "a", data(), cross_entropy, 0.25, scope="global")
    scores = dense_gradients(net, "a", base(net), data())
    ranked = sorted((-float(s), name, i) for name, t in scores.items() for i, s in enumerate(t.abs().flatten()))
    expected: dict[str, list[int]] = {"0": [], "2": []}
    for _, name, place in ranked[: 12 + 10]:
        expected[name].append(place)
    assert owned(net, "a") == {name: sorted(places) for name, places in expected.items()}


@pytest.mark.parametrize("scope", ["row", {"2": "row"}, {"*": "row"}], ids=str)
def test_row_scope_gives_every_output_unit_its_share(scope: str | dict[str, str]) -> None:
    def prefers_the_first_unit(scored: Scored) -> Tensor:
        return torch.arange(scored.weight.numel(), 0, -1).float().reshape(scored.weight.shape)

    net = network("a", "b")
    rsn2.claim(
        net, ["a", "b"], {"a": data(), "b": data()}, cross_entropy, 0.45, scope=scope, score=prefers_the_first_unit
    )
    for name, layer in net.trunk_layers().items():
        by_row = scope == "row" or name in scope or "*" in scope
        for slot in (0, 1):
            kept = layer.mask(slot).sum(1)
            k = num_kept("0.45", layer.numel)
            assert int(kept.sum()) == k
            if slot == 0:  # b finds rows in which a has left less than its share
                assert int(kept.min()) == (k // len(kept) if by_row else 0)
    assert not bool((layer.mask(0) & layer.mask(1)).any())


def test_global_scope_must_leave_something_to_every_layer() -> None:
    def only_the_first(scored: Scored) -> Tensor:
        return torch.ones_like(scored.weight) * (scored.layer_name == "0")

    net = network("a")
    with (
        pytest.warns(UserWarning, match="all scores are zero in layer 2"),
        pytest.raises(ValueError, match="leaves nothing to layer 2"),
    ):
        rsn2.claim(net, "a", data(), cross_entropy, 0.25, scope="global", score=only_the_first)
    assert owned(net, "a") == {"0": [], "2": []}


def test_where_values_start() -> None:
    values, layers = {}, {}
    for start in ("base", "rescaled", "per_task"):
        net = network("a", "b")
        rsn2.claim(net, ["a", "b"], {"a": data(1), "b": data(1)}, cross_entropy, 0.25, start=start, seed=7)
        layers[start] = net.trunk_layers()["0"]
        values[start] = [layers[start].values[slot].detach().clone() for slot in (0, 1)]
    layer = layers["rescaled"]
    for slot in (0, 1):
        kept = layer.mask(slot).sum(1)  # inputs of each output unit, of six
        gains = (6 / kept.double()).sqrt()[layer.owned(slot) // 6].float()
        torch.testing.assert_close(values["rescaled"][slot], values["base"][slot] * gains)
    base_values = base(net)["0"].flatten()
    assert all(bool((base_values == value).any()) for value in values["per_task"][0]), "drawn out of the base weights"
    assert not torch.equal(values["per_task"][0], values["base"][0])


def test_values_drawn_per_task_are_those_that_were_scored() -> None:
    net = network("a", "b")
    rsn2.claim(net, ["a", "b"], {"a": data(1), "b": data(1)}, cross_entropy, 0.25, start="per_task", score="magnitude",
               mode="preallocate")  # fmt: skip
    layer = net.trunk_layers()["0"]
    largest = base(net)["0"].abs().max()  # what is drawn comes out of the base weights, several times over
    for values in (parameter.detach() for parameter in layer.values):
        assert float(values.abs().max()) == float(largest)
        assert float(values.abs().min()) > float(base(net)["0"].abs().median())


def test_values_drawn_per_task_have_the_distribution_of_a_seeded_base() -> None:
    from rsn2_kernels.formats import SeededBase
    from rsn2_kernels.nn import TaskLinear

    net = rsn2.MultitaskNetwork(nn.Sequential(TaskLinear(100, 100, num_slots=0, base=SeededBase(1, "normal", 0.05))))
    for task in ("a", "b"):
        net.add_task(task)
        rsn2.claim(net, task, [(torch.randn(2, 100), torch.zeros(2, 100))], mse_loss, 0.5, start="per_task")
    first, second = (value.detach() for value in net.trunk_layers()["0"].values)
    assert 0.045 < float(first.std()) < 0.055 and 0.045 < float(second.std()) < 0.055
    assert not torch.equal(first, second)


def test_heads_and_stems_that_are_not_pruned_are_not_claimed() -> None:
    net = network("a", prune_head=True)
    assert list(rsn2.claim(net, "a", data(), cross_entropy, 0.2).claimed["a"]) == ["0", "2", "heads.a.0"]


def test_no_dense_memory_is_left() -> None:
    net = rsn2.MultitaskNetwork(nn.Sequential(nn.Linear(40, 50)))
    net.add_task("a")
    rsn2.claim(net, "a", [(torch.randn(3, 40), torch.zeros(3, 50))], mse_loss, 0.01)
    layer = net.trunk_layers()["0"]
    large = [name for name, value in vars(layer).items() if isinstance(value, Tensor) and value.numel() >= layer.numel]
    large += [name for name, buffer in layer.named_buffers() if buffer.numel() >= layer.numel]
    assert large == ["base_weight"] and isinstance(layer.base, StoredBase) and layer.probe is None
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize(
    ("batches", "loss_fn", "error", "message"),
    [
        (data()[0], cross_entropy, ValueError, r"claim: batches of task 'a' must be \(x, y\), got Tensor"),
        ([(data()[0][0], torch.full((6,), 2))], cross_entropy, ValueError, "claim: labels must be in 0..1, since"),
        ([(*data()[0], 1)], cross_entropy, ValueError, r"claim: batches of task 'a' must be \(x, y\), got tuple"),
        (data(), "cross_entropy", TypeError, "claim: loss_fn of task 'a' must be a function .*, got 'cross_entropy'"),
        (data(), {"a": None}, TypeError, "claim: loss_fn of task 'a' must be a function .*, got None"),
    ],
    ids=["one_batch", "labels", "three_parts", "name_of_a_loss", "no_loss"],
)
def test_batches_and_losses_of_another_kind(batches: Any, loss_fn: Any, error: type[Exception], message: str) -> None:
    net = network("a")
    with pytest.raises(error, match=message):
        rsn2.claim(net, "a", batches, loss_fn, 0.1)
    assert not any(owned(net, "a").values())


def test_a_claim_that_fails_half_way_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network("a")
    layer = net.trunk_layers()["2"]

    def refuse(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(layer, "claim_places", refuse)
    with pytest.raises(RuntimeError, match="no"):
        rsn2.claim(net, "a", data(), cross_entropy, 0.2)
    assert owned(net, "a") == {"0": [], "2": []}


@pytest.mark.parametrize("mode", ["sequential", "preallocate"])
def test_a_score_that_writes_to_its_weight_leaves_the_base_alone(mode: str) -> None:
    net = network("a")
    before = base(net)
    rsn2.claim(net, "a", data(), cross_entropy, 0.5, mode=mode, score=lambda scored: scored.weight.abs_())
    assert all(torch.equal(weight, before[name]) for name, weight in base(net).items())


@pytest.mark.parametrize("way", ["trunk", "network"])
def test_a_compiled_network_computes_what_is_scored_without_compiling(way):
    nets = [network("a"), network("a")]
    counts = CompileCounter()
    if way == "trunk":
        nets[1].trunk = torch.compile(nets[1].trunk, backend=counts)
    else:
        nets[1].compile(backend=counts)
    for net in nets:
        rsn2.claim(net, "a", data(), cross_entropy, 0.25)
    assert counts.frame_count == 0 and owned(nets[0], "a") == owned(nets[1], "a")
    nets[1](data()[0][0], task="a")
    assert counts.frame_count > 0


def test_the_compiler_is_not_imported_for_a_claim() -> None:
    """It takes a second, more than most claims."""
    program = (
        "import sys, torch, rsn2\n"
        "net = rsn2.MultitaskNetwork(torch.nn.Linear(6, 2))\n"
        "net.add_task('a')\n"
        "batch = torch.zeros(2, 6), torch.zeros(2, dtype=torch.int64)\n"
        "rsn2.claim(net, 'a', [batch], torch.nn.functional.cross_entropy, 0.5)\n"
        "sys.exit('torch._dynamo' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
