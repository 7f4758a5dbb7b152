"""Tables of results, as text for Markdown and HTML alike."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rsn2.experiments import PAPER, published
from rsn2.experiments.experiment import Column, Experiment
from rsn2.experiments.figure import Figure
from rsn2.report import markdown
from rsn2.report.entries import Entry, Results
from rsn2.report.plots import places_of

DASH = "–"
REACHED, MISSED = "✓ reached", "✗ missed by "


@dataclass(frozen=True)
class Table:
    """A table as text.

    Attributes:
        title, note: above and below it.
        headings, rows: one cell for each heading.
        groups: for each row what several rows have in common, or nothing; ``group_heading`` says what that is.
    """

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    groups: tuple[str, ...] = ()
    group_heading: str = ""

    def as_markdown(self) -> str:
        """Groups become a first column."""
        if not self.groups:
            return markdown.table(self.headings, self.rows)
        firsts = [group if number == 0 or group != self.groups[number - 1] else ""
                  for number, group in enumerate(self.groups)]  # fmt: skip
        rows = [(first, *row) for first, row in zip(firsts, self.rows, strict=True)]
        return markdown.table((self.group_heading, *self.headings), rows)


def mean_and_spread(values: Sequence[float], scale: float = 1.0, digits: int = 2) -> str:
    """``mean (one seed)``, ``mean (each seed's)``, or, of many, ``mean (smallest to largest, n seeds)``."""
    if not values:
        return DASH
    mean, *found = (number_text(value * scale, digits) for value in (statistics.fmean(values), *values))
    if len(found) == 1:
        return f"{mean} (one seed)"
    if len(found) <= 5:
        return f"{mean} ({', '.join(found)})"
    low, high = (number_text(end(values) * scale, digits) for end in (min, max))
    return f"{mean} ({low} to {high}, {len(found)} seeds)"


def number_text(value: float, digits: int) -> str:
    """With so many decimals, thousands apart and a minus that is none of a hyphen's."""
    return f"{value:,.{digits}f}".replace("-", "−")


def mean_and_range(values: Sequence[float], scale: float = 1.0, digits: int = 2) -> str:
    """``mean (smallest to largest)``, or only the mean where they do not differ."""
    if not values:
        return DASH
    mean, low, high = (number_text(end(values) * scale, digits) for end in (statistics.fmean, min, max))
    return mean if low == high else f"{mean} ({low} to {high})"


def digits_of(column: Column) -> int:
    """Decimals of a column's values."""
    return 2 if column.scale == 100 else 4


def judged(column: Column, values: Sequence[float], wanted: float) -> str:
    """Whether the mean is what was wanted; a miss says by how much."""
    mean = statistics.fmean(values) * column.scale
    miss = mean - wanted if column.lower_is_better else wanted - mean
    if miss <= 1e-9 * abs(wanted):  # sums of decimal fractions are off by the last bit
        return REACHED
    rounded = f"{miss:.{digits_of(column)}f}"
    return MISSED + (rounded if float(rounded) else f"{miss:.1g}")


def target_of(column: Column, variant: str) -> str:
    """What is wanted of a variant."""
    wanted = (column.expected or {}).get(variant)
    return DASH if wanted is None else f"{'≤' if column.lower_is_better else '≥'} {wanted:g}"


def published_text(value: float | None) -> str:
    return DASH if value is None else f"{value:g}"


def verdict_of(column: Column, entry: Entry) -> str:
    """A dash where nothing was wanted or measured, or only in a run that shows nothing about accuracy."""
    wanted, values = (column.expected or {}).get(entry.variant), entry.values(column.task, column.metric)
    return DASH if wanted is None or not values or entry.is_smoke else judged(column, values, wanted)


def results_table(experiment: Experiment, entries: Sequence[Entry]) -> Table:
    """What was measured, one row per column of the experiment; the other way round where that would be wide. Settings
    of before come last and are not judged.
    """
    entries = [e for e in entries if any(e.values(c.task, c.metric) for c in experiment.columns)]
    earlier = [entry for entry in entries if not entry.is_current]
    entries = [entry for entry in entries if entry.is_current]
    columns, has_paper = experiment.columns, any(column.published is not None for column in experiment.columns)
    num_judged = sum(any((c.expected or {}).get(entry.variant) is not None for c in columns) for entry in entries)
    parts: list[tuple[str, list[str]]] = []
    for entry in entries:
        cells = [mean_and_spread(entry.values(c.task, c.metric), c.scale, digits_of(c)) for c in columns]
        title = entry.short_title
        parts.append((title, cells))
        if any((column.expected or {}).get(entry.variant) is not None for column in columns) and not entry.is_smoke:
            of = f"{title}: " if num_judged > 1 else ""
            parts.append((f"{of}target", [target_of(c, entry.variant) for c in columns]))
            parts.append((f"{of}verdict", [verdict_of(c, entry) for c in columns]))
    if has_paper:
        parts.append(("published", [published_text(column.published) for column in columns]))
        parts.append(("published control", [published_text(column.published_control) for column in columns]))
    for entry in earlier:
        cells = [mean_and_spread(entry.values(c.task, c.metric), c.scale, digits_of(c)) for c in columns]
        parts.append((entry.short_title, cells))
    sources = sorted({column.source for column in columns if column.source and column.published is not None})
    note = "Mean over seeds (each of them)." + (f" Published: {'; '.join(sources)}." if sources else "")
    note += " A smoke run shows nothing about accuracy." if any(entry.is_smoke for entry in entries) else ""
    if experiment.name not in PAPER:  # the others have the losses themselves
        note += kept_by_all(entries)
    titles = [column.title for column in columns]
    if len(parts) > 7:
        by_variant = tuple((name, *cells) for name, cells in parts)
        return Table("Results", ("", *titles), by_variant, note)
    rows = tuple((title, *(cells[number] for _, cells in parts)) for number, title in enumerate(titles))
    return Table("Results", ("", *(name for name, _ in parts)), rows, note)


def f1_table(column: Column, entries: Sequence[Entry]) -> Table | None:
    """F1 of each class and the accuracy, ours and the published ones; None where nothing was measured."""
    columns: list[tuple[str, list[str]]] = []
    for entry in entries:
        per_seed = entry.values(column.task, "f1")
        if per_seed:
            means = [f"{statistics.fmean(scores):.3f}" for scores in zip(*per_seed, strict=True)]
            accuracies = entry.values(column.task, "accuracy")
            columns.append((entry.short_title, [*means, f"{statistics.fmean(accuracies):.3f}" if accuracies else DASH]))
    if not columns:
        return None
    for label, scores, accuracy in (
        ("published", column.published_f1, column.published),
        ("published control", column.published_control_f1, column.published_control),
    ):
        if scores:
            whole = DASH if accuracy is None else f"{accuracy / column.scale:.2f}"
            columns.append((label, [*(f"{score:.2f}" for score in scores), whole]))
    names = (*column.class_names, "accuracy")
    rows = tuple((name, *(scores[number] for _, scores in columns)) for number, name in enumerate(names))
    title = f"{column.title.split(',')[0]}: F1 per class"
    note = "Mean over seeds." + (f" Published: {column.source}." if column.source and column.published_f1 else "")
    return Table(title, ("class", *(label for label, _ in columns)), rows, note)


def losses_table(experiment: Experiment, entry: Entry) -> Table | None:
    """Test loss of every task after every stage, mean over the seeds that are finished; None for a single stage and
    for what is not in the paper.
    """
    runs = entry.whole_runs()
    if (
        experiment.name not in PAPER
        or entry.is_control
        or len(entry.order) < 2
        or not runs
        or "losses_after" not in runs[0][0]["metrics"]
    ):
        return None
    stages = [line["stage"] for line in runs[0]]
    tasks = [task for stage in stages for task in stage.split("+")]
    final = published.FINAL_LOSSES.get(experiment.name, {})
    rows = []
    for task in tasks:
        cells = []
        for number in range(len(stages)):
            values = [run[number]["metrics"]["losses_after"].get(task) for run in runs]
            known = [value for value in values if value is not None]
            cells.append(f"{statistics.fmean(known):.6f}" if known else "")
        rows.append((task, *cells, *([published_text(final.get(task))] if final else [])))
    headings = ("task", *(f"after {stage.replace('+', ', ')}" for stage in stages))
    headings += ("published, at the end",) if final else ()
    mean = f"Mean of {len(runs)} seeds. " if len(runs) > 1 else "One seed. "
    if figure := published.LOSS_FIGURES.get(experiment.name):
        mean = f"{figure} of the paper. {mean}"
    return Table(f"Test losses after each stage: {entry.title}", headings, tuple(rows), mean + kept_bits(runs))


def kept_bits(runs: Sequence[Sequence[dict[str, Any]]]) -> str:
    """What became of earlier tasks in later stages, as the lines say it."""
    later = [line for run in runs for line in run[1:]]
    same = sum(line["metrics"].get("outputs_of_earlier_tasks") == "the same bits" for line in later)
    if same == len(later):
        stages = len(runs[0]) - 1
        which = "the later stage" if stages == 1 else f"each of the {stages} later stages"
        seeds = "" if len(runs) == 1 else f" of each of the {len(runs)} seeds"
        return f"In {which}{seeds} all test outputs of all earlier tasks had the same bits before and after."
    return f"Only {same} of {len(later)} later stages compared the outputs of earlier tasks bit by bit."


def kept_by_all(entries: Sequence[Entry]) -> str:
    """The same of all settings at once; nothing where no task came after another. A line of a stage is of one later
    task, one of a network of its own, which says ``num_tasks``, of all but the first.
    """
    same = total = 0
    for run in (run for entry in entries if not entry.is_control for run in entry.whole_runs()):
        for number, line in enumerate(run):
            later = line["metrics"].get("num_tasks", 2 if number else 1) - 1
            total += later
            same += later if line["metrics"].get("outputs_of_earlier_tasks") == "the same bits" else 0
    if not total:
        return ""
    return (
        f" For {same} of {total} later tasks all outputs of all earlier tasks were compared and had the same bits "
        "before and after."
    )


def figure_table(figure: Figure) -> Table:
    """The figures of a figure."""
    found = [dict(series.points) for series in figure.series]
    rows = tuple(
        (where if isinstance(where, str) else f"{where:g}",
         *(mean_and_spread(points.get(where, ()), 1.0, figure.digits) for points in found))
        for where in places_of(figure)
    )  # fmt: skip
    note = f"{figure.y_label[:1].upper()}{figure.y_label[1:]}. Mean over seeds (each of them)."
    return Table(figure.title, (figure.x_label, *(series.label for series in figure.series)), rows, note)


def drawn_by(experiment: Experiment, results: Results) -> list[Figure]:
    """The figures that the experiment itself asks for."""
    return list(experiment.figures(results.of(experiment))) if experiment.figures is not None else []
