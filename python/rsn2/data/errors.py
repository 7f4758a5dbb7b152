"""What can be wrong with data on a disk, each with its own exception and a message that says what to do."""

from __future__ import annotations

import errno
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType


class DataError(Exception):
    """Something about a data set on disk: the base of the three below."""


class MissingDataError(DataError, FileNotFoundError):
    """A data set, or a file of it, is not where it was looked for."""


class BrokenDataError(DataError, ValueError):
    """A file is there but truncated, foreign or damaged: which file, what was expected, what was found."""

    def __init__(self, path: Path | str, expected: str, found: str):
        super().__init__(path, expected, found)  # all of them in args, so that it can be pickled by worker processes

    def __str__(self) -> str:
        path, expected, found = self.args
        return f"{path}: expected {expected}, found {found}"


class DataFolderError(DataError, OSError):
    """A file or folder cannot be read or written: permissions, a read-only or a full disk."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what the operating system says while `path` is read into a `DataError` that names it."""
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError:
        raise MissingDataError(
            f"{path}: there is no such file, the data set is incomplete: "
            f"delete its folder, then `rsn2 data fetch` gets it again"
        ) from None
    except (IsADirectoryError, NotADirectoryError) as error:
        raise BrokenDataError(path, "a file in a folder", str(error.strerror).lower()) from None
    except PermissionError:
        raise DataFolderError(
            f"{path}: cannot be read (permission denied): give this user the right to read it"
        ) from None
    except OSError as error:
        if error.errno is None:  # raised by a decoder, not by the operating system
            raise
        raise DataFolderError(f"{path}: cannot be read ({error.strerror})") from error


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """The same for writing under `folder`."""
    try:
        yield
    except DataError:
        raise
    except OSError as error:
        reasons = {
            errno.ENOSPC: "no space is left on the disk",
            errno.EDQUOT: "the disk quota is used up",
            errno.EROFS: "the file system is read-only",
            errno.EACCES: "permission denied",
            errno.EPERM: "permission denied",
            errno.ENOTDIR: "a part of that path is a file, not a folder",
            errno.EEXIST: "a file of that name is in the way",
            errno.ENOTEMPTY: "a folder of that name is in the way",
        }
        if error.errno not in reasons:
            raise
        raise DataFolderError(
            f"{folder}: cannot be written: {reasons[error.errno]}; choose another folder with --data-dir or RSN2_DATA"
        ) from error


def require(module: str, what_for: str) -> ModuleType:
    """Import a module that only the extra `[experiments]` brings.

    Raises:
        ImportError: it is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not (module == error.name or module.startswith(error.name + ".")):
            raise  # the module is there; something that it needs is not
        raise ImportError(
            f"{what_for} needs the module {module}, which is not installed: pip install 'rsn2-kernels[experiments]'",
            name=error.name,
        ) from None
