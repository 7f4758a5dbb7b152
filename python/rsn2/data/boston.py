"""Boston housing: `housing.data`, 506 lines of 14 blank-separated numbers."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from rsn2.data.dataset import Dataset, Split, dataset_folder, permuted
from rsn2.data.errors import BrokenDataError, reading

NUM_COLUMNS = 14
SHUFFLE_SEED = 113  # of Keras' boston_housing, which the paper's experiments read


def read_housing(path: str | os.PathLike[str]) -> np.ndarray:
    """Read `housing.data`: float64 `[B, 14]`, 13 features, then the target MEDV (median value in $1000s).

    Raises:
        MissingDataError: there is no such file.
        BrokenDataError: a line has another number of columns or something that is not a finite number, or no line.
    """
    path = Path(path)
    with reading(path):
        raw = path.read_bytes()
    rows = []
    for number, line in enumerate(raw.decode("latin1").splitlines(), start=1):
        if not line.strip():
            continue
        words = line.split()
        where = f"line {number}"
        if len(words) != NUM_COLUMNS:
            raise BrokenDataError(
                path, f"{NUM_COLUMNS} numbers in {where}", f"{len(words)} columns: {line.strip()[:60]!r}"
            )
        try:
            row = [float(word) for word in words]
        except ValueError as error:
            raise BrokenDataError(path, f"{NUM_COLUMNS} numbers in {where}", str(error)) from None
        if not np.isfinite(row).all():
            raise BrokenDataError(path, f"finite numbers in {where}", f"{line.strip()!r}")
        rows.append(row)
    if not rows:
        raise BrokenDataError(path, f"lines of {NUM_COLUMNS} numbers", f"none in {len(raw)} bytes")
    return np.array(rows)


def load_boston_housing(data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Boston housing (Harrison and Rubinfeld, 1978): 404 + 102 rows of 13 float32 features, target float32 `[B, 1]`.

    Reads `ROOT/boston_housing/housing.data`. There is no published split; the rows are shuffled by NumPy's
    `RandomState(113)` and the first `int(0.8 n)` train, as Keras splits them. Values are as in the file: see
    `min_max_scaled`. One column encodes a racial proportion: a benchmark, nothing to build on.

    Raises:
        MissingDataError, BrokenDataError, DataFolderError: see `read_housing`.
    """
    folder = dataset_folder("boston_housing", data_dir)
    table = torch.from_numpy(read_housing(folder / "housing.data")).float()
    rows = permuted(Split(table[:, :-1].contiguous(), table[:, -1:].contiguous()), SHUFFLE_SEED)
    num_train = int(len(rows) * 0.8)
    if num_train == 0:
        raise BrokenDataError(folder / "housing.data", "at least two rows", f"{len(rows)}")
    return Dataset("boston_housing", rows.take(slice(0, num_train)), rows.take(slice(num_train, len(rows))))
