"""The form in which every reader returns its data, where data is looked for, and how it is split and scaled."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rsn2.data.errors import MissingDataError


@dataclass(frozen=True)
class Split:
    """Inputs `x` and targets `y` of equal length.

    Attributes:
        x: uint8 images `[B, C, H, W]`, float32 features `[B, I]`, int64 word ids `[B, length]`; or lazily read
            images (`ImageFiles`), or a tuple of texts.
        y: int64 labels `[B]` (`[B, 3]` age, gender, race for faces), or float32 numbers `[B, 1]`.
    """

    x: Any
    y: Tensor

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise ValueError(f"Split: x and y must have one length, got {len(self.x)} and {len(self.y)}")

    def __len__(self) -> int:
        return len(self.y)

    def take(self, rows: slice | Tensor) -> Split:
        """The given rows: a view of the tensors for a slice, copies for an index tensor."""
        if isinstance(self.x, tuple):
            picked = self.x[rows] if isinstance(rows, slice) else tuple(self.x[i] for i in rows.tolist())
            return Split(picked, self.y[rows])
        x = self.x.subset(rows) if hasattr(self.x, "subset") else self.x[rows]
        return Split(x, self.y[rows])


@dataclass(frozen=True)
class Dataset:
    """One data set.

    Attributes:
        name: its name, also that of its folder.
        train, test: its two parts, as published or as the reader documents.
        validation: a third part where the reader or `validation_split` made one.
        class_names: the names of labels 0, 1, ...; empty when the target is a number.
        target_offset, target_scale: a scaled target `y` was `y * target_scale + target_offset` before.
        num_skipped: files that the reader left out because their labels are incomplete.
    """

    name: str
    train: Split
    test: Split
    validation: Split | None = None
    class_names: tuple[str, ...] = ()
    target_offset: float = 0.0
    target_scale: float = 1.0
    num_skipped: int = 0

    @property
    def num_classes(self) -> int:
        """The number of classes; 0 when the target is a number."""
        return len(self.class_names)

    def splits(self) -> dict[str, Split]:
        """The parts by name, in the order train, validation (if any), test."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: split for name, split in parts.items() if split is not None}

    def map(self, function: Callable[[str, Split], Split]) -> Dataset:
        """The data set with every part replaced by `function(name of the part, part)`."""
        parts = {name: function(name, split) for name, split in self.splits().items()}
        return replace(self, train=parts["train"], test=parts["test"], validation=parts.get("validation"))


def data_root(data_dir: str | os.PathLike[str] | None = None, *, wanted_by: str = "a data set") -> Path:
    """The folder that holds the data sets: `data_dir`, else what the variable `RSN2_DATA` says.

    Raises:
        MissingDataError: neither is given.
    """
    root = os.fspath(data_dir) if data_dir is not None else os.environ.get("RSN2_DATA", "")
    if not root:
        raise MissingDataError(
            f"{wanted_by}: no data folder is known: pass data_dir (--data-dir DIR) or set RSN2_DATA; "
            f"`rsn2 data fetch --data-dir DIR` gets the data sets"
        )
    return Path(root).expanduser()


def dataset_folder(name: str, data_dir: str | os.PathLike[str] | None = None, inner: str = "") -> Path:
    """The folder of one data set, `ROOT/name/inner`.

    Raises:
        MissingDataError: it is not there; the message names the folder looked at and the command that gets the data.
    """
    root = data_root(data_dir, wanted_by=name)
    folder = root / name / inner
    if not folder.is_dir():
        raise MissingDataError(
            f"{name}: there is no folder {folder}: `rsn2 data fetch {name} --data-dir {root}` gets the data set "
            f"or says how to lay it out"
        )
    return folder


def permuted(split: Split, seed: int) -> Split:
    """The rows in the order of NumPy's `RandomState(seed).shuffle`, a stream that NumPy has frozen for good."""
    import numpy as np

    order = np.arange(len(split))
    np.random.RandomState(seed).shuffle(order)
    return split.take(torch.from_numpy(order))


