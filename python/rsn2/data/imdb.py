"""IMDB reviews: the folders of aclImdb, and a tokenizer that numbers words by how often they occur."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rsn2.data.dataset import Dataset, Split, dataset_folder, permuted
from rsn2.data.errors import BrokenDataError, MissingDataError, reading

IMDB_NAMES = ("negative", "positive")
SHUFFLE_SEED = 113  # of Keras' imdb, which the paper's experiments read
PAD, START, UNKNOWN, INDEX_FROM = 0, 1, 2, 3
_FILE_NAME = re.compile(r"(\d+)_(10|[0-9])\.txt")
_RATINGS = {"neg": range(1, 5), "pos": range(7, 11)}
# What Keras' Tokenizer takes for blanks; the apostrophe stays inside words.
_BLANKS = str.maketrans(dict.fromkeys('!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n', " "))


def _read_reviews(folder: Path, sentiment: str) -> list[str]:
    with reading(folder):
        names = [name for name in os.listdir(folder) if not name.startswith(".")]
    numbered = []
    for name in names:
        match = _FILE_NAME.fullmatch(name)
        if match is None or int(match[2]) not in _RATINGS[sentiment]:
            stars = f"{_RATINGS[sentiment][0]}..{_RATINGS[sentiment][-1]}"
            raise BrokenDataError(folder / name, f"a file name <number>_<stars {stars}>.txt", repr(name))
        numbered.append((int(match[1]), name))
    texts = []
    for _, name in sorted(numbered):
        path = folder / name
        with reading(path):
            raw = path.read_bytes()
        try:
            texts.append(raw.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise BrokenDataError(path, "UTF-8 text", str(error)) from None
        if not texts[-1].strip():
            raise BrokenDataError(path, "a review", f"{len(raw)} bytes without a word")
    if not texts:
        raise BrokenDataError(folder, "reviews <number>_<stars>.txt", "none")
    return texts


def _read_split(folder: Path) -> Split:
    for sentiment in _RATINGS:
        if not (folder / sentiment).is_dir():
            raise MissingDataError(
                f"imdb: there is no folder {folder / sentiment}: aclImdb is incomplete, fetch it again"
            )
    negative, positive = (_read_reviews(folder / sentiment, sentiment) for sentiment in ("neg", "pos"))
    y = torch.tensor([0] * len(negative) + [1] * len(positive))
    return permuted(Split((*negative, *positive), y), SHUFFLE_SEED)


def load_imdb(data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """IMDB reviews (Maas et al., 2011): 25 000 + 25 000 texts (a tuple of str), labels 0 negative and 1 positive.

    Reads `ROOT/imdb/aclImdb/{train,test}/{neg,pos}/<number>_<stars>.txt`; ROOT is `data_dir` or `RSN2_DATA`. On disk
    the reviews lie negative ones first, by number; each part comes shuffled by NumPy's `RandomState(113)`, so that
    the last 20 % are a fair validation part.

    Raises:
        MissingDataError: a folder is not there.
        BrokenDataError: a name is not of that form, a file is empty or no UTF-8, or a folder holds no review.
    """
    folder = dataset_folder("imdb", data_dir, "aclImdb")
    return Dataset("imdb", _read_split(folder / "train"), _read_split(folder / "test"), class_names=IMDB_NAMES)


def split_words(text: str) -> list[str]:
    """Lower-case words; all punctuation but the apostrophe separates them."""
    return text.lower().translate(_BLANKS).split()


@dataclass(frozen=True)
class Vocabulary:
    """Word numbers as in Keras' `imdb.load_data`: 0 pads, 1 starts a text, 2 is an unknown word, 3 is unused,
    the r-th most frequent word (from 1) is r + 3. Ids are below `size`, so that `Embedding(size, ...)` takes them:
    the size - 4 most frequent words have an id of their own.

    Attributes:
        size: how many ids there are.
        words: the known words, most frequent first.
    """

    size: int
    words: tuple[str, ...]

    @classmethod
    def of(cls, texts: Iterable[str], size: int = 10_000) -> Vocabulary:
        """Count the words of the (training) texts. Equally frequent words are ordered alphabetically.

        Raises:
            ValueError: `size` leaves no id for a word, or the texts hold no word.
        """
        if size <= INDEX_FROM + 1:
            raise ValueError(f"Vocabulary: size must be above {INDEX_FROM + 1}, got {size}")
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(split_words(text))
        if not counts:
            raise ValueError("Vocabulary: the texts hold no word")
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return cls(size, tuple(word for word, _ in ranked[: size - INDEX_FROM - 1]))

    def encode(self, texts: Sequence[str], length: int = 128) -> Tensor:
        """Word ids, int64 `[B, length]`: the start id, then the words; cut, or padded with 0, at the end.

        Raises:
            ValueError: `length` is below 1.
        """
        if length < 1:
            raise ValueError(f"encode: length must be at least 1, got {length}")
        ids = {word: rank + INDEX_FROM + 1 for rank, word in enumerate(self.words)}
        encoded = np.full((len(texts), length), PAD, dtype=np.int64)
        for row, text in enumerate(texts):
            line = [START, *(ids.get(word, UNKNOWN) for word in split_words(text)[: length - 1])]
            encoded[row, : len(line)] = line
        return torch.from_numpy(encoded)


def tokenised(dataset: Dataset, size: int = 10_000, length: int = 128) -> Dataset:
    """The texts of every part as word ids, int64 `[B, length]`, by the vocabulary of the TRAINING texts."""
    vocabulary = Vocabulary.of(dataset.train.x, size)
    return dataset.map(lambda _, split: Split(vocabulary.encode(split.x, length), split.y))
