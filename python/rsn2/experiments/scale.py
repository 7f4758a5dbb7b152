"""One-shot selection in a ResNet-18, which the paper names as untried: CIFAR-10 in two tasks of five classes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsn2 import data as datasets
from rsn2.data import Dataset, Split, unit_pixels
from rsn2.experiments.experiment import Column, Experiment, Variant
from rsn2.experiments.protocol import DENSE, SMOKE, Recipe, units_of_stage
from rsn2.experiments.protocol import Settings as CommonSettings
from rsn2.experiments.tasks import CIFAR_CLASSES, Task, cross_entropy
from rsn2.models import resnet18
from rsn2.models.resnet import NARROW
from rsn2.network import MultitaskNetwork

CLASSES = {"first": (0, 1, 2, 3, 4), "second": (5, 6, 7, 8, 9)}
"""The classes of CIFAR-10 in each task, numbered anew."""

PADDING = 4


@dataclass(frozen=True)
class Settings(CommonSettings):
    """See the common settings.

    Attributes:
        channels: of the four groups of residual blocks.
    """

    initialiser: str = "he"
    claim_rows: int = 2000
    batch_size: int = 128
    max_epochs: int = 12
    patience: int = 4
    min_delta: float = 0.0
    channels: tuple[int, ...] = NARROW


def residual_network() -> Experiment:
    """Two tasks in one ResNet-18, chosen in one shot, at three keeps."""
    ours = Settings(stages=tuple(CLASSES))
    return Experiment(
        name="scale",
        title="One-shot selection in a ResNet-18, on CIFAR-10 in two tasks of five classes",
        description=(
            "The ResNet-18 of the continual-learning literature (20, 40, 80, 160 channels, 1 090 940 weights in twenty "
            "convolutions and one linear layer of five outputs) learns airplane to deer, then dog to truck. Each task "
            "claims 50, 20 or 10 % of the weights of every layer, in one shot before it trains, by the size of the "
            "gradient on 2000 images or at random; batch normalisation is each task's own. Training images are moved "
            "by up to four pixels and mirrored, by numbers that depend on the seed, the epoch and the batch alone. "
            "Batches of 128, Adam at a constant 1e-3, for at most 12 epochs, which bounds the time and is far from "
            "what such a network reaches after hundreds; stopped when the validation loss has not fallen for 4, best "
            "weights restored. 20 000 images to train and 5000 to validate for each task."
        ),
        variants={
            **{
                f"{score}-{keep:g}": Variant(
                    f"{title}, keep {100 * keep:g} %", replace(ours, keep=keep, score=score), ours.stages
                )
                for keep in (0.5, 0.2, 0.1)
                for score, title in (("gradient", "the largest gradients"), ("random", "weights at random"))
            },
            "control": Variant(
                "dense control, one network per task", replace(ours, stages=(), **DENSE), ours.stages, is_control=True
            ),
        },
        smoke=SMOKE | {"channels": (4, 8, 8, 12)},
        columns=tuple(
            Column(
                task, "accuracy", f"{title}, %", class_names=tuple(CIFAR_CLASSES[number] for number in CLASSES[task])
            )
            for task, title in (("first", "Airplane to deer"), ("second", "Dog to truck"))
        ),
        run_unit=units_of_stage(Recipe(tasks, network, control)),
        seeds=(0,),
    )


class MovedImages:
    """Images that are moved and mirrored where single rows are asked for, as shuffled training does, and as they are
    in slices, in which claims and validation read them.

    By how much depends on the row numbers alone: the same batch of the same epoch comes out the same, in a run that was
    interrupted too.

    Args:
        images: uint8 ``[n, C, H, W]``.
    """

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        if isinstance(rows, slice):
            return self.images[rows]
        name = hashlib.blake2b(rows.cpu().numpy().tobytes(), digest_size=16).digest()
        return moved(self.images[rows], np.random.RandomState(np.frombuffer(name, np.uint32)))

    def subset(self, rows: slice | Tensor) -> MovedImages:
        """Some of the images."""
        return MovedImages(self.images[rows])


def moved(images: Tensor, random: np.random.RandomState) -> Tensor:
    """Each image ``[B, C, H, W]`` moved by up to ``PADDING`` pixels each way, black where nothing was, and every other
    one mirrored.
    """
    height, width = images.shape[2:]
    padded = F.pad(images, (PADDING,) * 4)
    offsets = torch.from_numpy(random.randint(0, 2 * PADDING + 1, (2, len(images), 1)))
    is_mirrored = torch.from_numpy(random.randint(0, 2, (len(images), 1)) == 1)
    rows, columns = offsets[0] + torch.arange(height), torch.arange(width)
    columns = offsets[1] + torch.where(is_mirrored, width - 1 - columns, columns)
    number, channel = torch.arange(len(images))[:, None, None, None], torch.arange(images.shape[1])[None, :, None, None]
    return padded[number, channel, rows[:, None, :, None], columns[:, None, None, :]]


def cifar_classes(classes: tuple[int, ...]) -> Task:
    """Some classes of CIFAR-10, their training images moved and mirrored."""

    def load(data_dir: Path | None) -> Dataset:
        dataset = datasets.select_classes(datasets.load_cifar10(data_dir), classes)
        return replace(dataset, train=Split(MovedImages(dataset.train.x), dataset.train.y))

    return Task(load, cross_entropy, len(classes), unit_pixels)


def tasks(settings: Mapping[str, Any]) -> Mapping[str, Task]:
    """Both halves of the classes."""
    return {name: cifar_classes(classes) for name, classes in CLASSES.items()}


def network(settings: Mapping[str, Any]) -> MultitaskNetwork:
    """Both tasks in one network, head included."""
    net = MultitaskNetwork(control(settings, ""))
    for task in CLASSES:
        net.add_task(task)
    return net


def control(settings: Mapping[str, Any], task: str) -> nn.Module:
    """The dense network, the same for both."""
    return resnet18(5, channels=settings["channels"], initialiser=settings["initialiser"]).whole()
