"""One training, as a process: `python -m bench.epoch KIND ours|"masked dense" PREPARED.pt [--steps N]`; prints JSON.

What was prepared (starting values, masks) is read from a file, so that neither process pays for choosing the masks.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rsn2
from rsn2.data import TensorBatches, flat_pixels, unit_pixels
from rsn2.experiments import tasks as experiment_tasks
from rsn2.experiments.training import DenseNetworks
from rsn2.memory import keep_freed_memory
from rsn2.models import conv_network, fully_connected
from rsn2.network import MultitaskNetwork
from rsn2_kernels.nn import TaskLayer

BATCH = 512
SEED = 0
MASK_ROWS = 1000  # the paper's Experiment 1 chooses masks on so many images
DATA = {"digits": experiment_tasks.digits(), "fashion": experiment_tasks.fashion()}
SETTINGS = {"max_rows": None, "validation_share": 0.2}


def network_of(kind: str) -> nn.Sequential:
    torch.manual_seed(SEED)
    make = {"fully_connected": fully_connected, "conv": conv_network}[kind]
    return make(initialiser="normal_0.05").whole()


def batches_of(kind: str, task: str, num_rows: int | None = None, *, shuffle: bool) -> TensorBatches:
    """The task's training images, those that validation takes left out, as in the experiments.

    Raises:
        DataError: there is no such data set under ``RSN2_DATA``.
    """
    train = experiment_tasks.prepared(DATA[task], SETTINGS, None).train.take(slice(0, num_rows))
    transform = flat_pixels if kind == "fully_connected" else unit_pixels
    return TensorBatches(train.x, train.y, BATCH, transform=transform, shuffle=shuffle, seed=SEED)


def prepare(kind: str, tasks: Sequence[str], keep: float) -> dict[str, Any]:
    """Masks by the paper's procedure: the largest gradients on some of the training data, disjoint."""
    net = MultitaskNetwork(network_of(kind))
    for task in tasks:
        net.add_task(task)
    chosen_on = {task: batches_of(kind, task, MASK_ROWS, shuffle=False) for task in tasks}
    losses = dict.fromkeys(tasks, experiment_tasks.cross_entropy)
    rsn2.claim(net, list(tasks), chosen_on, losses, keep, mode="preallocate",
               scope={"output": "row"}, seed=SEED)  # fmt: skip
    layers = {name: layer for name, layer in net.trunk_layers().items() if isinstance(layer, TaskLayer)}
    return {
        "tasks": list(tasks),
        "masks": {
            name: {task: layer.mask(net.slot_of(task, name)) for task in tasks} for name, layer in layers.items()
        },
    }


class Masked(nn.Module):
    """A dense layer whose weight is multiplied by a mask in every call."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, mask: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.register_buffer("mask", mask.to(layer.weight.dtype))
        self.padding = getattr(layer, "padding", None)

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.dim() == 4:
            return F.conv2d(x, self.weight * self.mask, self.bias, padding=self.padding)
        return F.linear(x, self.weight * self.mask, self.bias)


def masked_network(kind: str, masks: dict[str, dict[str, Tensor]], task: str) -> nn.Module:
    """The dense network with masked layers."""
    net = network_of(kind)
    for name, by_task in masks.items():
        setattr(net, name, Masked(getattr(net, name), by_task[task]))
    return net


def our_network(kind: str, prepared: dict[str, Any]) -> MultitaskNetwork:
    net = MultitaskNetwork(network_of(kind))
    for task in prepared["tasks"]:
        net.add_task(task)
    for name, layer in net.trunk_layers().items():
        for task, mask in prepared["masks"][name].items():
            cast(TaskLayer, layer).claim(net.slot_of(task, name), mask)
    return net


class Short:
    """The first batches of a loader."""

    def __init__(self, loader: TensorBatches, num_steps: int) -> None:
        self.loader, self.num_steps = loader, num_steps

    def __len__(self) -> int:
        return min(self.num_steps, len(self.loader))

    def __iter__(self) -> Any:
        for _, batch in zip(range(self.num_steps), self.loader, strict=False):
            yield batch


def peak_bytes() -> int:
    """Of this process alone: ``ru_maxrss`` would start with what the parent had."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.epoch", description=__doc__)
    parser.add_argument("kind", choices=["fully_connected", "conv"])
    parser.add_argument("how", choices=["ours", "masked dense"])
    parser.add_argument("prepared", type=Path)
    parser.add_argument("--steps", type=int)
    arguments = parser.parse_args(argv)
    prepared = torch.load(arguments.prepared, weights_only=True)
    tasks: list[str] = prepared["tasks"]
    train: dict[str, Any] = {task: batches_of(arguments.kind, task, shuffle=True) for task in tasks}
    if arguments.steps is not None:
        train = {task: Short(loader, arguments.steps) for task, loader in train.items()}
    if arguments.how == "ours":
        net: Any = our_network(arguments.kind, prepared)
    else:
        net = DenseNetworks({task: masked_network(arguments.kind, prepared["masks"], task) for task in tasks})
    losses: list[Tensor] = []

    def loss_fn(outputs: Tensor, target: Tensor) -> Tensor:
        loss = experiment_tasks.cross_entropy(outputs, target)
        losses.append(loss.detach())
        return loss

    del prepared
    before, start = peak_bytes(), time.perf_counter()
    rsn2.fit(net, tasks, train, None, dict.fromkeys(tasks, loss_fn), max_epochs=1, early_stopping=None,
             progress=False, seed=SEED)  # fmt: skip
    seconds = time.perf_counter() - start
    values = torch.stack(losses)
    print(json.dumps({
        "epoch_seconds": seconds, "peak_bytes": peak_bytes(), "peak_bytes_before": before,
        "mean_loss": values.mean().item(), "losses": values[: 3 * len(tasks)].tolist(),
    }))  # fmt: skip


if __name__ == "__main__":
    keep_freed_memory()  # of this process, ours or masked dense, as the command line does
    main()
