"""Four small data sets that come with scikit-learn: nothing to download."""

from __future__ import annotations

from typing import Any

import torch

from rsn2.data.dataset import Dataset, Split, standardised
from rsn2.data.errors import require

BUNDLED = ("digits", "breast_cancer", "wine", "diabetes")
SPLIT_SEED = 0
SHARES = {"train": 0.6, "validation": 0.2, "test": 0.2}


def _read(name: str) -> tuple[Any, Any, tuple[str, ...]]:
    datasets = require("sklearn.datasets", f"the data set {name}")
    bunch = getattr(datasets, f"load_{name}")()
    names = tuple(str(label) for label in getattr(bunch, "target_names", ()))
    return bunch.data, bunch.target, names


def _split(name: str, seed: int) -> Dataset:
    """60 / 20 / 20 % of the rows at random from `seed`; of classes the same share in every part."""
    x, y, class_names = _read(name)
    split = require("sklearn.model_selection", f"the data set {name}").train_test_split
    classes = bool(class_names)
    features = torch.from_numpy(x).float()
    target = torch.from_numpy(y).long() if classes else torch.from_numpy(y).float().unsqueeze(1)
    rows = list(range(len(x)))
    rest, test = split(rows, test_size=SHARES["test"], random_state=seed, stratify=y if classes else None)
    share = SHARES["validation"] / (1 - SHARES["test"])
    train, validation = split(rest, test_size=share, random_state=seed, stratify=y[rest] if classes else None)
    everything = Split(features, target)
    parts = [everything.take(torch.tensor(index)) for index in (train, test, validation)]
    return Dataset(name, parts[0], parts[1], parts[2], class_names)


def load_digits(seed: int = SPLIT_SEED) -> Dataset:
    """1797 handwritten digits of 8 x 8 pixels: 64 features in 0..1 (sixteenths), labels 0..9; no download.

    Returns:
        train, validation and test of 60, 20 and 20 %, stratified, the same for one `seed` everywhere.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    return _split("digits", seed).map(lambda _, split: Split(split.x / 16, split.y))


def load_breast_cancer(seed: int = SPLIT_SEED) -> Dataset:
    """569 tumours (Wisconsin): 30 features standardised on the training part, labels 0 and 1; see `load_digits`."""
    return standardised(_split("breast_cancer", seed))


def load_wine(seed: int = SPLIT_SEED) -> Dataset:
    """178 wines of three growers: 13 features standardised on the training part, labels 0..2; see `load_digits`."""
    return standardised(_split("wine", seed))


def load_diabetes(seed: int = SPLIT_SEED) -> Dataset:
    """442 patients: 10 features and one number `[B, 1]`, the progress of diabetes after a year; see `load_digits`.

    Features and target have mean 0 and variance 1 on the training part; `target_scale` and `target_offset` lead back.
    """
    return standardised(_split("diabetes", seed))
