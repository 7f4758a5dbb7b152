"""Figures 3 to 5 of the paper: the losses of all tasks after every stage."""

from __future__ import annotations

import statistics

from rsn2.experiments import published
from rsn2.experiments.experiment import Experiment
from rsn2.report import charts, page
from rsn2.report.charts import Line
from rsn2.report.entries import Entry
from rsn2.report.plots import colour_of
from rsn2.report.tables import losses_table

FAR_APART = 10.0
"""Where the largest loss is more times the smallest, the axis is logarithmic: a squared error lay on its bottom."""


def losses_picture(experiment: Experiment, entry: Entry) -> str:
    """A line for each task from the stage that trained it on (HTML); nothing for a single stage."""
    if losses_table(experiment, entry) is None:
        return ""
    runs = entry.whole_runs()
    stages = [line["stage"] for line in runs[0]]
    final = published.FINAL_LOSSES.get(experiment.name, {})
    own: list[Line] = []
    theirs: list[Line] = []
    for number, task in enumerate(task for stage in stages for task in stage.split("+")):
        values: list[float | None] = []
        spread: list[tuple[float, float] | None] = []
        for after in range(len(stages)):
            found = [run[after]["metrics"]["losses_after"].get(task) for run in runs]
            known = [value for value in found if value is not None]
            values.append(statistics.fmean(known) if known else None)
            is_first = bool(known) and task in stages[after].split("+")  # after that nothing changes
            spread.append((min(known), max(known)) if is_first else None)
        own.append(Line(task, tuple(values), colour_of(number), spread=tuple(spread), marker=number))
        if task in final:
            at_end = (*[None] * (len(stages) - 1), final[task])
            theirs.append(Line("", at_end, colour_of(number), marker=number, hollow=True))
    names, explained = _names(stages)
    known = [value for item in (*theirs, *own) for value in item.values if value is not None]
    is_wide = bool(known) and 0 < FAR_APART * min(known) < max(known)
    svg = charts.lines(f"Test loss after each stage: {entry.title}", names, [*theirs, *own],
                       "test loss, equal steps are equal ratios" if is_wide else "test loss",
                       x_label="after the stage", logarithmic=is_wide)  # fmt: skip
    figure = published.LOSS_FIGURES.get(experiment.name)
    caption = f"{entry.title[:1].upper()}{entry.title[1:]}: test loss of every task trained so far, after each stage"
    caption += f" ({figure} of the paper)." if figure else "."
    caption += " Whiskers span the seeds." if len(runs) > 1 else " One seed."
    caption += " Large and empty: the paper's, at the end." if theirs else ""
    return page.figure(svg, caption + explained)


def _names(stages: list[str]) -> tuple[list[str], str]:
    """Names of the stages for the axis, and, where they are too long for it, what the numbers there stand for."""
    words = [stage.split("+") for stage in stages]
    room = 186 / max(len(stages) - 1, 1) / 7  # letters between two stages
    if max(len(word) for part in words for word in part) + 1 <= room and max(len(part) for part in words) <= 3:
        return ["\n".join(part) for part in words], ""
    listed = "; ".join(f"{number} {', '.join(part)}" for number, part in enumerate(words, start=1))
    return [str(number) for number in range(1, len(stages) + 1)], f" Stages: {listed}."
