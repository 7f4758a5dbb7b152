"""What a result costs: epochs, seconds, memory, bytes."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from rsn2.experiments import published
from rsn2.experiments.experiment import Experiment
from rsn2.report.entries import Entry, ResultLine
from rsn2.report.tables import DASH, Table, mean_and_range


def per_network(entry: Entry | None, value: Callable[[ResultLine], float]) -> float | None:
    """A figure of the finished network, or the sum of one network per task; mean over the seeds that are finished."""
    networks = entry.networks() if entry is not None else []
    if not networks or any("bytes" not in line["metrics"] for lines in networks for line in lines):
        return None
    return statistics.fmean(sum(value(line) for line in lines) for lines in networks)


def num_file_bytes(line: ResultLine) -> int:
    size: int = line["metrics"]["bytes"]["file"]
    return size


def num_weights(line: ResultLine) -> int:
    """The weights that are owned, each counted once; lines from before shared slots were written count them twice, but
    the bytes of their values do not (float32).
    """
    metrics = line["metrics"]
    if "owned_per_slot" not in metrics and metrics["bytes"]["values"]:
        return int(metrics["bytes"]["values"]) // 4
    return int(metrics["owned_weights"])


def _training_seconds(line: ResultLine) -> float:
    metrics = line["metrics"]
    return float(metrics["epochs"] * metrics["seconds_per_epoch"] + (metrics.get("claim_seconds") or 0.0))


def megabytes(size: float | None) -> str:
    """Two decimals, or more where the size is small; a dash for nothing."""
    if not size:
        return DASH
    return f"{size / 1e6:.2f}" if size >= 1e5 else f"{size / 1e6:.4f}"


def speed_table(entry: Entry) -> Table | None:
    """How long a training step takes beside masked dense layers; None where it was not timed."""
    found = [line for line in entry.lines if "speed" in line["metrics"]]
    if not found:
        return None
    rows = [
        (
            task,
            f"{times['rows']}",
            f"{times['ours_ms']:.1f}",
            f"{times['masked_dense_ms']:.1f} ({times['masked_dense_over_ours']:.2f}x)",
            f"{times['dense_ms']:.1f} ({times['dense_over_ours']:.2f}x)",
        )
        for task, times in found[-1]["metrics"]["speed"].items()
    ]
    facts = found[-1]["environment"]
    return Table(
        "Time of a training step",
        ("task", "rows", "ours, ms", "masked dense, ms", "whole dense network, ms"),
        tuple(rows),
        f"Forward, backward and Adam; medians of steps in turns, {facts['threads']} threads of {facts['processor']}; "
        "in brackets, how many times as long as ours. Masked dense is the same network with weights times masks in "
        "every step; its loss was the same before the clock started. Dense convolutions compute channels last.",
    )


def speed_of_steps(entry: Entry | None) -> tuple[str, str, str]:
    """Of all timed tasks together: milliseconds of ours, and how many times as long masked dense and dense take."""
    found = [line["metrics"]["speed"].values() for line in entry.lines if "speed" in line["metrics"]] if entry else []
    if not found:
        return DASH, DASH, DASH
    ours, masked, dense = (sum(t[f"{kind}_ms"] for t in found[-1]) for kind in ("ours", "masked_dense", "dense"))
    return f"{ours:.0f}", f"{masked / ours:.2f}", f"{dense / ours:.2f}"


def whole(value: float | None) -> str:
    return DASH if value is None else f"{value:,.0f}"


def size_table(experiment: Experiment, entries: Sequence[Entry]) -> Table | None:
    """Weights and bytes of each variant's finished networks; None where no run is finished."""
    rows: list[tuple[str, ...]] = []
    ends_differ = len({entry.stages[-1] for entry in entries if not entry.is_control and entry.networks()}) > 1
    for entry in entries:
        if per_network(entry, num_file_bytes) is None:
            continue
        count = len(entry.networks()[0])

        def part(*keys: str, entry: Entry = entry) -> str:
            return megabytes(per_network(entry, lambda line: sum(line["metrics"]["bytes"][key] for key in keys)))

        stage = f" ({entry.stages[-1]})" if ends_differ and not entry.is_control else ""
        rows.append((entry.short_title + stage, str(count), whole(per_network(entry, num_weights)), part("file"),
                     part("values", "dense"), part("positions"), part("biases"), part("index")))  # fmt: skip
    if not rows:
        return None
    note = "Files are safetensors without optimizer state. The index is derived from the positions when a network is "
    note += "loaded, and is in memory only. Dense networks hold their biases among their weights."
    if sizes := published.FILE_MEGABYTES.get(experiment.name):
        rows.append(("published, 256x256", "1", DASH, f"{sizes[0]:g}", *[DASH] * 4))
        rows.append(("published control, 256x256", "4", DASH, f"{sizes[1]:g}", *[DASH] * 4))
    headings = ("variant", "networks", "weights owned", "file, MB", "values, MB", "positions, MB", "biases, MB",
                "index, MB")  # fmt: skip
    return Table("Size", headings, tuple(rows), note)


def cost_table(experiment: Experiment, entries: Sequence[Entry]) -> Table | None:
    """Epochs, seconds and memory of each stage; None where the lines do not say."""
    rows, groups, facts = [], [], []
    for entry in entries:
        for stage in entry.stages:
            part = [line for line in entry.lines if line["stage"] == stage]
            if any("epochs" not in line["metrics"] for line in part):
                continue
            claims = [line["metrics"]["claim_seconds"] for line in part if line["metrics"].get("claim_seconds")]
            home = part[0]["experiment"]
            facts += [line["environment"] for line in part]
            groups.append(entry.title)
            rows.append((
                stage.replace("+", " + ") + ("" if home == experiment.name else f", trained by {home}"),
                mean_and_range([line["metrics"]["epochs"] for line in part], 1, 1 if len(part) > 1 else 0),
                mean_and_range([line["metrics"]["seconds_per_epoch"] for line in part]),
                mean_and_range(claims),
                mean_and_range([_training_seconds(line) for line in part], 1, 0),
                f"{max(line['peak_memory_bytes'] for line in part) / 1e6:,.0f}",
            ))  # fmt: skip
    if not rows:
        return None
    used = sorted(set(map(machine, facts)))
    headings = ("stage", "epochs", "seconds per epoch", "seconds to claim", "seconds in all", "peak memory, MB")
    note = f"Mean over seeds (smallest to largest). On {'; '.join(used)}. What else ran on the machine is in the "
    note += "seconds; the memory is the largest of all seeds, often with what the process kept of stages before."
    return Table("Cost", headings, tuple(rows), note, tuple(groups), "variant")


def machine(facts: dict[str, Any]) -> str:
    """What it ran on."""
    threads = f"{facts['threads']} thread{'' if facts['threads'] == 1 else 's'}"
    on = "" if facts["device"] == "cpu" else f" with {facts['device']}"
    level = facts["cpu_level"] or "none (reference)"
    return f"{facts['processor']}{on}, {threads}, torch {facts['torch']}, CPU level {level}"
