"""The report of a folder of results, made from the lines that units wrote and from nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rsn2.experiments import EXPERIMENTS, PAPER, load_experiment
from rsn2.experiments.experiment import Experiment
from rsn2.experiments.records import read_lines
from rsn2.report import html, summary
from rsn2.report.costs import cost_table, size_table, speed_table
from rsn2.report.entries import Results
from rsn2.report.owners import authors_table, owner_table
from rsn2.report.tables import Table, drawn_by, f1_table, figure_table, losses_table, results_table


def tables(experiment: Experiment, lines: Sequence[dict[str, Any]]) -> list[Table]:
    """Every table of an experiment, from the lines of all experiments (some train another one's controls).

    Raises:
        ValueError: there is no line of this experiment.
    """
    results = Results(lines)
    if not results.of(experiment):
        raise ValueError(f"tables: there must be results of {experiment.name}, got none")
    entries = results.entries(experiment)
    made: list[Table | None] = [results_table(experiment, entries)]
    entries = [entry for entry in entries if entry.is_current]
    for figure in drawn_by(experiment, results):
        table = figure_table(figure)
        made.append(replace(table, note=f"{figure.caption} {table.note}"))
    made += [losses_table(experiment, entry) for entry in entries]
    made += [f1_table(column, entries) for column in experiment.columns if column.class_names]
    made += [owner_table(entry) for entry in entries if entry.variant == summary.VARIANT]
    made += [authors_table(entry) for entry in entries]
    made += [speed_table(entry) for entry in entries]
    made += [size_table(experiment, entries), cost_table(experiment, entries)]
    return [table for table in made if table is not None]


def as_markdown(experiment: Experiment, lines: Sequence[dict[str, Any]], *, is_part: bool = False) -> str:
    """The experiment's tables as Markdown; as a part of a report, without what it has in common with others."""
    parts = [f"{'##' if is_part else '#'} {experiment.name}: {experiment.title}\n", experiment.description + "\n"]
    if not is_part and experiment.common:
        parts.append(experiment.common + "\n")
    for table in tables(experiment, lines):
        parts += _parts_of(table, "###" if is_part else "##")
    return "\n".join(parts)


def _parts_of(table: Table, level: str) -> list[str]:
    return [f"{level} {table.title}\n", table.as_markdown(), *([table.note + "\n"] if table.note else [])]


def main_table_as_markdown(lines: Sequence[dict[str, Any]]) -> str:
    """The main table of the eight experiments with its note, for example for the README."""
    table = summary.main_table(Results(lines))
    return f"{table.as_markdown()}\n{table.note}\n"


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """The lines of every result under a folder."""
    return [line for path in sorted(folder.rglob("*.jsonl")) for line in read_lines(path)]


def write_markdown(experiment: Experiment, out: Path) -> Path:
    """Write ``out/<experiment>.md`` from all results in ``out``, and return its path."""
    path = out / f"{experiment.name}.md"
    lines = [line for file in sorted(out.glob("*.jsonl")) for line in read_lines(file)]
    path.write_text(as_markdown(experiment, lines), encoding="utf-8")
    return path


def write_report(folder: Path) -> tuple[Path, Path]:
    """Write ``report.md`` and ``report.html`` of every result under a folder, and return their paths.

    Raises:
        ValueError: there is no folder, no result in it, or a result of an experiment that is not known.
    """
    if not folder.is_dir():
        raise ValueError(f"report: RESULTS_DIR must be a folder, got {folder}")
    results = Results(lines_of(folder))
    if not results.lines:
        raise ValueError(
            f"report: RESULTS_DIR must hold <experiment>.jsonl with results, but {folder} has none; `rsn2 run` writes "
            "them"
        )
    unknown = [name for name in results.experiments if name not in EXPERIMENTS]
    if unknown:
        raise ValueError(f"report: results must be of {', '.join(EXPERIMENTS)}, got {', '.join(unknown)}")
    experiments = [load_experiment(name) for name in EXPERIMENTS if name in results.experiments]
    report_md, report_html = folder / "report.md", folder / "report.html"
    parts = ["# RSN2: experiments\n", html.LEAD + "\n"]
    if any(name in PAPER for name in results.experiments):
        for table in (summary.main_table(results), summary.size_and_speed_table(results)):
            parts += _parts_of(table, "##")
        parts.append(html.common_of([load_experiment(name) for name in PAPER]) + "\n")
    texts = ["\n".join(parts)]
    texts += [as_markdown(experiment, results.lines, is_part=True) for experiment in experiments]
    report_md.write_text("\n".join(texts), encoding="utf-8")
    report_html.write_text(html.render(experiments, results), encoding="utf-8")
    return report_md, report_html
