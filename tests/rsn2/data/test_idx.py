from __future__ import annotations

import gzip

import numpy as np
import pytest
import torch

from rsn2.data import BrokenDataError, DataFolderError, MissingDataError, load_fashion_mnist, load_mnist
from rsn2.data.idx import read_idx


def test_reads_images_and_labels(tmp_path, write):
    write.mnist(tmp_path)
    dataset = load_mnist(tmp_path)
    assert dataset.name == "mnist" and dataset.num_classes == 10
    assert dataset.train.x.dtype == torch.uint8 and list(dataset.train.x.shape) == [13, 1, 28, 28]
    assert dataset.train.x[:, 0, 27, 0].tolist() == list(range(13))
    assert dataset.train.y.dtype == torch.int64 and dataset.train.y.tolist() == [*range(10), 0, 1, 2]
    assert list(dataset.test.x.shape) == [4, 1, 28, 28] and len(dataset.test) == 4


def test_images_are_in_row_order(tmp_path, write):
    folder = write.mnist(tmp_path, name="fashion_mnist")
    images = np.random.default_rng(0).integers(0, 256, (13, 28, 28), dtype=np.uint8)
    write.idx(folder / "train-images-idx3-ubyte.gz", images)
    assert np.array_equal(load_fashion_mnist(tmp_path).train.x[:, 0].numpy(), images)


def test_root_from_the_environment(tmp_path, write, monkeypatch):
    write.mnist(tmp_path, name="fashion_mnist")
    monkeypatch.setenv("RSN2_DATA", str(tmp_path))
    assert load_fashion_mnist().class_names[9] == "Ankle boot"


def test_missing_data_names_command_and_folder(tmp_path, monkeypatch):
    with pytest.raises(MissingDataError) as caught:
        load_mnist(tmp_path)
    assert str(tmp_path / "mnist") in str(caught.value)
    assert f"rsn2 data fetch mnist --data-dir {tmp_path}" in str(caught.value)
    monkeypatch.delenv("RSN2_DATA", raising=False)
    with pytest.raises(MissingDataError, match=r"mnist: no data folder is known.*RSN2_DATA.*rsn2 data fetch"):
        load_mnist()


def test_missing_file_is_named(tmp_path, write):
    (write.mnist(tmp_path) / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(MissingDataError, match=r"t10k-labels-idx1-ubyte\.gz: there is no such file"):
        load_mnist(tmp_path)


def test_unreadable_file_is_named(tmp_path, write, deny):
    path = write.mnist(tmp_path) / "train-images-idx3-ubyte.gz"
    deny(path, PermissionError(13, "Permission denied"))
    with pytest.raises(DataFolderError, match=r"train-images.*cannot be read \(permission denied\)"):
        load_mnist(tmp_path)


def test_disk_error_is_named(tmp_path, write, deny):
    path = write.mnist(tmp_path) / "train-images-idx3-ubyte.gz"
    deny(path, OSError(5, "Input/output error"))
    with pytest.raises(DataFolderError, match=r"train-images.*cannot be read \(Input/output error\)"):
        load_mnist(tmp_path)


def test_folder_in_place_of_a_file(tmp_path):
    with pytest.raises(BrokenDataError, match="expected a file"):
        read_idx(tmp_path, num_dims=1)


HEADER = bytes((0, 0, 8, 1))
BROKEN = {
    "not_gzip": (b"<html>not found</html>", "a whole gzip file"),
    "empty_file": (b"", "the magic number 00000801, found an empty file"),
    "cut_gzip": (gzip.compress(HEADER + b"\0\0\0\3\1\2\3")[:-9], "a whole gzip file"),
    "damaged_gzip": (gzip.compress(HEADER + b"\0\0\0\3\1\2\3")[:-8] + b"\0" * 8, "a whole gzip file"),
    "gzip_of_nothing": (gzip.compress(b""), "the magic number 00000801, found an empty file"),
    "wrong_magic": (gzip.compress(bytes((0, 0, 8, 3)) + b"\0" * 12), "the magic number 00000801, found 00000803"),
    "wrong_type": (gzip.compress(bytes((0, 0, 13, 1)) + b"\0\0\0\1" + b"\0" * 4), "found 00000d01"),
    "cut_header": (gzip.compress(HEADER + b"\0\0"), "a header of 8 bytes, found 6 bytes"),
    "short_payload": (gzip.compress(HEADER + b"\0\0\0\5\1\2\3"), r"5 bytes after the header \(5\), found 3"),
    "long_payload": (gzip.compress(HEADER + b"\0\0\0\2\1\2\3"), r"2 bytes after the header \(2\), found 3"),
    "sizes_beyond_memory": (gzip.compress(HEADER + b"\xff\xff\xff\xff\1"), "4294967295 bytes after the header"),
}


@pytest.mark.parametrize("content, message", BROKEN.values(), ids=BROKEN)
def test_broken_file(tmp_path, content, message):
    path = tmp_path / "labels.gz"
    path.write_bytes(content)
    with pytest.raises(BrokenDataError, match=message) as caught:
        read_idx(path, num_dims=1)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "file, values, message",
    [
        ("train-images-idx3", np.zeros((13, 28, 27)), "images of 28 x 28, found 28 x 27"),
        ("train-images-idx3", np.zeros((0, 28, 28)), "at least one image, found none"),
        ("t10k-labels-idx1", np.zeros(5), "4 labels, one per image, found 5"),
        ("t10k-labels-idx1", np.array([0, 1, 10, 2]), r"labels 0\.\.9, found the label 10"),
    ],
)
def test_files_that_do_not_fit(tmp_path, write, file, values, message):
    write.idx(write.mnist(tmp_path) / f"{file}-ubyte.gz", values)
    with pytest.raises(BrokenDataError, match=message) as caught:
        load_mnist(tmp_path)
    assert file in str(caught.value)


COUNTS = {
    "mnist": (
        [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
        [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
    ),
    "fashion_mnist": ([6000] * 10, [1000] * 10),
}


@pytest.mark.parametrize("name", COUNTS)
def test_real_counts(real_data, name):
    dataset = {"mnist": load_mnist, "fashion_mnist": load_fashion_mnist}[name](real_data(name))
    assert dataset.train.y.bincount().tolist() == COUNTS[name][0]
    assert dataset.test.y.bincount().tolist() == COUNTS[name][1]
    assert list(dataset.train.x.shape) == [60000, 1, 28, 28] and list(dataset.test.x.shape) == [10000, 1, 28, 28]
