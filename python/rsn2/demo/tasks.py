"""The demo's tasks and networks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsn2 import data as datasets
from rsn2.data import Dataset, TensorBatches
from rsn2.experiments.training import OrdinaryNetworks
from rsn2.models import initialise
from rsn2.network import MultitaskNetwork

WIDTH = 512
DEPTH = 4
STAGES: tuple[tuple[str, ...], ...] = (("digits", "breast cancer"), ("wine",), ("diabetes",))


@dataclass(frozen=True)
class Protocol:
    """How every network of the demo is trained.

    Attributes:
        keep: share of each trunk layer's weights that a task claims.
        max_epochs, patience, min_delta: early stopping on the validation loss.
        batch_size, learning_rate, weight_decay: of AdamW's steps.
        seed: of starting values and of the order of the data.
    """

    keep: float = 0.1
    max_epochs: int = 60
    patience: int = 10
    min_delta: float = 0.001
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.5
    seed: int = 0


@dataclass(frozen=True)
class Task:
    """One task: its data and what kind of thing it predicts."""

    name: str
    what: str
    data: Dataset

    @property
    def num_inputs(self) -> int:
        return int(self.data.train.x.shape[1])

    @property
    def num_outputs(self) -> int:
        return self.data.num_classes or 1

    @property
    def metric(self) -> str:
        return "accuracy" if self.data.num_classes else "R²"

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy for classes, mean squared error for a number."""
        return F.cross_entropy(outputs, target) if self.data.num_classes else F.mse_loss(outputs, target)

    def score(self, outputs: Tensor, target: Tensor) -> float:
        """Accuracy, or R² (1 is perfect, 0 is no better than the mean)."""
        if self.data.num_classes:
            return (outputs.argmax(1) == target).double().mean().item()
        error = (outputs.double() - target.double()).square().mean()
        return 1 - (error / target.double().var(correction=0)).item()

    def batches(self, part: str, protocol: Protocol) -> TensorBatches:
        """Batches of ``train`` (a new order in every epoch) or ``validation``."""
        split = self.data.splits()[part]
        return TensorBatches(split.x, split.y, protocol.batch_size, shuffle=part == "train", seed=protocol.seed)


def load_tasks() -> dict[str, Task]:
    """The four tasks, in the order in which they are trained."""
    tasks = (
        Task("digits", "8 x 8 pixels to one of ten digits", datasets.load_digits()),
        Task("breast cancer", "30 measurements to malignant or benign", datasets.load_breast_cancer()),
        Task("wine", "13 chemical values to one of three growers", datasets.load_wine()),
        Task("diabetes", "10 values of a patient to the progress of diabetes, a number", datasets.load_diabetes()),
    )
    return {task.name: task for task in tasks}


def trunk() -> nn.Sequential:
    """The part that all tasks share: hidden layers of one width."""
    layers: list[tuple[str, nn.Module]] = []
    for number in range(1, DEPTH + 1):
        layers += [(f"hidden{number}", nn.Linear(WIDTH, WIDTH)), (f"relu{number}", nn.ReLU())]
    network = nn.Sequential(OrderedDict(layers))
    initialise(network, "he")
    return network


def stem(task: Task) -> nn.Sequential:
    """From a task's inputs to the trunk's width."""
    network = nn.Sequential(nn.Linear(task.num_inputs, WIDTH), nn.ReLU())
    initialise(network, "he")
    return network


def head(task: Task) -> nn.Linear:
    """From the trunk to a task's outputs."""
    network = nn.Linear(WIDTH, task.num_outputs)
    initialise(network, "glorot")
    return network


def dedicated(task: Task) -> nn.Sequential:
    """An ordinary network of the same shape for one task alone."""
    return nn.Sequential(OrderedDict([("stem", stem(task)), ("trunk", trunk()), ("head", head(task))]))


class ForgetfulNetwork(OrdinaryNetworks):
    """The same network in ordinary layers: every task trains all weights of the trunk. It shows what forgetting is."""

    def __init__(self, tasks: Mapping[str, Task]) -> None:
        super().__init__()
        self.trunk = trunk()
        self.stems = nn.ModuleDict({name: stem(task) for name, task in tasks.items()})
        self.heads = nn.ModuleDict({name: head(task) for name, task in tasks.items()})

    @property
    def tasks(self) -> list[str]:
        return list(self.stems)

    def parts_of(self, task: str) -> list[nn.Module]:
        return [self.stems[task], self.trunk, self.heads[task]]


def owned_tensors(net: MultitaskNetwork, task: str) -> list[Tensor]:
    """Everything that decides a task's outputs: its parameters, and the places of its weights in each layer."""
    places = [layer.owned(slot) for layer, slot in net.task_layers(task).values()]
    return [*(cast(Tensor, parameter) for parameter in net.parameters_of(task)), *places]


def inputs_of(task: Task, num_rows: int) -> Tensor:
    """``num_rows`` test inputs, over again from the first when there are fewer."""
    x = task.data.test.x
    return x[torch.arange(num_rows) % len(x)].contiguous()
