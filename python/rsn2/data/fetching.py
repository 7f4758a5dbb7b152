"""Download the published files of a data set, whole or not at all."""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
import tarfile
from pathlib import Path
from typing import Any

from rsn2.data.checking import COMPLETE, check
from rsn2.data.dataset import data_root
from rsn2.data.errors import BrokenDataError, DataError, DataFolderError, require, writing
from rsn2.data.sources import RemoteFile, Source, source_of

_CHUNK_BYTES = 2**18
_TIMEOUT_S = 30


class FetchError(DataError):
    """A data set could not be fetched: no address answered, or it is one to be got by hand."""


def fetch(name: str, data_dir: str | os.PathLike[str] | None = None, *, progressbar: Any = None) -> Path:
    """Download a data set into `ROOT/name`, unless it is there and complete.

    Every file is compared with its published checksum and the content with `SOURCES[name].fingerprint`, in a folder of
    a temporary name that is renamed at the very end: a fetch that fails or is interrupted leaves nothing under the
    data set's name. (One that is killed outright leaves a folder `.NAME.part-*`, which may be deleted.)

    Args:
        name: one of `SOURCES`.
        data_dir: the data folder, else `RSN2_DATA`; made if it is not there.
        progressbar: an object as pooch takes it (`total`, `update(bytes)`, `reset()`, `close()`), or None.

    Returns:
        The folder of the data set.

    Raises:
        ValueError: there is no data set of that name.
        MissingDataError: no data folder is known.
        FetchError: no address delivered the file, or the data set has to be got by hand; the message says how.
        DataFolderError: the folder cannot be written, or its disk is too full; or something incomplete lies there.
        BrokenDataError: what was delivered is not the published content.
        ImportError: pooch is not installed.
    """
    source = source_of(name)
    root = data_root(data_dir, wanted_by=name)
    folder = root / name
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        result = check(name, root)
        if result.status == COMPLETE:
            return folder
        raise DataFolderError(
            f"{folder} is in the way: {result.status}, {result.detail}; move or delete it, then fetch {name} again"
        )
    if not source.files:
        raise FetchError(by_hand(source, root))
    require("pooch", "rsn2 data fetch")
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(root).free
    if free < source.needed_bytes:
        raise DataFolderError(
            f"{root}: cannot be written: {name} needs {source.needed_bytes >> 20} MiB, "
            f"{free >> 20} MiB are free on the disk; choose another folder with --data-dir or RSN2_DATA"
        )
    part = root / f".{name}.part-{secrets.token_hex(4)}"
    try:
        with writing(root):
            (part / name).mkdir(parents=True)
            _download(source, part, progressbar)
            result = check(name, part)
            if result.status != COMPLETE:
                raise BrokenDataError(folder, "the published content", f"{result.status}: {result.detail}")
            os.replace(part / name, folder)  # an empty folder of that name is replaced, any other stops it
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def by_hand(source: Source, root: Path) -> str:
    """How to get and lay out a data set without `fetch`."""
    return (
        f"{source.name} is not fetched ({source.terms}): get it from {source.home} and lay it out as "
        f"{root}/{source.layout}; then `rsn2 data check {source.name} --data-dir {root}`"
    )


def _download(source: Source, part: Path, progressbar: Any) -> None:
    for file in source.files:
        if source.members:
            archive = _retrieve(source, file, part, progressbar)
            _unpack(archive, source.members, part / source.name)
            archive.unlink()
        else:
            _retrieve(source, file, part / source.name, progressbar)


def _retrieve(source: Source, file: RemoteFile, folder: Path, progressbar: Any) -> Path:
    pooch = require("pooch", "rsn2 data fetch")
    requests = require("requests", "rsn2 data fetch")
    pooch.get_logger().setLevel(logging.WARNING)
    failures = []
    for url in file.urls:
        downloader = pooch.HTTPDownloader(progressbar=progressbar or False, chunk_size=_CHUNK_BYTES, timeout=_TIMEOUT_S)
        try:
            return Path(pooch.retrieve(url, file.checksum, fname=file.name, path=folder, downloader=downloader))
        except (requests.exceptions.RequestException, ValueError) as error:  # ValueError: a wrong checksum
            failures.append(f"{url}: {error}")
    tried = "; ".join(failures)
    raise FetchError(
        f"{source.name}: no address delivered {file.name} ({file.checksum}): {tried}. "
        f"It can be got by hand: {source.home}, laid out as {source.layout}"
    )


def _unpack(archive: Path, members: str, folder: Path) -> None:
    """Write the members of a tar archive whose whole names match; everything else in it is left alone."""
    wanted = re.compile(members)
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                content = tar.extractfile(member) if member.isfile() and wanted.fullmatch(member.name) else None
                if content is None:
                    continue
                target = folder / member.name
                target.parent.mkdir(parents=True, exist_ok=True)
                with open(target, "wb") as file:
                    shutil.copyfileobj(content, file, _CHUNK_BYTES)
    except (tarfile.TarError, EOFError) as error:
        raise BrokenDataError(archive.name, "a whole tar archive", str(error)) from None