def validation_split(dataset: Dataset, fraction: float = 0.2) -> Dataset:
    """Make the LAST `fraction` of the training rows the validation part, as Keras' `validation_split` does.

    The training part keeps `floor(n * (1 - fraction))` rows, computed on the decimal number as written (0.2 of 404
    rows leaves 323 and 81). Nothing is copied.

    Raises:
        ValueError: `fraction` is not in (0, 1), there is a validation part already, or one part would be empty.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"validation_split: fraction must be above 0 and below 1, got {fraction}")
    if dataset.validation is not None:
        raise ValueError(
            f"validation_split: {dataset.name} has a validation part of {len(dataset.validation)} rows already"
        )
    num_rows = len(dataset.train)
    num_train = int(num_rows * (1 - Fraction(str(float(fraction)))))
    if num_train == num_rows or num_train == 0:
        empty = "training" if num_train == 0 else "validation"
        raise ValueError(
            f"validation_split: the {empty} part of {dataset.name} would be empty: "
            f"fraction {fraction} of {num_rows} training rows; use another fraction or more rows"
        )
    return replace(
        dataset,
        train=dataset.train.take(slice(0, num_train)),
        validation=dataset.train.take(slice(num_train, num_rows)),
    )


def _scaled(dataset: Dataset, offset: Tensor, scale: Tensor, target: tuple[float, float] | None) -> Dataset:
    target_offset, target_scale = target or (0.0, 1.0)

    def scale_split(_: str, split: Split) -> Split:
        x = ((split.x.double() - offset) / scale).float()
        y = split.y if target is None else ((split.y.double() - target_offset) / target_scale).float()
        return Split(x, y)

    scaled = dataset.map(scale_split)
    # Scaling twice composes: y was y1 * s1 + o1, and y1 was y2 * s2 + o2.
    return replace(
        scaled,
        target_offset=dataset.target_offset + dataset.target_scale * target_offset,
        target_scale=dataset.target_scale * target_scale,
    )


def _check_features(function: str, dataset: Dataset) -> None:
    x = dataset.train.x
    if not (isinstance(x, Tensor) and x.ndim == 2 and x.is_floating_point()):
        what = f"{x.dtype} {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"{function}: x of {dataset.name} must be float features [B, I], got {what}")
    if len(x) == 0:
        raise ValueError(f"{function}: the training part of {dataset.name} is empty")


def min_max_scaled(dataset: Dataset, *, target: bool = True) -> Dataset:
    """Map features (and a number target) to 0..1 by the smallest and largest value of the TRAINING part.

    The other parts are mapped by the same numbers and may leave 0..1. A constant feature becomes 0.

    Raises:
        ValueError: the inputs are not float features, or there is no training row.
    """
    _check_features("min_max_scaled", dataset)
    x = dataset.train.x.double()
    low, high = x.min(dim=0).values, x.max(dim=0).values
    return _scaled(dataset, low, _or_one(high - low), _target_range(dataset) if target else None)


def standardised(dataset: Dataset, *, target: bool = True) -> Dataset:
    """Give every feature (and a number target) mean 0 and variance 1 by the statistics of the TRAINING part.

    The variance is divided by n, as in scikit-learn's `StandardScaler`. A constant feature becomes 0.

    Raises:
        ValueError: the inputs are not float features, or there is no training row.
    """
    _check_features("standardised", dataset)
    x = dataset.train.x.double()
    moments = None
    if target and dataset.num_classes == 0:
        y = dataset.train.y.double()
        moments = (y.mean().item(), _or_one(y.std(correction=0)).item())
    return _scaled(dataset, x.mean(dim=0), _or_one(x.std(dim=0, correction=0)), moments)


def _target_range(dataset: Dataset) -> tuple[float, float] | None:
    if dataset.num_classes:
        return None
    y = dataset.train.y.double()
    return y.min().item(), _or_one(y.max() - y.min()).item()


def _or_one(scale: Tensor) -> Tensor:
    """1 where a scale is 0 (a constant column), so that dividing by it gives 0."""
    return torch.where(scale == 0, torch.ones_like(scale), scale)


def select_classes(dataset: Dataset, classes: Sequence[int]) -> Dataset:
    """Keep the rows of some classes, in their order, and number the labels 0, 1, ... in the order of `classes`.

    Raises:
        ValueError: `classes` is empty, names a class twice or one that does not exist.
    """
    known = range(dataset.num_classes)
    if not classes or len(set(classes)) != len(classes) or any(c not in known for c in classes):
        raise ValueError(f"select_classes: classes must be distinct and in 0..{len(known) - 1}, got {list(classes)}")
    new_label = torch.full((len(known),), -1, dtype=torch.int64)
    new_label[list(classes)] = torch.arange(len(classes))

    def pick(_: str, split: Split) -> Split:
        label = new_label[split.y]
        kept = split.take((label >= 0).nonzero().flatten())
        return Split(kept.x, label[label >= 0])

    return replace(dataset.map(pick), class_names=tuple(dataset.class_names[c] for c in classes))
