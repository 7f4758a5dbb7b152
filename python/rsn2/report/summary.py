"""All experiments of the paper in one: results beside targets and published figures, sizes and seconds."""

from __future__ import annotations

import statistics

from rsn2.experiments import PAPER, load_experiment, published
from rsn2.experiments.experiment import Column, Experiment
from rsn2.report import page
from rsn2.report.charts import Bar, Dot, bars, marker, picture
from rsn2.report.costs import megabytes, num_file_bytes, num_weights, per_network, speed_of_steps, whole
from rsn2.report.entries import Entry, Results
from rsn2.report.plots import dots
from rsn2.report.tables import (
    DASH,
    Table,
    digits_of,
    judged,
    mean_and_spread,
    published_text,
    target_of,
)

VARIANT = "ours"
FURTHEST = 10.0
"""Points from the target up to which the picture goes."""
OURS, CONTROL, PUBLISHED = "#0072B2", "#D55E00", "#009E73"


def pair_of(experiment: Experiment, results: Results) -> tuple[Entry | None, Entry | None]:
    """What stands in the summary: ours and the dense controls, of full runs when there are any."""
    entries = results.entries(experiment)
    smoke = bool(entries) and all(entry.is_smoke for entry in entries)
    return results.chosen(experiment, VARIANT, smoke=smoke), results.control(experiment, smoke=smoke)


def main_table(results: Results) -> Table:
    """Every task of the eight experiments; a dash where nothing was run."""
    rows, groups, has_smoke, several = [], [], False, []
    for experiment in map(load_experiment, PAPER):
        ours, control = pair_of(experiment, results)
        has_smoke |= ours is not None and ours.is_smoke
        if not all(entry.is_current for entry in results.entries(experiment)):
            several.append(experiment.name_in_tables)
        for column in experiment.columns:
            groups.append(experiment.name_in_tables)
            rows.append(_main_row(column, ours, control))
    note = (
        "Mean over seeds (each of them); differences are means over the seeds that both have, before rounding. A "
        "target is reached when the mean over seeds reaches it; single seeds may not. Targets were set before the "
        "first run of their experiment, but for Experiment 3's, see there. MSE is of prices in 0..1: lower is better. "
        "Of the published figures, those of Experiment 8 are at 256x256, and its controls did not learn; the 92 % of "
        "Experiment 1's fifth subnetwork and ensemble and the MSE of Experiment 7 may be those of tasks that had got "
        "all weights of a layer; Experiment 2's control is one for all ten classes."
    )
    if has_smoke:
        note += " Smoke runs, which show nothing about accuracy, are marked and not judged."
    if several:
        note += f" {', '.join(several)}: run with several settings, of which the last are here and all in its section."
    headings = ("task", "ours", "dense control", "ours − control", "target", "verdict", "published",
                "published control")  # fmt: skip
    return Table("The paper's eight experiments", headings, tuple(rows), note, tuple(groups), "experiment")


def _main_row(column: Column, ours: Entry | None, control: Entry | None) -> tuple[str, ...]:
    own_of = ours.by_seed(column.task, column.metric) if ours is not None else {}
    dense_of = control.by_seed(column.task, column.metric) if control is not None else {}
    own, dense = list(own_of.values()), list(dense_of.values())
    digits, difference, verdict = digits_of(column), DASH, "not run"
    is_smoke = ours is not None and ours.is_smoke
    wanted = (column.expected or {}).get(VARIANT)
    if own:
        verdict = "smoke run" if is_smoke else DASH if wanted is None else judged(column, own, wanted)
    if both := [own_of[seed] - dense_of[seed] for seed in own_of if seed in dense_of]:
        difference = f"{statistics.fmean(both) * column.scale:+.{digits}f}"
    return (
        column.title,
        mean_and_spread(own, column.scale, digits),
        mean_and_spread(dense, column.scale, digits),
        difference.replace("-", "−"),
        target_of(column, VARIANT),
        verdict,
        published_text(column.published),
        published_text(column.published_control),
    )


