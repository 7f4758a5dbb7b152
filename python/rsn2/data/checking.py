"""Is a data set there, readable, whole, and what was published?"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass

from rsn2.data.dataset import Dataset, data_root
from rsn2.data.errors import DataError
from rsn2.data.sources import Source, source_of
from rsn2.data.utkface import ImageFiles

COMPLETE, MISSING, BROKEN, DIFFERS = "complete", "missing", "broken", "differs"


@dataclass(frozen=True)
class CheckResult:
    """What `check` found.

    Attributes:
        name: the data set.
        status: `"complete"` (as published), `"missing"` (no folder), `"broken"` (unreadable or damaged) or
            `"differs"` (readable, but not the published content).
        detail: what was found, in words.
    """

    name: str
    status: str
    detail: str


def fingerprint(dataset: Dataset) -> str:
    """SHA-256 of the decoded content of `train` and `test`: the same for any container or compression of it.

    Tensors count with their bytes, texts with their UTF-8 bytes; image files only with their names, since
    re-encoded pixels are still the same pictures.
    """
    digest = hashlib.sha256()
    names: list[str] = []
    for part, split in (("train", dataset.train), ("test", dataset.test)):
        if isinstance(split.x, ImageFiles):
            names += [path.name for path in split.x.paths]
            continue
        digest.update(f"{part} {len(split)}\n".encode())
        if isinstance(split.x, tuple):
            for text in split.x:
                digest.update(text.encode() + b"\0")
        else:
            digest.update(split.x.contiguous().numpy().data)
        digest.update(split.y.contiguous().numpy().data)
    for name in sorted(names):
        digest.update(name.encode() + b"\0")
    return digest.hexdigest()


def check(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    on_image: Callable[[int, int], None] | None = None,
) -> CheckResult:
    """Read a whole data set (every image is decoded) and compare it with what was published.

    Args:
        name: one of `SOURCES`.
        data_dir: the data folder, else `RSN2_DATA`.
        on_image: called with (images decoded, images in all) while image files are decoded.

    Raises:
        ValueError: there is no data set of that name.
        MissingDataError: no data folder is known.
    """
    source = source_of(name)
    folder = data_root(data_dir, wanted_by=name) / name
    if not folder.exists():
        return CheckResult(name, MISSING, f"no folder {folder}")
    try:
        dataset = source.load(data_dir)
        _decode_images(dataset, on_image)
    except DataError as error:
        return CheckResult(name, BROKEN, str(error))
    return _compare(source, dataset)


def _compare(source: Source, dataset: Dataset) -> CheckResult:
    found = f"{len(dataset.train)} + {len(dataset.test)} rows"
    if dataset.num_skipped:
        found += f", {dataset.num_skipped} skipped"
    if (len(dataset.train), len(dataset.test)) != (source.num_train, source.num_test):
        return CheckResult(source.name, DIFFERS, f"{found}, published are {source.num_train} + {source.num_test}")
    actual = fingerprint(dataset)
    if actual != source.fingerprint:
        detail = f"{found}, but content {actual[:12]}... instead of {source.fingerprint[:12]}..."
        return CheckResult(source.name, DIFFERS, detail)
    return CheckResult(source.name, COMPLETE, f"{found}, content as published")


def _decode_images(dataset: Dataset, on_image: Callable[[int, int], None] | None) -> None:
    images = [split.x for split in dataset.splits().values() if isinstance(split.x, ImageFiles)]
    total, done = sum(map(len, images)), 0
    for files in images:
        for row in range(len(files)):
            files[row]
            done += 1
            if on_image is not None:
                on_image(done, total)
