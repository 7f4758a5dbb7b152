"""A run that is killed at any moment goes on, and ends with the bits of one that was not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset, WeightedRandomSampler

import rsn2
from rsn2.data import TensorBatches
from rsn2.procedure.resume import Checkpoint
from rsn2_kernels.testing import seeded

# Two tasks with loaders of both kinds and other lengths, dropout, normalisation, momentum, a scheduler of weight decay.
TRAINING = """
    import hashlib, json, os, random, signal, sys, time
    import torch
    from torch import nn
    from torch.nn.functional import cross_entropy
    from torch.utils.data import DataLoader, TensorDataset
    import rsn2
    from rsn2.data import TensorBatches

    torch.set_num_threads(1)
    folder, num_kills, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

    def train(name, after_save=lambda: None):
        torch.manual_seed(3)
        trunk = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 8))
        net = rsn2.MultitaskNetwork(trunk)
        x = torch.randn(24, 6)
        y = (x[:, 0] > 0).long()
        short = TensorDataset(x[:10], y[:10])
        train = {"a": TensorBatches(x, y, 4, shuffle=True), "b": DataLoader(short, 4, shuffle=True)}
        for task in train:
            net.add_task(task, head=nn.Sequential(nn.Dropout(0.2), nn.Linear(8, 2)))
        rsn2.claim(net, ["a", "b"], {t: [(x, y)] for t in train}, cross_entropy, 0.3)
        torch.manual_seed(os.getpid())  # whatever the global random state is
        history = rsn2.fit(
            net, ["a", "b"], train, {t: [(x, y)] for t in train}, cross_entropy, max_epochs=4, progress=False,
            early_stopping=rsn2.EarlyStopping(patience=3, min_delta=0.03), checkpoint=f"{folder}/{name}.state",
            checkpoint_every=1, optimizer=lambda p: torch.optim.AdamW(p, lr=0.02, amsgrad=True),
        )
        for epoch in history.epochs:
            del epoch["seconds"]
        state = hashlib.sha256()
        for key, tensor in net.state_dict().items():
            state.update(key.encode() + tensor.contiguous().numpy().tobytes())
        result = [history.epochs, history.best_epoch, history.stopped_early, state.hexdigest()]
        with open(f"{folder}/{name}.json", "w") as file:
            json.dump(result, file)
"""

KILLING = """
    start = time.perf_counter()
    train("whole")
    duration = time.perf_counter() - start
    moments = random.Random(seed)
    kills = runs = 0
    while kills < num_kills:
        child = os.fork()
        if child == 0:
            train(f"killed{runs}")
            os._exit(0)
        time.sleep(moments.uniform(0.01, duration / 3))
        os.kill(child, signal.SIGKILL)
        if os.WIFSIGNALED(os.waitpid(child, 0)[1]):
            kills += 1
        else:
            runs += 1  # that run has ended; the next one starts from nothing
    train(f"killed{runs}")

    # The moments that matter most: a state is half written, not yet renamed, just renamed.
    def die_within(function, before):
        calls = []

        def wrapper(*args):
            calls.append(args)
            if before and len(calls) == 5:
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*args)
            if len(calls) == 5:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return wrapper

    for function, before in (("fsync", True), ("replace", True), ("replace", False)):
        child = os.fork()
        if child == 0:
            setattr(os, function, die_within(getattr(os, function), before))
            train("killed_while_writing")
            os._exit(1)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    train("killed_while_writing")
