"""Tables of an experiment, made from the lines that its units wrote and from nothing else."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsn2.experiments import EXPERIMENTS, load_experiment
from rsn2.experiments.experiment import Column, Experiment
from rsn2.experiments.records import file_of, key_of, read_lines
from rsn2.report import markdown, page

_DASH = "–"


@dataclass(frozen=True)
class Table:
    """A table as text, for Markdown and HTML alike."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def _values(lines: Sequence[dict[str, Any]], task: str, metric: str) -> list[Any]:
    """One value per seed, in the order of the seeds."""
    found = {}
    for line in lines:
        value = line["metrics"]["tasks"].get(task, {}).get(metric)
        if value is not None:
            found[line["seed"]] = value
    return [found[seed] for seed in sorted(found)]


def _mean_and_spread(values: Sequence[float], scale: float, digits: int) -> str:
    if not values:
        return _DASH
    mean = statistics.fmean(values) * scale
    if len(values) == 1:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ({min(values) * scale:.{digits}f} to {max(values) * scale:.{digits}f})"


def _rows_by_run(
    experiment: Experiment, lines: Sequence[dict[str, Any]]
) -> list[tuple[str, str, list[dict[str, Any]]]]:
    """(variant, label, its lines): one entry per variant and settings, in the order of the experiment."""
    entries = []
    for name, variant in experiment.variants.items():
        hashes = list(dict.fromkeys(line["settings_hash"] for line in lines if line["variant"] == name))
        for settings_hash in hashes:
            own = [line for line in lines if line["variant"] == name and line["settings_hash"] == settings_hash]
            smoke = " (smoke run: shows nothing about accuracy)" if own[0]["settings"].get("smoke") else ""
            several = f" [{settings_hash}]" if len(hashes) > 1 else ""
            entries.append((name, f"{variant.title}{several}{smoke}", own))
    return entries


def _digits(column: Column) -> int:
    return 2 if column.scale == 100 else 4


def _main_table(experiment: Experiment, lines: Sequence[dict[str, Any]]) -> Table:
    rows = []
    for _, label, own in _rows_by_run(experiment, lines):
        cells = [
            _mean_and_spread(_values(own, column.task, column.metric), column.scale, _digits(column))
            for column in experiment.columns
        ]
        owned = sum(line["metrics"].get("owned_weights", 0) for line in own if line["seed"] == own[0]["seed"])
        size = sum(line["metrics"].get("bytes", {}).get("file", 0) for line in own if line["seed"] == own[0]["seed"])
        rows.append((label, *cells, str(len({line["seed"] for line in own})), f"{owned:,}", f"{size / 1e6:.2f}"))
    for title, values in (
        ("paper", [column.published for column in experiment.columns]),
        ("paper, dense control", [column.published_control for column in experiment.columns]),
    ):
        if any(value is not None for value in values):
            rows.append((title, *(_DASH if value is None else f"{value:g}" for value in values), "1", _DASH, _DASH))
    headings = ("", *(column.title for column in experiment.columns), "seeds", "weights used", "file, MB")
    sources = sorted({column.source for column in experiment.columns if column.source})
    return Table(
        "Results", headings, tuple(rows), f"Mean over seeds (smallest to largest). Paper: {'; '.join(sources)}."
    )


def _target_table(experiment: Experiment, lines: Sequence[dict[str, Any]]) -> Table | None:
    rows = []
    for variant, label, own in _rows_by_run(experiment, lines):
        if own[0]["settings"].get("smoke"):
            continue
        for column in experiment.columns:
            values = _values(own, column.task, column.metric)
            wanted = (column.expected or {}).get(variant)
            if wanted is None or not values:
                continue
            mean = statistics.fmean(values) * column.scale
            verdict = "reached" if mean >= wanted else f"missed by {wanted - mean:.2f}"
            rows.append((label, column.title, f"{wanted:g}", f"{mean:.{_digits(column)}f}", str(len(values)), verdict))
    if not rows:
        return None
    return Table("Expected and reached", ("", "measured", "expected at least", "mean", "seeds", "verdict"), tuple(rows))


def _f1_table(column: Column, entries: Sequence[tuple[str, str, list[dict[str, Any]]]]) -> Table | None:
    columns: list[tuple[str, list[str]]] = []
    for _, label, own in entries:
        per_seed = _values(own, column.task, "f1")
        if per_seed:
            columns.append((label, [f"{statistics.fmean(scores):.3f}" for scores in zip(*per_seed, strict=True)]))
    if not columns:
        return None
    for label, scores in (("paper", column.published_f1), ("paper, dense control", column.published_control_f1)):
        if scores:
            columns.append((label, [f"{score:.2f}" for score in scores]))
    rows = tuple((name, *(scores[number] for _, scores in columns)) for number, name in enumerate(column.class_names))
    return Table(f"{column.task}: F1 per class", ("class", *(label for label, _ in columns)), rows, "Mean over seeds.")


