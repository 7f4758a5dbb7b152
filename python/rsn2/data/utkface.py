"""UTKFace: aligned and cropped faces whose labels stand in their file names."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rsn2.data.dataset import Dataset, Split, dataset_folder
from rsn2.data.errors import BrokenDataError, reading, require

SHUFFLE_SEED = 113
TEST_SHARE = 0.2
FACE_LABELS = ("age", "gender", "race")
GENDER_NAMES = ("male", "female")
RACE_NAMES = ("White", "Black", "Asian", "Indian", "Others")
AGE_CUTOFFS = tuple(range(10, 100, 10))  # label = how many of these an age is above
AGE_NAMES = ("0-10", *(f"{low + 1}-{low + 10}" for low in AGE_CUTOFFS[:-1]), "91+")
# Two published names are odd, with a blank before `.jpg` and without its dot; both carry good labels.
_FULL_NAME = re.compile(r"(\d{1,3})_([01])_([0-4])_\d{8,}(?: ?\.)?jpg\.chip\.jpg")
_SHORT_NAME = re.compile(r"\d{1,3}_\d_\d{8,}\.jpg\.chip\.jpg")  # three published names lack one label


class FaceName(NamedTuple):
    """The labels in a file name: age in years, gender (0 male, 1 female), race (0..4, `RACE_NAMES`)."""

    age: int
    gender: int
    race: int


def parse_face_name(name: str) -> FaceName | None:
    """Read `<age>_<gender>_<race>_<date&time>.jpg.chip.jpg`; None when one label is missing.

    Raises:
        ValueError: the name has another form.
    """
    full = _FULL_NAME.fullmatch(name)
    if full:
        return FaceName(*(int(label) for label in full.groups()))
    if _SHORT_NAME.fullmatch(name):
        return None
    raise ValueError(f"parse_face_name: expected <age>_<gender 0|1>_<race 0..4>_<time>.jpg.chip.jpg, got {name!r}")


@dataclass(frozen=True)
class ImageFiles:
    """Images that are read and decoded when they are asked for: `images[rows]` is uint8 `[B, 3, size, size]`.

    Attributes:
        paths: the files.
        size: height and width to which images are resized (bilinear), or None for that of the files.
    """

    paths: tuple[Path, ...]
    size: int | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def subset(self, rows: slice | Tensor) -> ImageFiles:
        """The same images at the given rows, still unread."""
        paths = self.paths[rows] if isinstance(rows, slice) else tuple(self.paths[row] for row in rows.tolist())
        return replace(self, paths=paths)

    def resized(self, size: int) -> ImageFiles:
        """The same images, to be resized to `size` x `size` when read."""
        if size < 1:
            raise ValueError(f"resized: size must be at least 1, got {size}")
        return replace(self, size=size)

    def __getitem__(self, rows: int | slice | Tensor) -> Tensor:
        """Decode one image `[3, H, W]`, or those of a slice or an index tensor `[B, 3, H, W]`.

        Raises:
            BrokenDataError: a file is no whole image, or the images are not of one size and no `size` is set.
        """
        if isinstance(rows, int):
            return torch.from_numpy(self._read(self.paths[rows]))
        paths = self.subset(rows).paths
        images = [self._read(path) for path in paths]
        for path, image in zip(paths, images, strict=True):
            if image.shape != images[0].shape:
                sizes = ["{} x {}".format(*picture.shape[1:]) for picture in (images[0], image)]
                raise BrokenDataError(path, f"an image of {sizes[0]} as {paths[0].name}", sizes[1])
        if not images:
            return torch.empty(0, 3, self.size or 0, self.size or 0, dtype=torch.uint8)
        return torch.from_numpy(np.stack(images))

    def _read(self, path: Path) -> np.ndarray:
        pillow = require("PIL.Image", "reading images")
        with reading(path), open(path, "rb") as file:
            try:
                with pillow.open(file) as opened:
                    image = opened.convert("RGB")
            except OSError as error:
                if error.errno is not None:  # the operating system's; a decoder's have no number
                    raise
                raise BrokenDataError(path, "a whole image", str(error)) from None
            except (SyntaxError, ValueError, pillow.DecompressionBombError) as error:
                raise BrokenDataError(path, "a whole image", str(error)) from None
        if self.size is not None and image.size != (self.size, self.size):
            image = image.resize((self.size, self.size), pillow.Resampling.BILINEAR)
        return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def _repeats(paths: Sequence[Path]) -> list[list[int]]:
    """Rows grouped by the bytes of their files: 390 of the published images repeat others byte for byte."""
    groups: dict[bytes, list[int]] = {}
    for row, path in enumerate(paths):
        with reading(path):
            groups.setdefault(hashlib.blake2b(path.read_bytes(), digest_size=16).digest(), []).append(row)
    return list(groups.values())


def load_utkface(data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """UTKFace (Zhang, Song, Qi, 2017), aligned and cropped: 23 705 faces, labels int64 `[B, 3]` age, gender, race.

    Reads the names in `ROOT/utkface/UTKFace/`; `x` are `ImageFiles` that decode on demand (200 x 200 as published;
    `.resized(256)`). There is no published split: groups of byte-identical files are shuffled by NumPy's
    `RandomState(113)`, and whole groups go to the test part until it has 20 % of the images, so that no image is in
    both. Names that lack a label are skipped and counted in `num_skipped`. For one label as classes: `face_task`.

    Raises:
        MissingDataError: the folder is not there.
        BrokenDataError: a name is of another form, or fewer than two images are there.
    """
    folder = dataset_folder("utkface", data_dir, "UTKFace")
    with reading(folder):
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    paths, labels = [], []
    for name in names:
        try:
            face = parse_face_name(name)
        except ValueError:
            expected = "a name <age>_<gender 0|1>_<race 0..4>_<time>.jpg.chip.jpg"
            raise BrokenDataError(folder / name, expected, repr(name)) from None
        if face is not None:
            paths.append(folder / name)
            labels.append(face)
    groups = _repeats(paths)
    if len(groups) < 2:
        raise BrokenDataError(folder, "at least two different images with age, gender and race", f"{len(groups)}")
    np.random.RandomState(SHUFFLE_SEED).shuffle(groups)
    num_test = max(1, int(TEST_SHARE * len(paths)))
    test: list[int] = []
    while len(test) < num_test and len(groups) > 1:
        test += groups.pop()
    train = [row for group in groups for row in group]
    everything = Split(ImageFiles(tuple(paths)), torch.tensor(labels))
    num_skipped = len(names) - len(paths)
    parts = everything.take(torch.tensor(train)), everything.take(torch.tensor(test))
    return Dataset("utkface", *parts, num_skipped=num_skipped)


def age_group(age: Tensor) -> Tensor:
    """The age class 0..9: how many of 10, 20, ..., 90 the age is above (0-10 is 0, 11-20 is 1, ..., 91 and more 9)."""
    return torch.bucketize(age.contiguous(), torch.tensor(AGE_CUTOFFS))


def face_task(dataset: Dataset, label: str) -> Dataset:
    """UTKFace with one of its labels as classes: `"age"` (10 groups), `"gender"` (2) or `"race"` (5).

    Raises:
        ValueError: another label.
    """
    if label not in FACE_LABELS:
        raise ValueError(f"face_task: label must be one of {', '.join(FACE_LABELS)}, got {label!r}")
    column = FACE_LABELS.index(label)
    names = (AGE_NAMES, GENDER_NAMES, RACE_NAMES)[column]

    def pick(_: str, split: Split) -> Split:
        y = split.y[:, column]
        return Split(split.x, age_group(y) if label == "age" else y)

    return replace(dataset.map(pick), name=f"{dataset.name}_{label}", class_names=names)
