"""Whole epochs in whole processes: ours and masked dense training of the paper's networks, in turns.

Both train the same task layers' weights from the same starting values on the same batches with the same loop and
optimizer (``rsn2.fit``); they differ in the layers alone. The data sets come from ``RSN2_DATA``.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rsn2.metrics import Timing

from .facts import ROOT
from .measure import judge, summary
from .registry import Goal

MASKED = "masked dense"
PROOF_STEPS = 3
MAY_DIFFER = 1e-4  # of a loss: float32 sums in another order, three steps of Adam apart


@dataclass(frozen=True)
class Network:
    """A network of the paper and how much of its epoch is trained.

    Attributes:
        title: what the line is called.
        kind: which of :mod:`bench.epoch`'s networks.
        tasks: its data sets.
        keep: share of every layer's weights that a task owns.
        num_steps: of the epoch of 94 batches of 512; None for all of it.
        goal: of the whole process's time.
    """

    title: str
    kind: str
    tasks: tuple[str, ...]
    keep: float
    num_steps: int | None
    goal: Goal


NETWORKS = {
    "fully_connected": Network(
        "experiment 3, 784-1000x6-10, two tasks", "fully_connected", ("digits", "fashion"), 0.10, None,
        Goal(MASKED, 3.5, 6),
    ),
    # The convolutions make an epoch last minutes.
    "conv": Network("experiment 1, conv network, one task", "conv", ("fashion",), 0.20, 24, Goal(MASKED, 2, 3)),
}  # fmt: skip
STEPS_OF_EPOCH = 94


def run_process(network: Network, how: str, prepared: Path, num_steps: int | None) -> dict[str, Any]:
    """One training in a process of its own; its report, with the seconds from start to end.

    Raises:
        RuntimeError: the process failed.
    """
    paths = [str(ROOT), str(ROOT / "python"), *filter(None, [os.environ.get("PYTHONPATH")])]
    command = [sys.executable, "-m", f"{__package__}.epoch", network.kind, how, str(prepared)]
    command += [f"--steps={num_steps}"] if num_steps is not None else []
    start = time.perf_counter()
    run = subprocess.run(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)}, cwd=ROOT,
                         stdout=subprocess.PIPE, text=True, check=False)  # fmt: skip
    seconds = time.perf_counter() - start
    if run.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed")
    return {**json.loads(run.stdout.splitlines()[-1]), "process_seconds": seconds}


def check_losses(ours: list[float], masked: list[float]) -> None:
    """The first losses of both trainings are the same.

    Raises:
        AssertionError: they are not.
    """
    if not ours or len(ours) != len(masked):
        raise AssertionError(f"{len(ours)} losses of ours, {len(masked)} of masked dense training")
    for own, other in zip(ours, masked, strict=True):
        if not abs(own - other) <= MAY_DIFFER * abs(other):  # also false for NaN
            raise AssertionError(f"losses differ: ours {ours}, masked dense {masked}")


def measure(network: Network, *, quick: bool) -> dict[str, Any]:
    """The line of a network; nothing is timed when the losses differ."""
    from .epoch import prepare

    how_often = 1 if quick else 3
    num_steps = 4 if quick else network.num_steps
    line: dict[str, Any] = {
        "op": "training", "what": "one epoch", "network": network.title, "rows": 512, "density": network.keep,
        "tasks": list(network.tasks), "steps": num_steps or STEPS_OF_EPOCH, "steps_of_epoch": STEPS_OF_EPOCH,
        "dtype": "float32", "threads": torch.get_num_threads(), "absent": {}, "wrong": {},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder, "prepared.pt")
        torch.save(prepare(network.kind, network.tasks, network.keep), prepared)
        first = {how: run_process(network, how, prepared, PROOF_STEPS) for how in ("ours", MASKED)}
        try:
            check_losses(first["ours"]["losses"], first[MASKED]["losses"])
        except AssertionError as error:
            return line | {"wrong": {"ours": str(error)}}
        runs: dict[str, list[dict[str, Any]]] = {"ours": [], MASKED: []}
        for _ in range(how_often):
            for how, found in runs.items():
                found.append(run_process(network, how, prepared, num_steps))

    def of(how: str, key: str) -> list[float]:
        return [run[key] for run in runs[how]]

    def median(how: str, key: str) -> float:
        return statistics.median(of(how, key))

    times = {how: summary(Timing(tuple(1e3 * seconds for seconds in of(how, "process_seconds")))) for how in runs}
    ratio = times[MASKED]["median"] / times["ours"]["median"]
    return line | {
        "ours_ms": times["ours"],  # whole processes
        "others_ms": {MASKED: times[MASKED]},
        "ratio": {MASKED: ratio},
        "epoch_seconds": {how: median(how, "epoch_seconds") for how in runs},
        "ratio_epoch": median(MASKED, "epoch_seconds") / median("ours", "epoch_seconds"),
        "peak_bytes": {how: median(how, "peak_bytes") for how in runs},
        "peak_bytes_before_training": {how: median(how, "peak_bytes_before") for how in runs},
        "mean_loss": {how: median(how, "mean_loss") for how in runs},
        "first_losses": {how: first[how]["losses"] for how in runs},
        # A few steps are mostly the start of Python.
        "goals": [] if quick else [judge(network.goal, times["ours"]["median"], {MASKED: times[MASKED]["median"]})],
    }
