from __future__ import annotations

import pytest
import torch

from rsn2.data import BrokenDataError, MissingDataError, load_boston_housing, min_max_scaled, validation_split
from rsn2.data.boston import read_housing


def test_rows_and_split(tmp_path, write):
    write.housing(tmp_path)
    dataset = load_boston_housing(tmp_path)
    assert len(dataset.train) == 8 and len(dataset.test) == 2
    assert dataset.train.x.dtype == torch.float32 and list(dataset.train.x.shape) == [8, 13]
    assert list(dataset.train.y.shape) == [8, 1] and dataset.train.y.dtype == torch.float32
    rows = torch.cat([dataset.train.y, dataset.test.y]).flatten().sub(13).div(100).tolist()
    assert sorted(rows) == list(range(10)) and rows != sorted(rows)
    assert torch.equal(dataset.train.x[:, 12] + 1, dataset.train.y[:, 0])
    assert dataset.num_classes == 0


BROKEN = {
    "columns_missing": ("1 2 3\n", "14 numbers in line 1, found 3 columns"),
    "columns_too_many": (" ".join("1" * 14) + "\n" + " ".join("1" * 15), "14 numbers in line 2, found 15 columns"),
    "no_number": (" ".join("1" * 13) + " x\n", "14 numbers in line 1, found could not convert.*'x'"),
    "not_finite": (" ".join("1" * 13) + " nan\n", "finite numbers in line 1"),
    "empty_file": ("", "lines of 14 numbers, found none in 0 bytes"),
    "web_page": ("<html>\n", "14 numbers in line 1, found 1 columns"),
}


@pytest.mark.parametrize("content, message", BROKEN.values(), ids=BROKEN)
def test_broken_file(tmp_path, content, message):
    path = tmp_path / "housing.data"
    path.write_text(content)
    with pytest.raises(BrokenDataError, match=message) as caught:
        read_housing(path)
    assert str(path) in str(caught.value)


def test_cut_in_the_middle_of_a_line(tmp_path, write):
    path = write.housing(tmp_path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(BrokenDataError, match="14 numbers in line 10, found"):
        load_boston_housing(tmp_path)


def test_one_row_cannot_be_split(tmp_path, write):
    write.housing(tmp_path, num_rows=1)
    with pytest.raises(BrokenDataError, match="at least two rows, found 1"):
        load_boston_housing(tmp_path)


def test_missing(tmp_path):
    with pytest.raises(MissingDataError, match="rsn2 data fetch boston_housing"):
        load_boston_housing(tmp_path)


def test_real_split_is_that_of_keras(real_data):
    dataset = load_boston_housing(real_data("boston_housing"))
    assert len(dataset.train) == 404 and len(dataset.test) == 102
    first = [1.23247, 0, 8.14, 0, 0.538, 6.142, 91.7, 3.9769, 4, 307, 21, 396.9, 18.72]  # of Keras' x_train
    assert torch.equal(dataset.train.x[0], torch.tensor(first))
    assert dataset.train.y[:2].flatten().tolist() == pytest.approx([15.2, 42.3], abs=1e-5)
    everything = torch.cat([dataset.train.y, dataset.test.y]).double()
    assert everything.mean().item() == pytest.approx(22.5328, abs=1e-4)
    assert (everything == 50).sum().item() == 16
    scaled = min_max_scaled(dataset)
    assert scaled.train.x.min() == 0 and scaled.train.x.max() == 1 and scaled.train.y.max() == 1
    split = validation_split(dataset)
    assert len(split.train) == 323 and len(split.validation) == 81
