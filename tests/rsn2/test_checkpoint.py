"""Networks in files: the same network comes back, whole or in part, and foreign files are refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import rsn2
from rsn2_kernels.nn import TaskLinear
from rsn2_kernels.testing import seeded


def data(width: int = 6) -> list[tuple[Tensor, Tensor]]:
    generator = seeded(1)
    return [(torch.randn(10, width, generator=generator), torch.arange(10) % 2)]


def trunk() -> nn.Sequential:
    features = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Unflatten(1, (1, 4, 4)))
    rest = nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(48, 8, bias=False)
    )
    return nn.Sequential(features, rest)


def load(path: Path, *args: Any, **options: Any) -> rsn2.MultitaskNetwork:
    return rsn2.load(path, *args, device=torch.get_default_device(), **options)


def network(base: nn.Module | None = None) -> rsn2.MultitaskNetwork:
    """Tasks a (finished, pruned head), b (stem, shares a layer with a), c (not claimed yet)."""
    torch.manual_seed(3)
    net = rsn2.MultitaskNetwork(trunk() if base is None else base)
    layers = list(net.trunk_layers())
    net.add_task("a", head=nn.Linear(8, 2), prune_head=True)
    net.add_task(
        "b", stem=nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6)), head=nn.Linear(8, 2), share={layers[2]: "a"}
    )
    net.add_task("c", head=nn.Sequential(nn.Dropout(0.3), nn.Linear(8, 5)))
    widths = {"a": 6, "b": 3}
    for task in ("a", "b"):
        rsn2.claim(net, task, data(widths[task]), cross_entropy, 0.25)
        if task == "a":
            rsn2.fit(net, "a", data(), data(), cross_entropy, max_epochs=1, progress=False)
    return net.eval()


def same_state(one: nn.Module, two: nn.Module) -> bool:
    first, second = one.state_dict(), two.state_dict()
    return list(first) == list(second) and all(
        torch.equal(first[key], second[key]) and first[key].dtype == second[key].dtype for key in first
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_same_network_comes_back(tmp_path: Path, dtype: torch.dtype) -> None:
    net = network().to(dtype)
    random = torch.get_rng_state()
    net.save(tmp_path / "net.safetensors")
    loaded = load(tmp_path / "net.safetensors").eval()
    assert torch.equal(torch.get_rng_state(), random)
    assert same_state(net, loaded)
    assert loaded.tasks == net.tasks and loaded.owned_weights() == net.owned_weights() and loaded.closed == ""
    assert [loaded.is_finished(task) for task in loaded.tasks] == [True, False, False]
    x, z = torch.randn(4, 6, dtype=dtype), torch.randn(4, 3, dtype=dtype)
    for task, value in {"a": x, "b": z, "c": x}.items():
        assert torch.equal(loaded(value, task=task), net(value, task=task))
    assert {p.requires_grad for p in loaded.parameters_of("a")} == {False}
    assert {p.requires_grad for p in loaded.parameters_of("b")} == {True}
    loaded.thaw("a")
    assert {p.requires_grad for p in loaded.parameters_of("a")} == {True}


@pytest.mark.parametrize("base", ["stored", "seeded"])
def test_claims_after_loading_are_the_claims_without(tmp_path: Path, base: str) -> None:
    inner = None
    if base == "seeded":
        torch.manual_seed(8)
        inner = nn.Sequential(*[TaskLinear(*size, num_slots=0) for size in ((6, 16), (16, 9), (9, 8))])
    net = network(inner)
    net.save(tmp_path / "net")
    loaded = load(tmp_path / "net")
    for one in (net, loaded):
        rsn2.claim(one, "c", data(), cross_entropy, 0.25, start="per_task")
        torch.manual_seed(0)
        one.add_task("d", head=nn.Linear(8, 2))
        rsn2.claim(one, "d", data(), cross_entropy, 0.25, start="rescaled")
    assert same_state(net, loaded)


@pytest.mark.parametrize("tasks", [["b"], ["a"], ["b", "c"], ["c", "a"]], ids="+".join)
def test_some_tasks(tmp_path: Path, tasks: list[str]) -> None:
    net = network()
    net.save(tmp_path / "net")
    part = load(tmp_path / "net", tasks=tasks).eval()
    assert part.tasks == sorted(tasks)
    values = {"a": torch.randn(4, 6), "b": torch.randn(4, 3), "c": torch.randn(4, 6)}
    expected = net(values)
    for task, y in part({task: values[task] for task in tasks}).items():
        assert torch.equal(y, expected[task])
        assert part.is_finished(task) == net.is_finished(task)
    assert part.owned_weights() == {
        layer: {task: count for task, count in counts.items() if task in tasks}
        for layer, counts in net.owned_weights().items()
        if set(counts) & set(tasks)
    }
    for attempt in (lambda: part.add_task("x"), lambda: rsn2.claim(part, tasks, {}, cross_entropy, 0.1)):
        with pytest.raises(RuntimeError, match="only some of the tasks of .* were loaded"):
            attempt()


def test_some_tasks_read_only_their_own_bytes(tmp_path: Path) -> None:
    """Values of the others are overwritten in the file by NaN, and their positions by words that mean nothing."""
    net = network()
    path = tmp_path / "net"
    net.save(path)
    values = torch.randn(4, 3)
    expected = net(values, task="b")
    raw = bytearray(path.read_bytes())
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + size])
    for name, layer in net.trunk_layers().items():
        if not hasattr(layer, "positions"):
            continue
        others = [slot for slot in range(layer.num_slots) if slot != net.slot_of("b", name)]
        starts = layer.positions[5 + layer.num_slots : 6 + 2 * layer.num_slots].tolist()
        words = layer.positions[4 : 5 + layer.num_slots].tolist()
        for slot in others:
            for tensor, (first, last), junk in (
                ("values", (starts[slot], starts[slot + 1]), struct.pack("<f", float("nan"))),
                ("positions", (words[slot], words[slot + 1]), b"\xff" * 8),
            ):
                place = 8 + size + header[f"trunk.{name}.{tensor}"]["data_offsets"][0]
                raw[place + first * len(junk) : place + last * len(junk)] = junk * (last - first)
    path.write_bytes(raw)
    assert torch.equal(load(path, tasks=["b"]).eval()(values, task="b"), expected)
    with pytest.raises(ValueError, match="does not fit"):
        load(path)


def test_a_closed_file_has_no_base_weights(tmp_path: Path) -> None:
    net = network()
    net.save(tmp_path / "open")
    net.save(tmp_path / "closed", closed=True)
    assert net.closed == ""
    with safe_open(tmp_path / "closed", framework="pt") as file:
        assert not [key for key in file.keys() if "base_weight" in key and "norm" not in key and ".1." not in key]  # noqa: SIM118
    assert (tmp_path / "closed").stat().st_size < (tmp_path / "open").stat().st_size
    loaded = load(tmp_path / "closed").eval()
    x = torch.randn(4, 6)
    assert torch.equal(loaded(x, task="a"), net(x, task="a"))
    with pytest.raises(RuntimeError, match="takes no more tasks: it was saved closed"):
        loaded.add_task("x")
    loaded.save(tmp_path / "again")
    assert load(tmp_path / "again").closed == loaded.closed


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)
        self.dense = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x) + self.dense(x)


class Double(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def test_other_modules_are_brought_along(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = rsn2.MultitaskNetwork(Residual(), where=lambda name, module: name == "inner")
    net.add_task("a", stem=Double(), head=nn.Linear(6, 2))
    rsn2.claim(net, "a", data(), cross_entropy, 0.25)
    path = tmp_path / "net"
    net.save(path)
    for missing, arguments in (("trunk=", {}), ("stems={'a'", {"trunk": Residual})):
        with pytest.raises(ValueError, match=f"does not say how to build this part.*pass {missing}"):
            load(path, **arguments)
    x = torch.randn(3, 6)
    for trunk_argument in (Residual, Residual()):
        loaded = load(path, trunk=trunk_argument, stems={"a": Double()})
        assert torch.equal(loaded(x, task="a"), net(x, task="a"))
    with pytest.raises(ValueError, match="has the layers inner, the trunk"):
        load(path, trunk=nn.Sequential(TaskLinear(6, 6, num_slots=0)), stems={"a": Double()})
    with pytest.raises(ValueError, match="has the layers inner, and the trunk none of them"):
        load(path, trunk=nn.Sequential(nn.Linear(6, 6)), stems={"a": Double()})
    with pytest.raises(ValueError, match="must not have slots yet"):
        load(path, trunk=nn.Sequential(TaskLinear(6, 6, num_slots=1)), stems={"a": Double()})
    with pytest.raises(ValueError, match="does not fit the modules"):
        load(path, trunk=Residual, stems={"a": Double()}, heads={"a": nn.Linear(5, 2)})


def test_a_compiled_trunk_is_saved_like_any_other(tmp_path: Path) -> None:
    net = network()
    net.save(tmp_path / "plain")
    net.trunk = torch.compile(net.trunk, backend="eager")
    net.save(tmp_path / "compiled")
    assert same_state(load(tmp_path / "plain"), load(tmp_path / "compiled"))


def test_a_network_without_tasks(tmp_path: Path) -> None:
    net = rsn2.MultitaskNetwork(nn.Sequential(nn.Linear(6, 2)))
    net.save(tmp_path / "net")
    loaded = load(tmp_path / "net")
    for one in (net, loaded):
        one.add_task("a")
        rsn2.claim(one, "a", data(), cross_entropy, 0.5)
    assert same_state(net, loaded)


@pytest.mark.parametrize("broken", ["truncated", "text", "empty", "foreign", "folder", "missing"])
def test_files_that_are_none_of_ours(tmp_path: Path, broken: str) -> None:
    path = tmp_path / "net"
    network().save(path)
    whole = path.read_bytes()
    error: type[Exception] = ValueError
    message = f"load: {path} is damaged or no safetensors file"
    if broken == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif broken == "text":
        path.write_text("some text, long enough to be mistaken for a header")
    elif broken == "empty":
        path.write_bytes(b"")
    elif broken == "foreign":
        save_file({"weight": torch.zeros(2)}, path, metadata={"format": "pt"})
        message = f"load: {path} must be a file of net.save, format 'rsn2 network, version 1', but its format is 'pt'"
    else:
        path.unlink()
        error, message = FileNotFoundError, f"load: there is no file {path}"
        if broken == "folder":
            path.mkdir()
    with pytest.raises(error, match=message):
        load(path)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [(["a", "x"], "unknown task 'x'"), ("a", "tasks must be a list"), ([], "tasks must be a list")],
)
def test_tasks_that_are_not_there(tmp_path: Path, tasks: Any, message: str) -> None:
    network().save(tmp_path / "net")
    with pytest.raises((KeyError, ValueError), match=message):
        load(tmp_path / "net", tasks=tasks)


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    net = network()
    net.save(tmp_path / "net")
    before = (tmp_path / "net").read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="save: could not write .*No space left"):
        net.save(tmp_path / "net", closed=True)
    assert (tmp_path / "net").read_bytes() == before and [f.name for f in tmp_path.iterdir()] == ["net"]
    with pytest.raises(OSError, match="save: could not write .*missing"):
        net.save(tmp_path / "missing" / "net")


def test_a_module_that_stands_twice(tmp_path: Path) -> None:
    act = nn.Tanh()
    torch.manual_seed(3)
    net = rsn2.MultitaskNetwork(nn.Sequential(nn.Linear(6, 16), act, nn.Linear(16, 4), act))
    net.add_task("a", head=nn.Sequential(nn.Linear(4, 2), act, nn.Linear(2, 2), act))
    rsn2.claim(net, "a", data(), cross_entropy, 0.3)
    net.save(tmp_path / "net")
    again, (x, _) = load(tmp_path / "net"), data()[0]
    assert torch.equal(net(x, task="a"), again(x, task="a"))


def test_what_never_trained_does_not_train_after_loading(tmp_path: Path) -> None:
    torch.manual_seed(3)
    net = rsn2.MultitaskNetwork(nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4)))
    for task in ("a", "b"):
        pretrained = nn.Linear(6, 6)
        pretrained.weight.requires_grad_(False)
        net.add_task(task, stem=pretrained, head=nn.Linear(4, 2), prune_head=True)
        rsn2.claim(net, task, data(), cross_entropy, 0.3)
    rsn2.fit(net, "a", data(), data(), cross_entropy, max_epochs=1, progress=False)
    net.save(tmp_path / "net")
    again = load(tmp_path / "net")
    for task in ("a", "b"):
        assert again.fixed_parameters(task) == net.fixed_parameters(task) == ["stem.weight"]
    again.thaw("a")
    for stem in again.stems:
        assert not stem.weight.requires_grad and stem.bias.requires_grad


def test_tasks_that_read_others_are_loaded_with_them(tmp_path: Path) -> None:
    torch.manual_seed(3)
    net = rsn2.MultitaskNetwork(nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2)))
    for task in ("z", "a", "b", "c"):
        net.add_task(task)
    for task in ("z", "a", "b", "c"):
        if task == "b":
            rsn2.read_weights(net, "b", "a")
        rsn2.claim(net, task, data(), cross_entropy, 0.2)
        rsn2.fit(net, task, data(), data(), cross_entropy, max_epochs=1, progress=False)
    net.save(tmp_path / "net")
    x = data()[0][0]
    for tasks in (["c"], ["a", "b"], ["b", "c", "a"], ["z"]):
        some = load(tmp_path / "net", tasks=tasks)
        for task in tasks:
            assert torch.equal(some(x, task=task), net.eval()(x, task=task)), task
    with pytest.raises(ValueError, match="load: of layer .* a task reads the weights of slots .1.; load the tasks"):
        load(tmp_path / "net", tasks=["b", "c"])
