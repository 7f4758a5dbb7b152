"""CIFAR-10: the Python version's pickled batches, read without running anything that a pickle may ask for."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rsn2.data.dataset import Dataset, Split, dataset_folder
from rsn2.data.errors import BrokenDataError, reading

CIFAR10_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TRAIN_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
FOLDER = "cifar-10-batches-py"


def _byte_dtype(spec: Any, *flags: Any) -> np.dtype:
    if spec not in ("u1", b"u1", "|u1", b"|u1"):
        raise pickle.UnpicklingError(f"an array of {spec!r}")
    return np.dtype("u1", *flags)


def _empty_array(kind: Any, shape: Any, code: Any) -> np.ndarray:
    if kind is not np.ndarray or tuple(shape) != (0,):
        raise pickle.UnpicklingError(f"an array made as {kind!r} of {shape!r}")
    return np.ndarray((0,), dtype=np.uint8)


def _latin1(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError(f"text in the encoding {encoding!r}")
    return text.encode("latin1")


class _BatchUnpickler(pickle.Unpickler):
    """Admits what a CIFAR-10 batch is made of (dicts, lists, numbers, text, byte arrays) and calls nothing else."""

    ADMITTED = {
        ("numpy.core.multiarray", "_reconstruct"): _empty_array,  # NumPy 1 and the published files
        ("numpy._core.multiarray", "_reconstruct"): _empty_array,  # NumPy 2
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): _byte_dtype,
        ("_codecs", "encode"): _latin1,  # bytes, as Python 3 writes them in protocol 2
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ADMITTED:
            raise pickle.UnpicklingError(f"the name {module}.{name}, which no CIFAR-10 file holds")
        return self.ADMITTED[module, name]


def read_batch(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """Read one batch file: a pickled dict with `b"data"` (uint8 `[B, 3072]`, channels first) and `b"labels"`.

    Returns:
        images uint8 `[B, 3, 32, 32]` and labels int64 `[B]`.

    Raises:
        MissingDataError: there is no such file.
        BrokenDataError: it is cut short, is no pickle, holds anything but such a dict, or asks for other code to run.
    """
    path = Path(path)
    with reading(path), open(path, "rb") as file:
        try:
            content = _BatchUnpickler(file, encoding="bytes").load()
        except OSError:
            raise
        except Exception as error:  # a damaged pickle may fail in any way; every one of them means the same here
            raise BrokenDataError(
                path, "a whole pickle of a CIFAR-10 batch", str(error) or type(error).__name__
            ) from None
    if not isinstance(content, dict) or not {b"data", b"labels"} <= content.keys():
        keys = f"a dict with {sorted(map(repr, content))}" if isinstance(content, dict) else type(content).__name__
        raise BrokenDataError(path, "a dict with b'data' and b'labels'", keys)
    data, labels = content[b"data"], content[b"labels"]
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        found = f"{data.dtype} {list(data.shape)}" if isinstance(data, np.ndarray) else type(data).__name__
        raise BrokenDataError(path, "b'data' of uint8 [B, 3072]", found)
    if len(data) == 0:
        raise BrokenDataError(path, "at least one image", "none")
    if not isinstance(labels, list) or len(labels) != len(data):
        found = f"{len(labels)}" if isinstance(labels, list) else type(labels).__name__
        raise BrokenDataError(path, f"a list of {len(data)} b'labels', one per image", found)
    for label in labels:
        if type(label) is not int or not 0 <= label <= 9:
            raise BrokenDataError(path, "labels 0..9", f"the label {label!r}")
    return data.reshape(-1, 3, 32, 32), np.array(labels, dtype=np.int64)


def _read_batches(paths: list[Path]) -> Split:
    batches = [read_batch(path) for path in paths]
    x = torch.from_numpy(np.concatenate([images for images, _ in batches]))
    return Split(x, torch.from_numpy(np.concatenate([labels for _, labels in batches])))


def load_cifar10(data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """CIFAR-10 (Krizhevsky, 2009): 50 000 + 10 000 images, uint8 `[B, 3, 32, 32]`, labels 0..9, in file order.

    Reads `ROOT/cifar10/cifar-10-batches-py/{data_batch_1..5,test_batch}`; ROOT is `data_dir` or `RSN2_DATA`.

    Raises:
        MissingDataError, BrokenDataError, DataFolderError: see `read_batch`.
    """
    folder = dataset_folder("cifar10", data_dir, FOLDER)
    train = _read_batches([folder / name for name in TRAIN_BATCHES])
    return Dataset("cifar10", train, _read_batches([folder / "test_batch"]), class_names=CIFAR10_NAMES)