def size_and_speed_table(results: Results) -> Table:
    """Weights and bytes of one network for all tasks and of one dense network per task, and times of training steps."""
    rows = []
    for experiment in map(load_experiment, PAPER):
        ours, control = pair_of(experiment, results)
        files = [per_network(entry, num_file_bytes) for entry in (ours, control)]
        ratio = f"{files[0] / files[1]:.2f}" if files[0] and files[1] else DASH
        count = str(len(control.networks()[0])) if control is not None and control.networks() else DASH
        timed = results.chosen(experiment, "speed", smoke=ours is not None and ours.is_smoke)
        rows.append((
            experiment.name_in_tables,
            whole(per_network(ours, num_weights)), whole(per_network(control, num_weights)), count,
            megabytes(files[0]), megabytes(files[1]), ratio,
            *speed_of_steps(timed),
        ))  # fmt: skip
    note = (
        "One network for all tasks beside one dense network per task; mean over the seeds that are finished. Files are "
        "without optimizer state. The five tasks of exp1 have the same data and therefore one dense network; an "
        "ensemble of five dense ones would have five times its bytes. The paper's Experiment 8, at 256x256: 130 MB "
        "beside 203 MB. Steps: forward, backward and Adam, one step of each timed task, in turns in one process; "
        "masked dense is the same network with weights times masks. Seconds of whole runs are in the sections; other "
        "work was on the machine, so that they cannot be compared."
    )
    headings = ("experiment", "weights owned, ours", "weights, dense", "dense networks", "file, MB, ours",
                "files, MB, dense", "ours / dense", "steps, ms, ours", "masked dense / ours",
                "dense / ours")  # fmt: skip
    return Table("Size and speed", headings, tuple(rows), note)


def against_targets(results: Results) -> str:
    """How far every task is above its target, in points (HTML); nothing where no full run is finished."""
    rows = []
    for experiment in map(load_experiment, PAPER):
        ours, control = pair_of(experiment, results)
        for column in experiment.columns:
            wanted = (column.expected or {}).get(VARIANT)
            if wanted is None or column.scale != 100 or ours is None or ours.is_smoke:
                continue
            found = []
            for entry, colour, what, shape, hollow in (
                (control, CONTROL, "dense control", 1, True),
                (ours, OURS, "ours", 0, False),
            ):
                values = entry.values(column.task, column.metric) if entry is not None else []
                if values:
                    above = [100 * value - wanted for value in values]
                    mean = statistics.fmean(above)
                    found.append(Dot(mean, colour, f"{what}: {mean:+.2f}", min(above), max(above), shape, hollow))
            if found and column.published is not None:
                above_target = column.published - wanted
                found.append(Dot(above_target, PUBLISHED, f"published: {above_target:+.2f}", marker=2, hollow=True))
            if found:
                name = column.title.split(",")[0]
                rows.append((f"{experiment.name.removeprefix('exp')} {_short(name)}", found))
    if not rows:
        return ""
    shown = page.drawn_key([
        (picture(16, words, marker(shape, 8, 8, colour, hollow=hollow), 16), words)
        for words, shape, colour, hollow in (
            ("ours, all seeds", 0, OURS, False),
            ("dense control", 1, CONTROL, True),
            ("published", 2, PUBLISHED, True),
        )
    ])  # fmt: skip
    caption = (
        "Accuracy above or below the target of each task, in percentage points; whiskers span the seeds. The number "
        "before the task is the experiment's. What lies further out is drawn at the edge with its number. The MSE of "
        "Boston housing is in the table."
    )
    drawn = dots("Accuracy above the target", rows, "points above the target", "target", limit=FURTHEST)
    return page.figure(shown + drawn, caption)


def file_shares(results: Results) -> str:
    """The file of one network beside the files of one dense network per task (HTML); nothing where none is finished."""
    items = []
    for experiment in map(load_experiment, PAPER):
        ours, control = (per_network(entry, num_file_bytes) for entry in pair_of(experiment, results))
        if ours and control:
            share = 100 * ours / control
            label = f"{experiment.name_in_tables}: {megabytes(ours)} MB beside {megabytes(control)} MB"
            items.append(Bar(label, ((share, OURS, label),), f"{share:.0f} %"))
        if experiment.name in published.FILE_MEGABYTES:
            one, several = published.FILE_MEGABYTES[experiment.name]
            label = f"{experiment.name} in the paper (256x256): {one:g} MB beside {several:g} MB"
            items.append(Bar(label, ((100 * one / several, PUBLISHED, label),), f"{100 * one / several:.0f} %",
                             outlined=True))  # fmt: skip
    if all(item.outlined for item in items):
        return ""
    caption = (
        "The file of one network for all tasks as a share of the files of one dense network per task: shorter is "
        "better. In exp1 all tasks have the same data, for which there is one dense network."
    )
    return page.figure(bars("Files of ours as a share of dense networks' files", items), caption)


def _short(name: str) -> str:
    return {"Ensemble above the best": "above best"}.get(name, name.lower() if name[1:].islower() else name)
