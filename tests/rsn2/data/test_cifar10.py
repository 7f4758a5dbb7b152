from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from rsn2.data import BrokenDataError, DataFolderError, MissingDataError, load_cifar10
from rsn2.data.cifar10 import read_batch


def test_reads_all_batches_in_order(tmp_path, write):
    write.cifar10(tmp_path)
    dataset = load_cifar10(tmp_path)
    assert dataset.train.x.dtype == torch.uint8 and list(dataset.train.x.shape) == [15, 3, 32, 32]
    assert dataset.train.x[:, 2, 31, 31].tolist() == [10 * batch + i for batch in range(5) for i in range(3)]
    assert dataset.train.y.tolist() == [0, 1, 2] * 5
    assert dataset.test.x[:, 0, 0, 0].tolist() == [50, 51, 52]
    assert dataset.class_names[9] == "truck"


@pytest.mark.parametrize("protocol", ["python2", 2, 3, 4])
def test_channels_rows_columns(tmp_path, write, protocol):
    data = np.random.default_rng(0).integers(0, 256, (2, 3072), dtype=np.uint8)
    path = tmp_path / "batch"
    if protocol == "python2":
        path.write_bytes(write.python2_pickle(data, [7, 9]))
    else:
        path.write_bytes(pickle.dumps({b"data": data, b"labels": [7, 9]}, protocol=protocol))
    images, labels = read_batch(path)
    assert images[1, 2, 5, 11] == data[1, 2 * 1024 + 5 * 32 + 11]
    assert labels.tolist() == [7, 9] and labels.dtype == np.int64


class Evil:
    """Unpickling it would call what it holds."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def test_no_foreign_code_runs(tmp_path):
    proof, path = tmp_path / "proof", tmp_path / "batch"
    path.write_bytes(pickle.dumps({b"data": Evil(open, str(proof), "w"), b"labels": []}, protocol=2))
    with pytest.raises(BrokenDataError, match=r"the name .*open, which no CIFAR-10 file holds"):
        read_batch(path)
    assert not proof.exists()


GOOD = np.zeros((2, 3072), dtype=np.uint8)
BROKEN = {
    "not_a_pickle": (b"<html>not found</html>", "a whole pickle"),
    "empty_file": (b"", "a whole pickle"),
    "cut_short": (pickle.dumps({b"data": GOOD, b"labels": [1, 2]}, protocol=2)[:-900], "a whole pickle"),
    "a_list": (pickle.dumps([1, 2]), "a dict with b'data' and b'labels', found list"),
    "other_keys": (pickle.dumps({b"data": 1, b"fine_labels": 2}), r"found a dict with .*fine_labels"),
    "data_is_a_list": (pickle.dumps({b"data": [1], b"labels": [1]}), "uint8 .*, found list"),
    "floats": (pickle.dumps({b"data": GOOD.astype(np.float32), b"labels": [1, 2]}, protocol=2), "array of 'f4'"),
    "objects": (pickle.dumps({b"data": np.array([None]), b"labels": [1]}, protocol=2), "array of 'O8'"),
    "wrong_width": (pickle.dumps({b"data": GOOD[:, :3000].copy(), b"labels": [1, 2]}, protocol=2), r"\[2, 3000\]"),
    "no_rows": (pickle.dumps({b"data": GOOD[:0].copy(), b"labels": []}, protocol=3), "at least one image"),
    "too_few_labels": (pickle.dumps({b"data": GOOD, b"labels": [1]}, protocol=2), "a list of 2 b'labels'.*found 1"),
    "labels_no_list": (pickle.dumps({b"data": GOOD, b"labels": b"ab"}, protocol=2), "found bytes"),
    "label_10": (pickle.dumps({b"data": GOOD, b"labels": [1, 10]}, protocol=2), "the label 10"),
    "label_text": (pickle.dumps({b"data": GOOD, b"labels": [1, b"2"]}, protocol=2), "the label b'2'"),
    "odd_encoding": (pickle.dumps({b"data": Evil(__import__("_codecs").encode, "a", "rot13")}), "the encoding 'rot13'"),
}


@pytest.mark.parametrize("content, message", BROKEN.values(), ids=BROKEN)
def test_broken_file(tmp_path, content, message):
    path = tmp_path / "data_batch_3"
    path.write_bytes(content)
    with pytest.raises(BrokenDataError, match=message) as caught:
        read_batch(path)
    assert str(path) in str(caught.value)


def test_missing(tmp_path, write):
    with pytest.raises(MissingDataError, match="rsn2 data fetch cifar10"):
        load_cifar10(tmp_path)
    (write.cifar10(tmp_path) / "data_batch_4").unlink()
    with pytest.raises(MissingDataError, match="data_batch_4: there is no such file"):
        load_cifar10(tmp_path)


def test_unreadable(tmp_path, write, deny):
    path = write.cifar10(tmp_path) / "test_batch"
    deny(path, PermissionError(13, "Permission denied"))
    with pytest.raises(DataFolderError, match="test_batch.*permission denied"):
        load_cifar10(tmp_path)


def test_real_counts(real_data):
    dataset = load_cifar10(real_data("cifar10"))
    assert dataset.train.y.bincount().tolist() == [5000] * 10
    assert dataset.test.y.bincount().tolist() == [1000] * 10
    assert list(dataset.train.x.shape) == [50000, 3, 32, 32]
