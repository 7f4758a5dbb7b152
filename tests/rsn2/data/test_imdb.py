from __future__ import annotations

import pytest
import torch

from rsn2.data import (
    BrokenDataError,
    DataFolderError,
    MissingDataError,
    Vocabulary,
    load_imdb,
    split_words,
    tokenised,
    validation_split,
)


def test_reads_texts_and_labels(tmp_path, write):
    folder = write.imdb(tmp_path)
    (folder / "train" / "neg" / "10_4.txt").write_text("Grüße, très mauvais", encoding="utf-8")
    dataset = load_imdb(tmp_path)
    assert len(dataset.train) == 7 and len(dataset.test) == 6
    assert isinstance(dataset.train.x, tuple) and "Grüße, très mauvais" in dataset.train.x
    for text, label in zip(dataset.test.x, dataset.test.y.tolist(), strict=True):
        assert ("pos" in text) == (label == 1) and "of test" in text


def test_order_is_shuffled_the_same_every_time(tmp_path, write):
    write.imdb(tmp_path, per_sentiment=40)
    first, again = load_imdb(tmp_path), load_imdb(tmp_path)
    assert first.train.x == again.train.x and torch.equal(first.train.y, again.train.y)
    # On disk the negative ones come first; the last fifth must hold both kinds.
    assert set(validation_split(first).validation.y.tolist()) == {0, 1}


NAMES = {
    "no_rating": "3.txt",
    "no_number": "x_3.txt",
    "positive_stars": "3_9.txt",
    "neutral_stars": "3_5.txt",
    "other_file": "urls.csv",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_bad_name(tmp_path, write, name):
    (write.imdb(tmp_path) / "test" / "neg" / name).write_text("text")
    with pytest.raises(BrokenDataError, match=rf"expected a file name <number>_<stars 1\.\.4>\.txt, found '{name}'"):
        load_imdb(tmp_path)


def test_broken_texts(tmp_path, write):
    path = write.imdb(tmp_path) / "train" / "pos" / "1_10.txt"
    path.write_bytes(b"caf\xe9")
    with pytest.raises(BrokenDataError, match=r"1_10\.txt: expected UTF-8 text"):
        load_imdb(tmp_path)
    path.write_bytes(b" \n")
    with pytest.raises(BrokenDataError, match=r"1_10\.txt: expected a review, found 2 bytes without a word"):
        load_imdb(tmp_path)


def test_missing_and_empty_folders(tmp_path, write):
    with pytest.raises(MissingDataError, match="rsn2 data fetch imdb"):
        load_imdb(tmp_path)
    folder = write.imdb(tmp_path) / "test" / "pos"
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(BrokenDataError, match="pos: expected reviews .*, found none"):
        load_imdb(tmp_path)
    folder.rmdir()
    with pytest.raises(MissingDataError, match=r"there is no folder .*test/pos: aclImdb is incomplete"):
        load_imdb(tmp_path)


def test_unreadable(tmp_path, write, deny):
    folder = write.imdb(tmp_path) / "test" / "pos"
    deny(folder, PermissionError(13, "Permission denied"))
    with pytest.raises(DataFolderError, match="pos: cannot be read"):
        load_imdb(tmp_path)


def test_words():
    assert split_words("It's GOOD -- very,good!<br />2/10") == ["it's", "good", "very", "good", "br", "2", "10"]


def test_vocabulary_is_ordered_by_frequency_then_alphabet():
    vocabulary = Vocabulary.of(["b a a c", "A d b a"], size=7)
    assert vocabulary.words == ("a", "b", "c")  # ids 4, 5, 6; d is unknown
    ids = vocabulary.encode(["a d b unheard", "", "c c c c c c c c c"], length=6)
    assert ids.tolist() == [[1, 4, 2, 5, 2, 0], [1, 0, 0, 0, 0, 0], [1, 6, 6, 6, 6, 6]]
    assert ids.dtype == torch.int64


def test_vocabulary_uses_the_training_texts_alone(tmp_path, write):
    write.imdb(tmp_path)
    dataset = tokenised(load_imdb(tmp_path), size=100, length=11)
    assert list(dataset.train.x.shape) == [6, 11] and dataset.train.x.max() < 100
    assert (dataset.test.x == 2).any(dim=1).all()  # "test" occurs in no training text


def test_bad_arguments():
    with pytest.raises(ValueError, match="size must be above 4, got 4"):
        Vocabulary.of(["a"], size=4)
    with pytest.raises(ValueError, match="hold no word"):
        Vocabulary.of(["...", ""])
    with pytest.raises(ValueError, match="length must be at least 1, got 0"):
        Vocabulary.of(["a"]).encode(["a"], length=0)


def test_real_reviews(real_data):
    dataset = load_imdb(real_data("imdb"))
    assert dataset.train.y.bincount().tolist() == [12500, 12500] == dataset.test.y.bincount().tolist()
    mean_words = [sum(len(text.split()) for text in split.x) / 25000 for split in (dataset.train, dataset.test)]
    assert mean_words == pytest.approx([234, 228], abs=1)
    vocabulary = Vocabulary.of(dataset.train.x)
    assert vocabulary.words[:3] == ("the", "and", "a") and len(vocabulary.words) == 9996
    ids = vocabulary.encode(dataset.test.x[:2000])
    assert list(ids.shape) == [2000, 128] and ids.max() < 10_000 and (ids[:, 0] == 1).all()
    assert (ids == 2).double().mean() < 0.1