"""


def run_script(tmp_path: Path, script: str, num_kills: int, seed: int) -> None:
    source = textwrap.dedent(TRAINING) + textwrap.dedent(script)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", source, str(tmp_path), str(num_kills), str(seed)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    whole = json.loads((tmp_path / "whole.json").read_text())
    results = sorted(tmp_path.glob("killed*.json"))
    assert len(results) >= 2
    for result in results:
        assert json.loads(result.read_text()) == whole
    assert not list(tmp_path.glob("*.next"))


@pytest.mark.cpu_only(reason="its processes are forked, which CUDA does not survive")
@pytest.mark.parametrize("num_kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments(tmp_path: Path, num_kills: int) -> None:
    run_script(tmp_path, KILLING, num_kills, seed=11)


def network(keep: float = 0.3) -> rsn2.MultitaskNetwork:
    torch.manual_seed(3)
    net = rsn2.MultitaskNetwork(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)))
    net.add_task("a")
    rsn2.claim(net, "a", data(), cross_entropy, keep)
    return net


def data() -> TensorBatches:
    x = torch.randn(24, 6, generator=seeded(1))
    return TensorBatches(x, (x[:, 0] > 0).long(), 8)


def fit(net: rsn2.MultitaskNetwork, path: Path, **change: Any) -> rsn2.History:
    how = {"max_epochs": 2, "early_stopping": None, "progress": False, "checkpoint": path, **change}
    return rsn2.fit(net, "a", data(), data(), cross_entropy, **how)


def test_a_finished_run_is_not_repeated(tmp_path: Path) -> None:
    first, again = network(), network()
    history = fit(first, tmp_path / "state")
    assert fit(again, tmp_path / "state") == history
    assert again.is_finished("a")
    for one, two in zip(first.parameters_of("a"), again.parameters_of("a"), strict=True):
        assert torch.equal(one, two)


def test_a_state_of_another_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state"
    fit(network(), path)
    with pytest.raises(
        ValueError, match=f"{path} belongs to another run: max_epochs 2 instead of 5, seed 0 instead of 1"
    ):
        fit(network(), path, max_epochs=5, seed=1)
    with pytest.raises(ValueError, match="owned weights"):
        fit(network(keep=0.2), path)
    other = network()
    other.heads[0] = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=f"{path} belongs to another network: the head of a must have"):
        fit(other, path)


@pytest.mark.parametrize("content", [b"", b"something else", None], ids=["empty", "text", "truncated"])
def test_a_file_that_is_no_state_is_refused_and_kept(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "state"
    if content is None:
        fit(network(), path)
        content = path.read_bytes()[:-100]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path} is not a training state of rsn2.fit"):
        fit(network(), path)
    assert path.read_bytes() == content


def test_another_file_of_torch_is_refused(tmp_path: Path) -> None:
    torch.save({"weights": torch.zeros(2)}, tmp_path / "state")
    with pytest.raises(ValueError, match="must hold 'rsn2 training state, version 2', got None"):
        fit(network(), tmp_path / "state")


def test_places_that_cannot_hold_a_state_are_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = network()
    with pytest.raises(OSError, match="there is no folder"):
        fit(net, tmp_path / "missing" / "state")
    with pytest.raises(OSError, match="is a folder"):
        fit(net, tmp_path)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**6, 10**6 - 10, 10))
    with pytest.raises(OSError, match="has 10 bytes left, but a state takes about"):
        fit(net, tmp_path / "state")
    assert not net.is_finished("a") and not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)  # a folder's mode would not stop the superuser
    with pytest.raises(OSError, match=f"cannot write to the folder {tmp_path}: .*Permission denied"):
        fit(network(), tmp_path / "state")


def test_a_disk_that_fills_up_leaves_the_last_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = Checkpoint(tmp_path / "state", 1)
    keeper.save({"step": 1})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="could not write .*state: .*No space left on device"):
        keeper.save({"step": 2})
    loaded = keeper.load()
    assert loaded is not None and loaded["step"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["state"]


def with_another_task(net: rsn2.MultitaskNetwork) -> rsn2.MultitaskNetwork:
    net.add_task("b", head=nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    rsn2.claim(net, "b", data(), cross_entropy, 0.3)
    rsn2.fit(net, "b", data(), data(), cross_entropy, max_epochs=1, progress=False)
    return net


def test_a_state_leaves_other_tasks_alone(tmp_path: Path) -> None:
    x, net = torch.randn(5, 6), network()
    fit(net, tmp_path / "state")
    outputs = net.eval()(x, task="a")
    with_another_task(net)
    before = net.eval()(x, task="b")
    fit(net, tmp_path / "state", thaw=True)  # of a time when there was no b
    assert torch.equal(net.eval()(x, task="a"), outputs) and torch.equal(net(x, task="b"), before)
    assert net.is_finished("b") and all(layer["b"] > 0 for layer in net.owned_weights().values())


def test_a_state_holds_nothing_of_other_tasks(tmp_path: Path) -> None:
    sizes = []
    for num_others in (0, 3):
        torch.manual_seed(3)
        net = rsn2.MultitaskNetwork(nn.Sequential(nn.Linear(6, 400), nn.LayerNorm(400), nn.Linear(400, 100)))
        names = [*"xyz"[:num_others], "a"]
        for name in names:
            net.add_task(name, head=nn.Linear(100, 2))
        rsn2.claim(net, names, dict.fromkeys(names, data()), cross_entropy, 0.2)
        fit(net, tmp_path / f"state{num_others}")
        sizes.append((tmp_path / f"state{num_others}").stat().st_size)
    assert sizes[1] == pytest.approx(sizes[0], rel=0.02)


def test_a_state_that_is_refused_changes_nothing(tmp_path: Path) -> None:
    wider = rsn2.MultitaskNetwork(nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)))
    wider.add_task("a")
    rsn2.claim(wider, "a", data(), cross_entropy, 0.3)
    fit(wider, tmp_path / "state")
    net = with_another_task(network())
    net.freeze("a")
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    with pytest.raises(ValueError, match="belongs to another"):
        fit(net, tmp_path / "state", thaw=True)
    assert net.is_finished("a")
    for key, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[key]), key


def test_weights_that_another_task_claimed_since_are_refused(tmp_path: Path) -> None:
    """Where weights move while training, the state's may belong to somebody else by now."""
    how = {"reselect": rsn2.Reselection(until=5, every=1, fraction=0.9), "max_epochs": 2}
    moved = network()
    fit(moved, tmp_path / "state", **how)
    net = network()
    net.add_task("b")
    rsn2.claim(net, "b", data(), cross_entropy, 0.7, score="random")
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    with pytest.raises(ValueError, match="belongs to another network: layer .* belong to an earlier slot too"):
        fit(net, tmp_path / "state", **how)
    for key, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[key]), key


