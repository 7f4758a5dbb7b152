"""Results on disk: one JSON object per line, by which the next run knows what is done."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .device import StandIn  # not at run time: the summary does without torch

TIME_IS_UP = 75
"""Exit status: call again for the rest (sysexits' EX_TEMPFAIL)."""
DEVICE_IS_LOST = 76
"""Exit status: the process cannot use the GPU any more; call again for the rest."""
INTERRUPTED = "interrupted"


class TimeIsUp(BaseException):
    """The seconds given to this process are over. Work that catches errors of its own lets this one through."""


class DeviceIsLost(Exception):
    """A kernel left the GPU unusable for this process."""


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Lines:
    """A file of lines, each with a ``name`` that is unique in it.

    A line with ``status`` ``"started"`` is written before the work. Where nothing follows it, the work took its process
    along, or hung; it is not tried again, and the line becomes one of status ``"lost"``. Work that was asked to end
    (:func:`end_when_asked`) leaves ``"interrupted"``, which counts as not begun; the second time it is lost, since it
    takes longer than a process has.

    Args:
        path: the file, made when the first line is written.
        device: asked whether it lives after an error.
        seconds: after so many nothing more is begun.
        retry: what failed or was lost counts as not done.
    """

    def __init__(self, path: Path, device: StandIn, seconds: float, *, retry: bool = False) -> None:
        self.path, self.device = path, device
        self._end = time.monotonic() + seconds
        self.found: dict[str, dict[str, Any]] = {}
        for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            line = json.loads(text)
            self.found[line["name"]] = line
        self._interrupted = {name for name, line in self.found.items() if line["status"] == INTERRUPTED}
        self.found = {name: line for name, line in self.found.items() if name not in self._interrupted}
        if retry:
            self.found = {name: line for name, line in self.found.items() if line["status"] in ("ok", "absent")}
        for line in list(self.found.values()):
            if line["status"] == "started":
                self.write({**line, "status": "lost", "why": "the process ended, or was ended, while it ran"})

    def write(self, line: dict[str, Any]) -> None:
        self.found[line["name"]] = line
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({key: _plain(value) for key, value in line.items()}) + "\n")

    def run(self, name: str, work: Callable[[], dict[str, Any]], **facts: Any) -> dict[str, Any]:
        """The line ``name``, from the file or from ``work``, whose errors make it one of status ``"failed"``.

        Raises:
            TimeIsUp: it is not there, and no time is left; or SIGTERM came.
            DeviceIsLost: an error left the device unusable.
        """
        if name in self.found:
            return self.found[name]
        if time.monotonic() > self._end:
            raise TimeIsUp
        start = time.monotonic()
        try:
            self.write({"name": name, "status": "started", **facts})
            line = {"status": "ok", **work()}
            self.device.synchronize()  # an error of a kernel belongs to the work that started it
        except TimeIsUp:
            self._interrupt(name, facts)
            raise
        except Exception as error:  # whatever a kernel or its compiler raises is a result here
            if _was_asked_to_end:  # on its way through C++ the exception has become another
                self._interrupt(name, facts)
                raise TimeIsUp from error
            line = {"status": "failed", "why": f"{type(error).__name__}: {_first_lines(error)}"}
        self.write({"name": name, **line, **facts, "seconds": round(time.monotonic() - start, 3)})
        if line["status"] == "failed" and not self.device.is_alive():
            raise DeviceIsLost
        return self.found[name]

    def _interrupt(self, name: str, facts: dict[str, Any]) -> None:
        if name in self._interrupted:
            self.write({"name": name, "status": "lost", "why": "it was asked to end twice while it ran", **facts})
        else:
            self.write({"name": name, "status": INTERRUPTED, **facts})


_was_asked_to_end = False


def end_when_asked() -> None:
    """From now on SIGTERM, by which ``timeout`` ends a process, raises TimeIsUp as soon as the device answers."""

    def end(number: int, frame: object) -> None:
        global _was_asked_to_end
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # `timeout` sends it twice
        _was_asked_to_end = True
        raise TimeIsUp

    signal.signal(signal.SIGTERM, end)


def free_cache(device: StandIn) -> None:
    """Give memory back.

    Raises:
        DeviceIsLost: it cannot be given back, as after a capture that failed.
    """
    try:
        device.free_cache()
    except RuntimeError as error:
        print(f"the memory cannot be given back: {_first_lines(error)}", flush=True)
        raise DeviceIsLost from error


def _first_lines(error: Exception) -> str:
    return " | ".join(str(error).strip().splitlines()[:3])[:500]


def read(path: Path) -> list[dict[str, Any]]:
    """The last line of each name, in the order in which they were begun."""
    found: dict[str, dict[str, Any]] = {}
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        line = json.loads(text)
        found[line["name"]] = line
    return [line for line in found.values() if line["status"] != INTERRUPTED]
