"""A network that was moved to a GPU, as users write it: torch's default device stays the CPU, and so does the data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import rsn2
from rsn2.data import TensorBatches
from rsn2.metrics import accuracy


@pytest.fixture(autouse=True)
def _on_a_gpu(device: torch.device) -> Iterator[None]:
    if device.type != "cuda":
        pytest.skip("needs a GPU: pytest --device cuda")
    with torch.device("cpu"):
        yield


def data(seed: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(64, 2, 8, 8, generator=torch.Generator().manual_seed(seed))
    return x, (x.mean((1, 2, 3)) > 0).long()


def network(device: torch.device) -> rsn2.MultitaskNetwork:
    torch.manual_seed(3)
    trunk = nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 24),
        nn.ReLU(), nn.Dropout(0.1),
    )  # fmt: skip
    net = rsn2.MultitaskNetwork(trunk).to(device)
    for task in ("a", "b"):
        net.add_task(task, head=nn.Linear(24, 2).to(device))
    return net


def bits(net: rsn2.MultitaskNetwork, task: str) -> list[bytes]:
    return [p.detach().cpu().numpy().tobytes() for p in net.parameters_of(task)]


@pytest.mark.parametrize("score", ["gradient", "random"])
@pytest.mark.parametrize("reselect", [None, "gradient", "random"])
def test_claim_fit_freeze_save_and_load(device: torch.device, score: str, reselect: str | None, tmp_path: Path) -> None:
    net = network(device)
    kept: list[bytes] = []
    seen: Tensor | None = None
    moving = None if reselect is None else rsn2.Reselection(until=6, every=2, regrow=reselect)
    for number, task in enumerate(("a", "b")):
        x, y = data(number)
        rsn2.claim(net, task, [(x, y)], cross_entropy, 0.3, score=score)
        loader = DataLoader(TensorDataset(x, y), 16, shuffle=True) if number else TensorBatches(x, y, 16, shuffle=True)
        history = rsn2.fit(net, task, loader, [(x, y)], cross_entropy, max_epochs=4, early_stopping=None,
                           metrics={"accuracy": accuracy}, reselect=moving, progress=False)  # fmt: skip
        assert history.epochs[-1]["loss"][task] < history.epochs[0]["loss"][task]
        if task == "a":
            kept, seen = bits(net, "a"), net.eval()(x.to(device), task="a")
    x = data(0)[0].to(device)
    assert seen is not None
    assert bits(net, "a") == kept and torch.equal(net.eval()(x, task="a"), seen)
    mixed = net({"a": x[:9], "b": x[9:20]})
    for task, rows in (("a", x[:9]), ("b", x[9:20])):
        torch.testing.assert_close(mixed[task], net(rows, task=task), rtol=1e-4, atol=1e-5)
    net.save(tmp_path / "net")
    for where in (device, torch.device("cpu")):
        again = rsn2.load(tmp_path / "net", device=where).eval()
        assert {p.device.type for p in again.parameters()} == {where.type}
        y = again(x.to(where), task="a").to(device)
        torch.testing.assert_close(y, seen, rtol=1e-4, atol=1e-5)
        assert where.type == "cpu" or torch.equal(y, seen)


def test_a_run_goes_on_from_its_checkpoint(
    device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout draws on the GPU: its state is part of the checkpoint."""
    from rsn2.procedure.run import Run

    x, y = data(0)

    def trained(**how: object) -> rsn2.MultitaskNetwork:
        net = network(device)
        rsn2.claim(net, "a", [(x, y)], cross_entropy, 0.3)
        rsn2.fit(net, "a", TensorBatches(x, y, 16, shuffle=True), None, cross_entropy, max_epochs=3,
                 early_stopping=None, progress=False, **how)  # fmt: skip
        return net

    whole, step, done = trained(), Run._train_step, []

    def interrupted(self: Run) -> None:
        if len(done) == 5:
            raise KeyboardInterrupt
        done.append(None)
        step(self)

    how = {"checkpoint": tmp_path / "state", "checkpoint_every": 1}
    with monkeypatch.context() as patch:
        patch.setattr(Run, "_train_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            trained(**how)
    assert bits(trained(**how), "a") == bits(whole, "a")