def killed_after(net: rsn2.MultitaskNetwork, path: Path, num_saves: int, monkeypatch: pytest.MonkeyPatch,
                 **how: Any) -> None:  # fmt: skip
    """Train until the state was saved so many times, then stop as if killed."""
    saves, save = [], Checkpoint.save

    def counted(keeper: Checkpoint, state: dict[str, Any]) -> None:
        save(keeper, state)
        saves.append(state)
        if len(saves) == num_saves:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", counted)
        with pytest.raises(KeyboardInterrupt):
            rsn2.fit(net, "a", validation=data(), loss_fn=cross_entropy, checkpoint=path, checkpoint_every=1, **how)


LOADERS = {
    "sampler": lambda rows: DataLoader(rows, 8, sampler=WeightedRandomSampler(torch.ones(24), 24, generator=seeded(4))),
    "batch sampler": lambda rows: DataLoader(
        rows, batch_sampler=BatchSampler(RandomSampler(rows, generator=seeded(4)), 8, False)
    ),
    "loader": lambda rows: DataLoader(rows, 8, shuffle=True, generator=seeded(4)),
}


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("num_saves", [2, 4])  # in the first epoch, in the second
def test_generators_of_samplers_are_a_part_of_the_state(
    kind: str, num_saves: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = TensorDataset(*next(iter(TensorBatches(data().x, data().y, 24))))
    how = {"max_epochs": 3, "early_stopping": None, "progress": False}
    whole, again = network(), network()
    rsn2.fit(whole, "a", LOADERS[kind](rows), data(), cross_entropy, **how)
    killed_after(network(), tmp_path / "state", num_saves, monkeypatch, train=LOADERS[kind](rows), **how)
    rsn2.fit(again, "a", LOADERS[kind](rows), data(), cross_entropy, checkpoint=tmp_path / "state", checkpoint_every=1,
             **how)  # fmt: skip
    for one, two in zip(whole.parameters_of("a"), again.parameters_of("a"), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("schedule_by", ["epoch", "step"])
def test_a_scheduler_goes_on_where_it_was(schedule_by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    how = {"max_epochs": 4, "early_stopping": None, "progress": False, "schedule_by": schedule_by,
           "scheduler": lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)}  # fmt: skip
    whole, again, steady = network(), network(), network()
    rsn2.fit(whole, "a", data(), data(), cross_entropy, **how)
    rsn2.fit(steady, "a", data(), data(), cross_entropy, **(how | {"scheduler": None}))
    killed_after(network(), tmp_path / "state", 5, monkeypatch, train=data(), **how)
    with pytest.raises(ValueError, match="only one of the two has a scheduler"):
        rsn2.fit(network(), "a", data(), data(), cross_entropy, checkpoint=tmp_path / "state", checkpoint_every=1,
                 **(how | {"scheduler": None}))  # fmt: skip
    rsn2.fit(again, "a", data(), data(), cross_entropy, checkpoint=tmp_path / "state", checkpoint_every=1, **how)
    for one, two, other in zip(*(net.parameters_of("a") for net in (whole, again, steady)), strict=True):
        assert torch.equal(one, two) and not torch.equal(one, other)


def test_numbers_of_numpy_can_be_read_again(tmp_path: Path) -> None:
    how = {"optimizer": lambda params: torch.optim.Adam(params, lr=np.logspace(-4, -2, 3)[1]),
           "early_stopping": rsn2.EarlyStopping(min_delta=np.float64(1e-3))}  # fmt: skip
    assert fit(network(), tmp_path / "state", **how) == fit(network(), tmp_path / "state", **how)


def test_persistent_workers_are_warned_of(tmp_path: Path) -> None:
    rows = TensorDataset(*next(iter(TensorBatches(data().x, data().y, 24))))
    loader = DataLoader(rows, 8, num_workers=1, persistent_workers=True)
    with pytest.warns(UserWarning, match="persistent workers"):
        rsn2.fit(network(), "a", loader, data(), cross_entropy, max_epochs=1, progress=False,
                 checkpoint=tmp_path / "state")  # fmt: skip
