"""The file from which a training run that was killed goes on."""

from __future__ import annotations

import os
import pickle
import shutil
import zipfile
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

_FORMAT = "rsn2 training state, version 2"


class Checkpoint:
    """Keeps a training state in one file, which at any moment holds a complete one.

    A new state is written beside the old one, forced to the disk, and then takes its name.

    Args:
        path: the file; its folder must be there.
        num_bytes: about how large a state is.

    Raises:
        OSError: the folder is missing, cannot be written to, or has too little room.
    """

    def __init__(self, path: str | PathLike[str], num_bytes: int) -> None:
        self.path = Path(path)
        self._next = self.path.with_name(self.path.name + ".next")
        folder = self.path.parent
        if not folder.is_dir():
            raise NotADirectoryError(f"checkpoint: there is no folder {folder}")
        if self.path.is_dir():
            raise IsADirectoryError(f"checkpoint: must be a file, but {self.path} is a folder")
        try:
            self._next.touch()
            self._next.unlink()
        except OSError as error:
            raise OSError(f"checkpoint: cannot write to the folder {folder}: {error}") from error
        free = shutil.disk_usage(folder).free
        if free < num_bytes:
            raise OSError(f"checkpoint: {folder} has {free} bytes left, but a state takes about {num_bytes}")

    def save(self, state: dict[str, Any]) -> None:
        """Replace the file by this state.

        Raises:
            OSError: it could not be written; the file is as it was.
        """
        try:
            with open(self._next, "wb") as file:
                torch.save(_without_numpy({"format": _FORMAT, **state}), file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(self._next, self.path)
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)  # the new name, too, must be on the disk
            finally:
                os.close(folder)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            self._next.unlink(missing_ok=True)
            raise OSError(f"checkpoint: could not write {self.path}: {error}") from error

    def load(self) -> dict[str, Any] | None:
        """The state in the file, or None when there is none.

        Raises:
            ValueError: the file is something else.
        """
        if not self.path.exists():
            return None
        if not zipfile.is_zipfile(self.path):  # what torch.save writes is one
            raise ValueError(f"checkpoint: {self.path} is not a training state of rsn2.fit, or broken")
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
        except (RuntimeError, pickle.UnpicklingError) as error:
            raise ValueError(f"checkpoint: {self.path} is no training state of rsn2.fit, or broken: {error}") from error
        if not isinstance(state, dict) or state.get("format") != _FORMAT:
            found = state.get("format") if isinstance(state, dict) else type(state).__name__
            raise ValueError(f"checkpoint: {self.path} must hold {_FORMAT!r}, got {found!r}")
        return state


def _without_numpy(value: Any) -> Any:
    """NumPy's numbers as Python's: a file with others would not be read again without running pickled code."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {_without_numpy(key): _without_numpy(part) for key, part in value.items()}
    return type(value)(map(_without_numpy, value)) if type(value) in (list, tuple) else value
