"""Tiny data sets in the published formats, written into a temporary folder."""

from __future__ import annotations

import gzip
import os
import pickle
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest


def write_idx(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape)
    path.write_bytes(gzip.compress(header + values.astype(np.uint8).tobytes()))


def write_mnist(root: Path, num_train: int = 13, num_test: int = 4, name: str = "mnist") -> Path:
    """Image i is filled with i and labelled i % 10."""
    for prefix, num in (("train", num_train), ("t10k", num_test)):
        images = np.broadcast_to(np.arange(num, dtype=np.uint8)[:, None, None], (num, 28, 28))
        write_idx(root / name / f"{prefix}-images-idx3-ubyte.gz", images)
        write_idx(root / name / f"{prefix}-labels-idx1-ubyte.gz", np.arange(num) % 10)
    return root / name


def _short_string(text: bytes) -> bytes:
    return (b"U" + bytes([len(text)]) if len(text) < 256 else b"T" + struct.pack("<i", len(text))) + text


def python2_pickle(data: np.ndarray, labels: list[int]) -> bytes:
    """The opcodes that Python 2 and NumPy 1 wrote into the published CIFAR-10 batches."""
    num_rows, num_columns = data.shape
    out = b"\x80\x02}(" + _short_string(b"batch_label") + _short_string(b"training batch 1 of 5")
    out += _short_string(b"labels") + b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    out += _short_string(b"data") + b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    shape = b"J" + struct.pack("<i", num_rows) + b"J" + struct.pack("<i", num_columns) + b"\x86"
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    out += b"(K\x01" + shape + dtype + b"\x89" + _short_string(data.tobytes()) + b"tb"
    out += _short_string(b"filenames") + b"](" + b"".join(_short_string(b"image_%d.png" % i) for i in range(num_rows))
    return out + b"eu."


def write_cifar10(root: Path, rows_per_batch: int = 3) -> Path:
    """Image i of batch b is filled with 10 b + i and labelled i % 10; half of the batches as Python 2 wrote them."""
    folder = root / "cifar10" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for batch, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        data = np.repeat((10 * batch + np.arange(rows_per_batch, dtype=np.uint8))[:, None], 3072, axis=1)
        labels = [i % 10 for i in range(rows_per_batch)]
        if batch % 2:
            (folder / name).write_bytes(python2_pickle(data, labels))
        else:
            (folder / name).write_bytes(pickle.dumps({b"data": data, b"labels": labels}, protocol=2))
    return folder


def write_housing(root: Path, num_rows: int = 10) -> Path:
    """Row i holds 100 i + column, so that the target ends in 13."""
    (root / "boston_housing").mkdir(parents=True)
    path = root / "boston_housing" / "housing.data"
    lines = (" " + "  ".join(f"{100 * row + column:9.4f}" for column in range(14)) for row in range(num_rows))
    path.write_text("\n".join(lines) + "\n")
    return path


def write_imdb(root: Path, per_sentiment: int = 3) -> Path:
    folder = root / "imdb" / "aclImdb"
    for split in ("train", "test"):
        for sentiment, stars in (("neg", 1), ("pos", 10)):
            (folder / split / sentiment).mkdir(parents=True)
            for number in range(per_sentiment):
                text = f"A {sentiment} film, isn't it?<br />Number {number} of {split}."
                (folder / split / sentiment / f"{number}_{stars}.txt").write_text(text, encoding="utf-8")
    return folder


ODD_FACES = ("24_0_1_20170116220224657 .jpg.chip.jpg", "55_0_0_20170116232725357jpg.chip.jpg")
SHORT_FACES = (
    "39_1_20170116174525125.jpg.chip.jpg",
    "61_1_20170109142408075.jpg.chip.jpg",
    "61_1_20170109150557335.jpg.chip.jpg",
)


def write_utkface(root: Path, num_plain: int = 8, side: int = 20) -> Path:
    """Plain names, the two odd ones and the three without all labels; every picture has one grey of its own."""
    image_of = pytest.importorskip("PIL.Image", reason="Pillow writes the pictures").new
    folder = root / "utkface" / "UTKFace"
    folder.mkdir(parents=True)
    plain = [f"{1 + 12 * i}_{i % 2}_{i % 5}_2017011621{i:06d}.jpg.chip.jpg" for i in range(num_plain)]
    for grey, name in enumerate((*plain, *ODD_FACES, *SHORT_FACES)):
        image_of("RGB", (side, side), (16 * grey, 16 * grey, 16 * grey)).save(folder / name, format="JPEG", quality=95)
    return folder


@pytest.fixture(scope="session")
def write() -> SimpleNamespace:
    """The writers above: `write.mnist(tmp_path)`, ..."""
    return SimpleNamespace(
        idx=write_idx,
        mnist=write_mnist,
        cifar10=write_cifar10,
        housing=write_housing,
        imdb=write_imdb,
        utkface=write_utkface,
        python2_pickle=python2_pickle,
        odd_faces=ODD_FACES,
        short_faces=SHORT_FACES,
    )


@pytest.fixture
def deny(monkeypatch):
    """`deny(path, error)`: reading or listing `path` fails as the operating system would say it.

    A file's permissions would not do: they do not bind the user root, as whom tests run in containers.
    """

    def install(path: Path, error: OSError) -> None:
        def guarded(function):
            def call(first, *args, **kwargs):
                if not isinstance(first, int) and Path(first) == path:
                    raise error
                return function(first, *args, **kwargs)

            return call

        monkeypatch.setattr("builtins.open", guarded(open))
        monkeypatch.setattr(Path, "read_bytes", guarded(Path.read_bytes))
        monkeypatch.setattr(os, "listdir", guarded(os.listdir))

    return install


@pytest.fixture
def real_data():
    """`real_data(name)`: the data folder, where the data set of that name is there; else the test is skipped."""

    def folder(name: str) -> str:
        root = os.environ.get("RSN2_DATA")
        if not root:
            pytest.skip("RSN2_DATA is not set: the real data sets are needed")
        if not (Path(root) / name).is_dir():
            pytest.skip(f"RSN2_DATA has no folder {name}")
        return root

    return folder