def _cost_table(experiment: Experiment, lines: Sequence[dict[str, Any]]) -> Table:
    rows = []
    for _, label, own in _rows_by_run(experiment, lines):
        for stage in dict.fromkeys(line["stage"] for line in own):
            part = [line for line in own if line["stage"] == stage]
            rows.append((
                f"{label}, {stage}",
                _mean_and_spread([line["metrics"]["epochs"] for line in part], 1, 1),
                _mean_and_spread([line["metrics"]["seconds_per_epoch"] for line in part], 1, 2),
                _mean_and_spread([line["wall_seconds"] for line in part], 1, 0),
                f"{max(line['peak_memory_bytes'] for line in part) / 1e6:.0f}",
            ))  # fmt: skip
    used = sorted({_machine(line["environment"]) for line in lines})
    headings = ("", "epochs", "seconds per epoch", "seconds in all", "peak memory, MB")
    return Table(
        "Cost", headings, tuple(rows), f"On {'; '.join(used)}. Other work on the machine is included in the seconds."
    )


def _machine(facts: dict[str, Any]) -> str:
    level = facts["cpu_level"] or "none (reference)"
    return f"{facts['processor']}, {facts['threads']} threads, torch {facts['torch']}, CPU level {level}"


def tables(experiment: Experiment, lines: Sequence[dict[str, Any]]) -> list[Table]:
    """Every table of an experiment, from its lines.

    Raises:
        ValueError: there is no line of this experiment.
    """
    latest = {key_of(line): line for line in lines if line["experiment"] == experiment.name}
    own = [line for line in latest.values() if line["metrics"]["tasks"]]
    if not own:
        raise ValueError(f"tables: there must be results of {experiment.name}, got none")
    entries = _rows_by_run(experiment, own)
    made = [_main_table(experiment, own), _target_table(experiment, own)]
    made += [_f1_table(column, entries) for column in experiment.columns if column.class_names]
    made.append(_cost_table(experiment, own))
    return [table for table in made if table is not None]


def as_markdown(experiment: Experiment, lines: Sequence[dict[str, Any]]) -> str:
    """The experiment's tables as Markdown."""
    parts = [f"# {experiment.name}: {experiment.title}\n", experiment.description + "\n"]
    for table in tables(experiment, lines):
        parts += [f"## {table.title}\n", markdown.table(table.headings, table.rows)]
        parts += [table.note + "\n"] if table.note else []
    return "\n".join(parts)


def as_section(experiment: Experiment, lines: Sequence[dict[str, Any]]) -> str:
    """The experiment's tables as a section of an HTML page."""
    parts = [page.paragraph(page.text(part)) for part in experiment.description.split("\n\n")]
    for table in tables(experiment, lines):
        parts.append(page.paragraph(f"<b>{page.text(table.title)}</b>"))
        parts.append(page.table(table.headings, [[page.text(cell) for cell in cells] for cells in table.rows]))
        parts += [page.paragraph(page.text(table.note), "soft")] if table.note else []
    return page.section(f"{experiment.name}: {experiment.title}", *parts)


def write_markdown(experiment: Experiment, out: Path) -> Path:
    """Write ``out/<experiment>.md`` from ``out/results.jsonl`` and return its path."""
    path = out / f"{experiment.name}.md"
    path.write_text(as_markdown(experiment, read_lines(file_of(out, experiment.name))), encoding="utf-8")
    return path


def write_report(folder: Path) -> tuple[Path, Path]:
    """Write ``report.md`` and ``report.html`` of every result under a folder, and return their paths.

    Raises:
        ValueError: there is no folder, no result in it, or a result of an experiment that is not known.
    """
    if not folder.is_dir():
        raise ValueError(f"report: RESULTS_DIR must be a folder, got {folder}")
    lines = [line for path in sorted(folder.rglob("*.jsonl")) for line in read_lines(path)]
    if not lines:
        raise ValueError(
            f"report: RESULTS_DIR must hold <experiment>.jsonl with results, but {folder} has none; `rsn2 run` writes "
            "them"
        )
    names = sorted({line["experiment"] for line in lines})
    unknown = [name for name in names if name not in EXPERIMENTS]
    if unknown:
        raise ValueError(f"report: results must be of {', '.join(EXPERIMENTS)}, got {', '.join(unknown)}")
    experiments = [load_experiment(name) for name in names]
    report_md, report_html = folder / "report.md", folder / "report.html"
    report_md.write_text("\n".join(as_markdown(experiment, lines) for experiment in experiments), encoding="utf-8")
    lead = "Networks that hold several tasks in disjoint weights, beside the published figures and dense controls."
    sections = [as_section(experiment, lines) for experiment in experiments]
    footer = f"Made by <code>rsn2 report</code> from {len(lines)} results."
    report_html.write_text(page.page("RSN2: experiments", lead, sections, footer), encoding="utf-8")
    return report_md, report_html
