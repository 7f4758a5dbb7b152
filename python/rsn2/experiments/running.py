"""Runs the units of an experiment, skips those that are finished, and writes a line for each."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rsn2.experiments import environment, records
from rsn2.experiments.experiment import Context, Experiment, Unit


def run(experiment: Experiment, out: Path, *, data_dir: Path | None = None, seeds: Sequence[int] | None = None,
        variants: Sequence[str] | None = None, smoke: bool = False, progress: bool = True,
        say: Callable[[str], None] = print) -> list[dict[str, Any]]:  # fmt: skip
    """Do the work that no line in ``out/results.jsonl`` records yet.

    A unit that was interrupted goes on from its checkpoint in ``out/checkpoints``; the checkpoint is deleted when the
    line is written.

    Args:
        experiment: what to run.
        out: folder of results, made when it is not there.
        data_dir: folder of the data sets; ``RSN2_DATA`` when None.
        seeds, variants: which; all by default.
        smoke: the experiment's settings for a run of seconds.
        progress: progress bars.
        say: prints a line.

    Returns:
        The lines of all units asked for, in their order.
    """
    units = experiment.units(
        None if seeds is None else tuple(seeds), None if variants is None else tuple(variants), smoke
    )
    path = out / records.FILE_NAME
    finished = []
    for number, unit in enumerate(units, start=1):
        name = f"[{number}/{len(units)}] {unit.experiment} {unit.variant} seed {unit.seed} {unit.stage}"
        record = records.find(records.read_lines(path), unit)
        if record is not None:
            say(f"{name}: finished before, skipped")
        else:
            record = _run_unit(experiment, unit, name, Context(data_dir, out, _checkpoint(out, unit), progress, say))
            records.append_line(path, record)
            _checkpoint(out, unit).unlink(missing_ok=True)
            say(f"{name}: {_summary(record)}")
        finished.append(record)
    return finished


def _checkpoint(out: Path, unit: Unit) -> Path:
    return out / "checkpoints" / f"{unit.file_stem}.pt"


def _run_unit(experiment: Experiment, unit: Unit, name: str, context: Context) -> dict[str, Any]:
    resumed = context.checkpoint.exists()
    context.say(f"{name}: {'going on from its checkpoint' if resumed else 'starts'}")
    context.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    memory, start = environment.PeakMemory(), time.perf_counter()
    metrics = experiment.run_unit(unit, context)
    return {
        "experiment": unit.experiment,
        "variant": unit.variant,
        "seed": unit.seed,
        "stage": unit.stage,
        "settings_hash": unit.settings_hash,
        "settings": dict(unit.settings),
        "metrics": metrics,
        "wall_seconds": round(time.perf_counter() - start, 2),
        "resumed": resumed,  # then wall_seconds counts the last part only
        "peak_memory_bytes": memory.num_bytes(),
        "peak_memory_since_start_of_process": memory.since_start_of_process,
        "environment": environment.facts(),
        "finished_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _summary(record: dict[str, Any]) -> str:
    tasks = record["metrics"].get("tasks", {})
    parts = [
        f"{task} {key} {value[key]:.4f}" for task, value in tasks.items() for key in ("accuracy", "mse") if key in value
    ]
    return f"{', '.join(parts)} in {record['wall_seconds']:.0f} s"
