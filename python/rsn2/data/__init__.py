"""Data sets: readers of the published file formats, splits, scaling, mini-batches, downloads and checks.

Data lies under one folder, given as `data_dir` or by the variable `RSN2_DATA`, in the publishers' own formats:

    mnist/, fashion_mnist/   {train,t10k}-{images-idx3,labels-idx1}-ubyte.gz
    cifar10/                 cifar-10-batches-py/{data_batch_1..5,test_batch}
    boston_housing/          housing.data
    imdb/                    aclImdb/{train,test}/{neg,pos}/<number>_<stars>.txt
    utkface/                 UTKFace/<age>_<gender>_<race>_<date&time>.jpg.chip.jpg

`load_digits`, `load_breast_cancer`, `load_wine` and `load_diabetes` come with scikit-learn and need no folder.
"""

from rsn2.data.batches import TensorBatches, flat_pixels, unit_pixels
from rsn2.data.boston import load_boston_housing
from rsn2.data.bundled import BUNDLED, load_breast_cancer, load_diabetes, load_digits, load_wine
from rsn2.data.checking import CheckResult, check, fingerprint
from rsn2.data.cifar10 import load_cifar10
from rsn2.data.dataset import (
    Dataset,
    Split,
    data_root,
    min_max_scaled,
    select_classes,
    standardised,
    validation_split,
)
from rsn2.data.errors import BrokenDataError, DataError, DataFolderError, MissingDataError
from rsn2.data.fetching import fetch
from rsn2.data.idx import load_fashion_mnist, load_mnist
from rsn2.data.imdb import Vocabulary, load_imdb, split_words, tokenised
from rsn2.data.sources import SOURCES
from rsn2.data.utkface import ImageFiles, age_group, face_task, load_utkface, parse_face_name

__all__ = [
    "BUNDLED",
    "SOURCES",
    "BrokenDataError",
    "CheckResult",
    "DataError",
    "DataFolderError",
    "Dataset",
    "ImageFiles",
    "MissingDataError",
    "Split",
    "TensorBatches",
    "Vocabulary",
    "age_group",
    "check",
    "data_root",
    "face_task",
    "fetch",
    "fingerprint",
    "flat_pixels",
    "load_boston_housing",
    "load_breast_cancer",
    "load_cifar10",
    "load_diabetes",
    "load_digits",
    "load_fashion_mnist",
    "load_imdb",
    "load_mnist",
    "load_utkface",
    "load_wine",
    "min_max_scaled",
    "parse_face_name",
    "select_classes",
    "split_words",
    "standardised",
    "tokenised",
    "unit_pixels",
    "validation_split",
]
