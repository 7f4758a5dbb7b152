"""The tasks of the paper's experiments: data, loss, and what their classes are called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rsn2 import data as datasets
from rsn2.data import Dataset, Split, flat_pixels, unit_pixels

Loss = Callable[[Tensor, Tensor], Tensor]
DIGIT_CLASSES = tuple("0123456789")
FASHION_CLASSES = (
    "T-shirt",
    "trousers",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        load: reads its data set, given the folder of all data sets.
        loss: of outputs and targets, the mean over the rows.
        num_classes: 0 when the target is a number.
        transform: applied to the inputs of every batch.
    """

    load: Callable[[Path | None], Dataset]
    loss: Loss
    num_classes: int
    transform: Callable[[Tensor], Tensor] | None = None


def cross_entropy(outputs: Tensor, target: Tensor) -> Tensor:
    """Of class numbers ``[B]``."""
    return F.cross_entropy(outputs, target)


def binary_cross_entropy(outputs: Tensor, target: Tensor) -> Tensor:
    """Of one logit per row, targets 0 and 1 as floats ``[B, 1]``."""
    return F.binary_cross_entropy_with_logits(outputs, target)


def squared_error(outputs: Tensor, target: Tensor) -> Tensor:
    """The mean over all elements."""
    return F.mse_loss(outputs, target)


def raw_pixels(images: Tensor) -> Tensor:
    """uint8 images as float32 in 0..255."""
    return images.float()


def flat_digits() -> Task:
    """MNIST for a fully connected network: 784 inputs in 0..1."""
    return Task(datasets.load_mnist, cross_entropy, 10, flat_pixels)


def flat_fashion() -> Task:
    """Fashion-MNIST for a fully connected network: 784 inputs in 0..1."""
    return Task(datasets.load_fashion_mnist, cross_entropy, 10, flat_pixels)


def digits(*, scaled: bool = True) -> Task:
    """MNIST as images, in 0..1 or, not ``scaled``, in 0..255."""
    return Task(datasets.load_mnist, cross_entropy, 10, unit_pixels if scaled else raw_pixels)


def fashion(*, scaled: bool = True) -> Task:
    """Fashion-MNIST as images, in 0..1 or, not ``scaled``, in 0..255."""
    return Task(datasets.load_fashion_mnist, cross_entropy, 10, unit_pixels if scaled else raw_pixels)


def fashion_classes(classes: tuple[int, ...]) -> Task:
    """Some classes of Fashion-MNIST, numbered anew in this order."""

    def load(data_dir: Path | None) -> Dataset:
        return datasets.select_classes(datasets.load_fashion_mnist(data_dir), classes)

    return Task(load, cross_entropy, len(classes), unit_pixels)


CIFAR_MEAN, CIFAR_DEVIATION = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
"""Of the red, green and blue pixels of CIFAR-10's training images, in 0..1."""


def standardised_pixels(images: Tensor) -> Tensor:
    """uint8 colour images with CIFAR-10's mean 0 and deviation 1 in every channel."""
    mean, deviation = (
        torch.tensor(values, device=images.device)[:, None, None] for values in (CIFAR_MEAN, CIFAR_DEVIATION)
    )
    return (unit_pixels(images) - mean) / deviation


PIXELS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "raw": raw_pixels,
    "scaled": unit_pixels,
    "standardised": standardised_pixels,
}
"""What becomes of the pixels of colour images: as they are, divided by 255, or with mean 0 and deviation 1."""


def cifar10(size: int, *, pixels: str = "scaled") -> Task:
    """CIFAR-10 resized to ``size`` x ``size`` (bilinear, once), its pixels as ``PIXELS`` says."""

    def load(data_dir: Path | None) -> Dataset:
        return datasets.load_cifar10(data_dir).map(lambda _, split: Split(resized(split.x, size), split.y))

    return Task(load, cross_entropy, 10, PIXELS[pixels])


def resized(images: Tensor, size: int) -> Tensor:
    """uint8 images ``[B, C, H, W]`` at another size, bilinear, smoothed where they shrink."""
    if images.shape[2:] == (size, size):
        return images
    parts = images.split(4096)  # in floats, all of them would take gigabytes
    options: dict[str, Any] = {"size": (size, size), "mode": "bilinear", "align_corners": False, "antialias": True}
    return torch.cat([F.interpolate(part.float(), **options).round_().clamp_(0, 255).byte() for part in parts])


def boston() -> Task:
    """Boston housing, features and prices mapped to 0..1 by the training rows."""
    return Task(lambda data_dir: datasets.min_max_scaled(datasets.load_boston_housing(data_dir)), squared_error, 0)


def imdb(num_words: int, length: int) -> Task:
    """IMDB reviews as word numbers, of one logit."""

    def load(data_dir: Path | None) -> Dataset:
        return one_logit(datasets.tokenised(datasets.load_imdb(data_dir), num_words, length))

    return Task(load, binary_cross_entropy, 2)


def one_logit(dataset: Dataset) -> Dataset:
    """Targets 0 and 1 as floats ``[B, 1]``."""
    return dataset.map(lambda _, split: Split(split.x, split.y.float()[:, None]))


def prepared(task: Task, settings: Mapping[str, Any], data_dir: Path | None) -> Dataset:
    """A task's data, the first ``settings["max_rows"]`` rows of each part, with its validation part."""
    loaded = task.load(data_dir)
    if settings["max_rows"] is not None:
        loaded = loaded.map(lambda _, split: split.take(slice(0, settings["max_rows"])))
    return datasets.validation_split(loaded, settings["validation_share"])


def unscaled(task: Task) -> Task:
    """The same images in 0..255."""
    return replace(task, transform=raw_pixels)
