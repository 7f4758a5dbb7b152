"""Runs the units of an experiment, skips those that are finished, and writes a line for each."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from rsn2.experiments import environment, load_experiment, records
from rsn2.experiments.experiment import Context, Experiment, Unit, network_file
from rsn2.memory import give_back_freed_memory


def run(experiment: Experiment, out: Path, *, data_dir: Path | None = None, seeds: Sequence[int] | None = None,
        variants: Sequence[str] | None = None, smoke: bool = False, progress: bool = True,
        device: torch.device | str = "cpu",
        say: Callable[[str], None] = print) -> list[dict[str, Any]]:  # fmt: skip
    """Do the work that no line in ``out/<experiment>.jsonl`` records yet.

    A unit that was interrupted goes on from its checkpoint in ``out/checkpoints``; the checkpoint is deleted when the
    line is written. What a later stage builds on is in ``out/networks``; where it is gone, the stage before runs again.
    The dense controls that an experiment borrows are units of the experiment they are borrowed from.

    Args:
        experiment: what to run.
        out: folder of results, made when it is not there.
        data_dir: folder of the data sets; ``RSN2_DATA`` when None.
        seeds, variants: which; all by default.
        smoke: the experiment's settings for a run of seconds.
        progress: progress bars.
        device: where networks are trained.
        say: prints a line.

    Returns:
        The lines of all units asked for, in their order.

    Raises:
        NotADirectoryError: ``out`` is a file.
    """
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"run: out must be a folder, got the file {out}")
    chosen = None if seeds is None else tuple(seeds)
    units = experiment.units(chosen, None if variants is None else tuple(variants), smoke)
    experiments = {experiment.name: experiment}
    if variants is None or any(
        name not in experiment.variants or experiment.variants[name].is_control for name in variants
    ):
        for other in dict.fromkeys(name for name, _ in experiment.borrowed_controls.values()):
            experiments[other] = load_experiment(other)
        units += _borrowed(experiment, experiments, experiment.seeds if chosen is None else chosen, smoke)
    finished = []
    for number, unit in enumerate(units, start=1):
        name = f"[{number}/{len(units)}] {unit.experiment} {unit.variant} seed {unit.seed} {unit.stage}"
        path = records.file_of(out, unit.experiment)
        record = records.find(records.read_lines(path), unit)
        context = Context(data_dir, out, _checkpoint(out, unit), progress, say, torch.device(device))
        is_needed = record is not None and _network_is_missing(units, unit, context)
        if record is not None and not is_needed:
            say(f"{name}: finished before, skipped")
        else:
            if is_needed:
                say(f"{name}: finished before, but the network that the next stage builds on is not there")
            record = _run_unit(experiments[unit.experiment], unit, name, context)
            records.append_line(path, record)
            context.checkpoint.unlink(missing_ok=True)
            say(f"{name}: {_summary(record)}")
        finished.append(record)
    return finished


def _borrowed(
    experiment: Experiment, experiments: Mapping[str, Experiment], seeds: Sequence[int], smoke: bool
) -> list[Unit]:
    """The units of other experiments that train this one's dense controls."""
    wanted = set(experiment.borrowed_controls.values())
    return [
        unit
        for seed in dict.fromkeys(seeds)
        for name, other in experiments.items()
        if other is not experiment
        for unit in other.units((seed,), other.controls, smoke)
        if (name, unit.stage) in wanted
    ]


def _network_is_missing(units: Sequence[Unit], unit: Unit, context: Context) -> bool:
    """Whether a stage has yet to be run that builds on what this one left, which is gone."""
    stages = list(unit.settings.get("stages", ()))
    following = stages[stages.index(unit.stage) + 1 :][:1] if unit.stage in stages else []
    later = [other for other in units if other.stage in following and other.series == unit.series]
    path = records.file_of(context.out, unit.experiment)
    return any(
        records.find(records.read_lines(path), other) is None and not network_file(unit, context, unit.stage).exists()
        for other in later
    )


def _checkpoint(out: Path, unit: Unit) -> Path:
    return out / "checkpoints" / f"{unit.file_stem}.pt"


def _run_unit(experiment: Experiment, unit: Unit, name: str, context: Context) -> dict[str, Any]:
    resumed = context.checkpoint.exists()
    context.say(f"{name}: {'going on from its checkpoint' if resumed else 'starts'}")
    context.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    give_back_freed_memory()  # of units before, which this one's peak shall not count
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
        "environment": environment.facts(context.device),
        "finished_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _summary(record: dict[str, Any]) -> str:
    tasks = record["metrics"].get("tasks", {})
    parts = [
        f"{task} {key} {value[key]:.4f}" for task, value in tasks.items() for key in ("accuracy", "mse") if key in value
    ]
    return f"{', '.join(parts) or 'done'} in {record['wall_seconds']:.0f} s"
