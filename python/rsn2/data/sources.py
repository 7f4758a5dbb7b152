"""Where the data sets come from, what their files must be, and how they lie in the data folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from rsn2.data.boston import load_boston_housing
from rsn2.data.cifar10 import FOLDER as CIFAR10_FOLDER
from rsn2.data.cifar10 import TRAIN_BATCHES, load_cifar10
from rsn2.data.dataset import Dataset
from rsn2.data.idx import load_fashion_mnist, load_mnist
from rsn2.data.imdb import load_imdb
from rsn2.data.utkface import load_utkface


@dataclass(frozen=True)
class RemoteFile:
    """A published file: its name, its checksum as `algorithm:hex`, and the addresses that are tried in turn."""

    name: str
    checksum: str
    urls: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """One data set as published.

    Attributes:
        name: its name and that of its folder under the data folder.
        title, home, terms: for people: what it is, its page, under which terms it may be used.
        load: the reader, a function of `data_dir`.
        files: what `fetch` gets; empty where that is left to the user.
        members: which members of an archive are unpacked, a regular expression of whole names; empty for plain files.
        layout: how the files lie under the data folder.
        needed_bytes: disk space that fetching takes at its peak.
        num_train, num_test: the numbers of rows.
        fingerprint: SHA-256 of the decoded content (`fingerprint()`); the same for every faithful copy.
    """

    name: str
    title: str
    home: str
    terms: str
    load: Callable[[str | os.PathLike[str] | None], Dataset]
    files: tuple[RemoteFile, ...]
    members: str
    layout: str
    needed_bytes: int
    num_train: int
    num_test: int
    fingerprint: str


def _idx_files(addresses: tuple[str, ...], checksums: dict[str, str]) -> tuple[RemoteFile, ...]:
    return tuple(
        RemoteFile(name, f"sha256:{sha256}", tuple(address + name for address in addresses))
        for name, sha256 in checksums.items()
    )


_IDX_LAYOUT = "{train,t10k}-images-idx3-ubyte.gz and {train,t10k}-labels-idx1-ubyte.gz"
_MEBIBYTE = 2**20

SOURCES = {
    source.name: source
    for source in (
        Source(
            name="mnist",
            title="MNIST, handwritten digits",
            home="http://yann.lecun.com/exdb/mnist/",
            terms="commonly stated as CC BY-SA 3.0; LeCun, Cortes, Burges",
            load=load_mnist,
            files=_idx_files(
                (  # the home page no longer serves the files reliably; the mirrors are those of PyTorch and of CVDF
                    "https://ossci-datasets.s3.amazonaws.com/mnist/",
                    "https://storage.googleapis.com/cvdf-datasets/mnist/",
                    "http://yann.lecun.com/exdb/mnist/",
                ),
                {
                    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
                },
            ),
            members="",
            layout=f"mnist/: {_IDX_LAYOUT}",
            needed_bytes=12 * _MEBIBYTE,
            num_train=60_000,
            num_test=10_000,
            fingerprint="3e7363c2259f6f44f16d3669756db299796ad6f69fc14c664cb6010540e6e48f",
        ),
        Source(
            name="fashion_mnist",
            title="Fashion-MNIST, articles of clothing",
            home="https://github.com/zalandoresearch/fashion-mnist",
            terms="MIT licence, (c) 2017 Zalando SE; Xiao, Rasul, Vollgraf 2017",
            load=load_fashion_mnist,
            files=_idx_files(
                (
                    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
                    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
                ),
                {
                    "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                    "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                    "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                    "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
                },
            ),
            members="",
            layout=f"fashion_mnist/: {_IDX_LAYOUT}",
            needed_bytes=32 * _MEBIBYTE,
            num_train=60_000,
            num_test=10_000,
            fingerprint="d9d4038c8bd701b42c96fcd95b45b763bbfbdea2ec517960bbf1efa93c342f4b",
        ),
        Source(
            name="cifar10",
            title="CIFAR-10, tiny colour images",
            home="https://www.cs.toronto.edu/~kriz/cifar.html",
            terms="no explicit licence, research with citation; Krizhevsky 2009",
            load=load_cifar10,
            files=(
                RemoteFile(
                    "cifar-10-python.tar.gz",
                    "sha256:6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
                    ("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",),
                ),
            ),
            members=rf"{CIFAR10_FOLDER}/({'|'.join(TRAIN_BATCHES)}|test_batch|batches\.meta)",
            layout=f"cifar10/{CIFAR10_FOLDER}/: data_batch_1 ... data_batch_5, test_batch",
            needed_bytes=350 * _MEBIBYTE,
            num_train=50_000,
            num_test=10_000,
            fingerprint="a1800a6d1afe62cff511a915bfd37835c9c525a036e5bbc88e493f2d1dbf8ebc",
        ),
        Source(
            name="boston_housing",
            title="Boston housing",
            home="https://archive.ics.uci.edu/ml/machine-learning-databases/housing/",
            terms="no explicit licence, in general free use; Harrison and Rubinfeld 1978",
            load=load_boston_housing,
            files=(
                RemoteFile(
                    "housing.data",
                    "sha256:baadf72995725d76efe787b664e1f083388c79ba21ef9a7990d87f774184735a",
                    ("https://archive.ics.uci.edu/ml/machine-learning-databases/housing/housing.data",),
                ),
            ),
            members="",
            layout="boston_housing/: housing.data",
            needed_bytes=_MEBIBYTE,
            num_train=404,
            num_test=102,
            fingerprint="5328dc85bf3fb071b25a43915ccca8a3c0359c8bfd598cb52cf2e770de7ee601",
        ),
        Source(
            name="imdb",
            title="IMDB reviews, positive or negative",
            home="https://ai.stanford.edu/~amaas/data/sentiment/",
            terms="no explicit licence, research with citation; Maas et al. 2011",
            load=load_imdb,
            files=(
                RemoteFile(
                    "aclImdb_v1.tar.gz",
                    "md5:7c2ac02c03563afcf9b574c7e56c153a",
                    ("https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",),
                ),
            ),
            members=r"aclImdb/(train|test)/(neg|pos)/\d+_\d+\.txt",
            layout="imdb/aclImdb/{train,test}/{neg,pos}/: <number>_<stars>.txt",
            needed_bytes=350 * _MEBIBYTE,  # 50 000 files, each of whole disk blocks
            num_train=25_000,
            num_test=25_000,
            fingerprint="48609580dad1ab5390147d957194ccf52d805e4b53f5548738418e83780f982d",
        ),
        Source(
            name="utkface",
            title="UTKFace, aligned and cropped faces",
            home="https://susanqq.github.io/UTKFace/",
            terms="for non-commercial research only; the images belong to their owners",
            load=load_utkface,
            files=(),
            members="",
            layout="utkface/UTKFace/: <age>_<gender>_<race>_<date&time>.jpg.chip.jpg",
            needed_bytes=0,
            num_train=18_964,
            num_test=4_741,
            fingerprint="4873aa7f32dc904dd5caeac355951c058cb095f577623c9c81275a5ed3421c66",
        ),
    )
}


def source_of(name: str) -> Source:
    """The source of a data set.

    Raises:
        ValueError: there is none of that name; the message lists those there are.
    """
    if name not in SOURCES:
        raise ValueError(f"there is no data set {name!r}; there are {', '.join(SOURCES)}")
    return SOURCES[name]
