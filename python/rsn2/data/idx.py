"""MNIST and Fashion-MNIST: gzipped idx files (a big-endian header of magic number and sizes, then raw bytes)."""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import torch

from rsn2.data.dataset import Dataset, Split, dataset_folder
from rsn2.data.errors import BrokenDataError, reading

DIGIT_NAMES = tuple(str(digit) for digit in range(10))
FASHION_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
IMAGES, LABELS = "images-idx3-ubyte.gz", "labels-idx1-ubyte.gz"
_UINT8 = 0x08  # the third byte of the magic number: the element type


def read_idx(path: str | os.PathLike[str], num_dims: int) -> np.ndarray:
    """Read one gzipped idx file of unsigned bytes.

    Args:
        path: the file.
        num_dims: how many dimensions it must have: 3 for images, 1 for labels.

    Returns:
        A writable uint8 array of the shape that the header states.

    Raises:
        MissingDataError: there is no such file.
        BrokenDataError: it is no gzip file, is cut short, or header and length do not fit.
    """
    path = Path(path)
    with reading(path):
        compressed = path.read_bytes()
    try:
        content = gzip.decompress(compressed)
    except (gzip.BadGzipFile, EOFError, zlib.error, struct.error) as error:
        raise BrokenDataError(path, "a whole gzip file", f"{len(compressed)} bytes ({error})") from None
    magic = bytes((0, 0, _UINT8, num_dims))
    header_bytes = 4 + 4 * num_dims
    if content[:4] != magic:
        raise BrokenDataError(path, f"the magic number {magic.hex()}", content[:4].hex() or "an empty file")
    if len(content) < header_bytes:
        raise BrokenDataError(path, f"a header of {header_bytes} bytes", f"{len(content)} bytes")
    shape = struct.unpack_from(f">{num_dims}I", content, 4)
    num_values = len(content) - header_bytes
    if num_values != math.prod(shape):
        sizes = " x ".join(map(str, shape))
        raise BrokenDataError(path, f"{math.prod(shape)} bytes after the header ({sizes})", f"{num_values}")
    return np.frombuffer(bytearray(content), dtype=np.uint8, offset=header_bytes).reshape(shape)


def _read_split(folder: Path, prefix: str) -> Split:
    images = read_idx(folder / f"{prefix}-{IMAGES}", num_dims=3)
    labels_path = folder / f"{prefix}-{LABELS}"
    labels = read_idx(labels_path, num_dims=1)
    if images.shape[1:] != (28, 28):
        raise BrokenDataError(folder / f"{prefix}-{IMAGES}", "images of 28 x 28", "{} x {}".format(*images.shape[1:]))
    if len(images) == 0:
        raise BrokenDataError(folder / f"{prefix}-{IMAGES}", "at least one image", "none")
    if len(labels) != len(images):
        raise BrokenDataError(labels_path, f"{len(images)} labels, one per image", f"{len(labels)}")
    if labels.max() > 9:
        raise BrokenDataError(labels_path, "labels 0..9", f"the label {labels.max()}")
    return Split(torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels.astype(np.int64)))


def load_mnist(data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """MNIST (LeCun, Cortes, Burges): 60 000 + 10 000 digits, uint8 `[B, 1, 28, 28]`, labels 0..9, in file order.

    Reads `ROOT/mnist/{train,t10k}-{images-idx3,labels-idx1}-ubyte.gz`; ROOT is `data_dir` or `RSN2_DATA`.

    Raises:
        MissingDataError, BrokenDataError, DataFolderError: see `read_idx`.
    """
    folder = dataset_folder("mnist", data_dir)
    return Dataset("mnist", _read_split(folder, "train"), _read_split(folder, "t10k"), class_names=DIGIT_NAMES)


def load_fashion_mnist(data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Fashion-MNIST (Xiao, Rasul, Vollgraf, 2017): as `load_mnist`, from `ROOT/fashion_mnist`."""
    folder = dataset_folder("fashion_mnist", data_dir)
    parts = _read_split(folder, "train"), _read_split(folder, "t10k")
    return Dataset("fashion_mnist", *parts, class_names=FASHION_NAMES)
