from __future__ import annotations

import numpy as np
import pytest
import torch

from rsn2.data import (
    Dataset,
    MissingDataError,
    Split,
    data_root,
    min_max_scaled,
    select_classes,
    standardised,
    validation_split,
)
from rsn2.data.dataset import permuted


def numbers(num_train: int, num_test: int = 2, classes: int = 0) -> Dataset:
    """Row i has the features i, 2 i, 7 and the target i (mod classes)."""

    def split(start: int, num: int) -> Split:
        i = torch.arange(start, start + num)
        y = i % classes if classes else i.float().unsqueeze(1)
        return Split(torch.stack([i, 2 * i, torch.full_like(i, 7)], dim=1).float(), y)

    names = tuple(f"class {c}" for c in range(classes))
    return Dataset("numbers", split(0, num_train), split(num_train, num_test), class_names=names)


@pytest.mark.parametrize(
    "num_rows, fraction, num_train",
    [
        (60000, 0.2, 48000),
        (404, 0.2, 323),
        (506, 0.2, 404),
        (10, 0.9, 1),
        (10, 0.3, 7),
        (2, 0.5, 1),
        (1000, 0.049, 951),
    ],
)
def test_validation_is_the_last_part(num_rows, fraction, num_train):
    split = validation_split(numbers(num_rows), fraction)
    assert split.train.y.flatten().tolist() == list(range(num_train))
    assert split.validation.y.flatten().tolist() == list(range(num_train, num_rows))
    assert split.test.y.flatten().tolist() == [num_rows, num_rows + 1]


def test_validation_split_copies_nothing():
    dataset = numbers(10)
    split = validation_split(dataset)
    assert split.validation.x.untyped_storage().data_ptr() == dataset.train.x.untyped_storage().data_ptr()


def test_validation_split_refuses():
    with pytest.raises(ValueError, match="the training part of numbers would be empty"):
        validation_split(numbers(1), 0.2)
    with pytest.raises(ValueError, match="the training part of numbers would be empty: fraction 0.9 of 4"):
        validation_split(numbers(4), 0.9)
    with pytest.raises(ValueError, match="would be empty"):
        validation_split(numbers(0))
    for fraction in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match="fraction must be above 0 and below 1"):
            validation_split(numbers(10), fraction)
    with pytest.raises(ValueError, match="has a validation part of 2 rows already"):
        validation_split(validation_split(numbers(10)))


def test_split_of_unequal_lengths():
    with pytest.raises(ValueError, match="one length, got 3 and 2"):
        Split(torch.zeros(3, 1), torch.zeros(2))


def test_texts_are_split_and_permuted_like_tensors():
    y = torch.arange(5)
    texts = Split(tuple("abcde"), y)
    assert texts.take(slice(1, 3)).x == ("b", "c")
    shuffled = permuted(texts, seed=3)
    assert shuffled.x == tuple("abcde"[i] for i in shuffled.y.tolist()) and shuffled.x != texts.x
    assert torch.equal(permuted(Split(y, y), seed=3).x, shuffled.y)


def test_min_max_by_the_training_part():
    scaled = min_max_scaled(numbers(5, num_test=2))
    assert scaled.train.x[:, 1].tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert scaled.train.x[:, 2].tolist() == [0] * 5  # a constant feature
    assert scaled.test.x[:, 0].tolist() == [1.25, 1.5]
    assert scaled.train.y.flatten().tolist() == [0, 0.25, 0.5, 0.75, 1] and scaled.train.y.dtype == torch.float32
    assert scaled.test.y * scaled.target_scale + scaled.target_offset == pytest.approx(torch.tensor([[5.0], [6.0]]))


def test_scaling_agrees_with_scikit_learn():
    preprocessing = pytest.importorskip("sklearn.preprocessing", reason="scikit-learn gives the expected values")
    x = torch.from_numpy(np.random.default_rng(0).normal(3, 5, (33, 4))).float()
    y = torch.from_numpy(np.random.default_rng(1).normal(-2, 9, (33, 1))).float()
    dataset = Dataset("random", Split(x[:20], y[:20]), Split(x[20:], y[20:]))
    for ours, theirs in (
        (min_max_scaled(dataset), preprocessing.MinMaxScaler),
        (standardised(dataset), preprocessing.StandardScaler),
    ):
        for part, split in ours.splits().items():
            expected_x = theirs().fit(dataset.train.x.double()).transform(dataset.splits()[part].x.double())
            expected_y = theirs().fit(dataset.train.y.double()).transform(dataset.splits()[part].y.double())
            np.testing.assert_array_equal(split.x, expected_x.astype(np.float32))
            np.testing.assert_allclose(split.y, expected_y, rtol=1e-6)


def test_scaling_twice_still_leads_back():
    dataset = numbers(7)
    scaled = min_max_scaled(standardised(dataset))
    back = scaled.test.y * scaled.target_scale + scaled.target_offset
    torch.testing.assert_close(back, dataset.test.y)


def test_scaling_leaves_labels_alone():
    dataset = numbers(6, classes=3)
    for scaled in (min_max_scaled(dataset), standardised(dataset)):
        assert torch.equal(scaled.train.y, dataset.train.y) and scaled.target_scale == 1
    assert torch.equal(min_max_scaled(numbers(6), target=False).train.y, numbers(6).train.y)


def test_scaling_refuses():
    images = torch.zeros(3, 1, 2, 2, dtype=torch.uint8)
    dataset = Dataset("pictures", Split(images, torch.zeros(3)), Split(images, torch.zeros(3)))
    with pytest.raises(
        ValueError, match=r"min_max_scaled: x of pictures must be float features \[B, I\], got torch.uint8"
    ):
        min_max_scaled(dataset)
    texts = Split(("a",), torch.zeros(1))
    with pytest.raises(ValueError, match="standardised: x of texts must be float features .*, got tuple"):
        standardised(Dataset("texts", texts, texts))
    with pytest.raises(ValueError, match="the training part of numbers is empty"):
        standardised(numbers(0))


def test_select_classes_renumbers_in_order():
    easy = select_classes(numbers(8, classes=4), [3, 1])
    assert easy.train.y.tolist() == [1, 0, 1, 0]
    assert easy.train.x[:, 0].tolist() == [1, 3, 5, 7]
    assert easy.class_names == ("class 3", "class 1")


@pytest.mark.parametrize("classes", [[], [0, 0], [4], [-1]])
def test_select_classes_refuses(classes):
    with pytest.raises(ValueError, match=r"classes must be distinct and in 0\.\.3"):
        select_classes(numbers(8, classes=4), classes)


def test_root(monkeypatch, tmp_path):
    monkeypatch.setenv("RSN2_DATA", str(tmp_path))
    assert data_root() == tmp_path
    assert data_root("/elsewhere").as_posix() == "/elsewhere"
    monkeypatch.setenv("RSN2_DATA", "")
    with pytest.raises(MissingDataError, match=r"pass data_dir \(--data-dir DIR\) or set RSN2_DATA"):
        data_root()
