"""The report as one HTML page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from rsn2.experiments import PAPER, load_experiment
from rsn2.experiments.experiment import Experiment
from rsn2.report import costs, page, summary
from rsn2.report.entries import Entry, Results
from rsn2.report.losses import losses_picture
from rsn2.report.owners import authors_table, owner_picture, owner_table
from rsn2.report.plots import draw
from rsn2.report.tables import (
    MISSED,
    REACHED,
    Table,
    drawn_by,
    f1_table,
    figure_table,
    losses_table,
    results_table,
)

LEAD = (
    "One network holds several tasks in disjoint weights, beside dense networks for one task each and the figures that "
    "the paper published."
)
_SPREAD = re.compile(r"^(\S+) \((.+)\)$")


def render(experiments: Sequence[Experiment], results: Results) -> str:
    """The whole page."""
    sections = []
    if any(experiment.name in PAPER for experiment in experiments):
        sections.append(_overview(results))
    sections += [_experiment(experiment, results) for experiment in experiments]
    links = [("overview", "overview")] if len(sections) > len(experiments) else []
    links += [(experiment.name, experiment.name) for experiment in experiments]
    footer = f"Made by <code>rsn2 report</code> from {len(results.lines)} results."
    commits = sorted({(line.get("environment") or {}).get("commit") or "" for line in results.lines} - {""})
    if commits:
        shown = ", ".join(f"<code>{page.text(_short_commit(commit))}</code>" for commit in commits)
        footer += f" Commits of the runs: {shown}."
    return page.page("RSN2: experiments", page.text(LEAD), [page.contents(links), *sections], footer)


def _short_commit(commit: str) -> str:
    return commit[:12] + ("-changed" if commit.endswith("-changed") else "")


def table_of(table: Table, *, as_cards: bool = False, with_title: bool = True) -> str:
    """A table with its title and note."""
    cells = [[cell_of(cell) for cell in row] for row in table.rows]
    parts = [f"<h3>{page.text(table.title)}</h3>"] if with_title else []
    parts.append(page.table(table.headings, cells, groups=table.groups, as_cards=as_cards))
    return "".join(parts) + (page.paragraph(page.text(table.note), "soft note") if table.note else "")


def cell_of(cell: str) -> str:
    """A cell as HTML: what stands in brackets after a number is small and below it, a verdict has its colour."""
    if cell.startswith((REACHED, MISSED)):
        return f'<span class="{"good" if cell.startswith(REACHED) else "bad"}">{page.text(cell)}</span>'
    if found := _SPREAD.match(cell):
        spread = found[2].replace(" seed", "\N{NO-BREAK SPACE}seed")
        return f"{page.text(found[1])}<small>{page.text(spread)}</small>"
    return page.text(re.sub(r"^([≥≤]) ", "\\1\N{NO-BREAK SPACE}", cell))


def _overview(results: Results) -> str:
    table = summary.main_table(results)
    experiments = [load_experiment(name) for name in PAPER]
    titles = {experiment.name_in_tables: f"{experiment.name}: {experiment.title}" for experiment in experiments}
    column = table.headings.index("verdict")
    verdicts = [row[column] for row in table.rows]
    missed, reached = (sum(v.startswith(word) for v in verdicts) for word in (MISSED, REACHED))
    on_one_seed = sum(
        row[column].startswith(REACHED) and row[table.headings.index("ours")].endswith("(one seed)")
        for row in table.rows
    )
    wanted = sum(row[table.headings.index("target")] != "–" for row in table.rows)
    tiles = page.tiles([
        (f"{reached} of {wanted}", f"targets reached, {on_one_seed} of them on one seed so far" if on_one_seed else
         "targets reached"),
        (str(missed), "targets missed"),
        (str(wanted - reached - missed), "targets not measured yet"),
        (_same_bits(results), "later stages, all seeds, before and after which all outputs of earlier tasks had the "
         "same bits"),
    ])  # fmt: skip
    return page.section(
        table.title,
        tiles,
        page.row(summary.against_targets(results), summary.file_shares(results)),
        table_of(replace(table, groups=tuple(map(titles.__getitem__, table.groups))), as_cards=True, with_title=False),
        table_of(summary.size_and_speed_table(results), as_cards=True),
        *(page.paragraph(_described(part)) for part in common_of(experiments).split("\n\n")),
        anchor="overview",
    )


def common_of(experiments: Sequence[Experiment]) -> str:
    """What the experiments say they have in common, each text once."""
    return "\n\n".join(dict.fromkeys(experiment.common for experiment in experiments if experiment.common))


def _same_bits(results: Results) -> str:
    lines = [line for line in results.lines if line["experiment"] in PAPER]
    return str(sum(line["metrics"].get("outputs_of_earlier_tasks") == "the same bits" for line in lines))


def _experiment(experiment: Experiment, results: Results) -> str:
    entries = results.entries(experiment)
    parts = [page.paragraph(_described(part)) for part in experiment.description.split("\n\n")]
    parts.append(table_of(results_table(experiment, entries), as_cards=True))
    entries = [entry for entry in entries if entry.is_current]
    for figure in drawn_by(experiment, results):
        parts += [
            f"<h3>{page.text(figure.title)}</h3>",
            page.row(
                page.figure(draw(figure), figure.caption),
                page.wide(table_of(figure_table(figure), as_cards=True, with_title=False)),
            ),
        ]
    parts += [_losses(experiment, entries), _f1(experiment, entries), _owners(entries)]
    counted = [made(entry) for made in (authors_table, costs.speed_table) for entry in entries]
    parts += [table_of(table, as_cards=True) for table in counted if table is not None]
    size, cost = costs.size_table(experiment, entries), costs.cost_table(experiment, entries)
    parts += [table_of(table, as_cards=True) for table in (size, cost) if table is not None]
    return page.section(f"{experiment.name}: {experiment.title}", *parts, anchor=experiment.name)


def _described(words: str) -> str:
    """Words as HTML; what stands between backticks is code, as in Markdown."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", page.text(words))


def _losses(experiment: Experiment, entries: Sequence[Entry]) -> str:
    parts = []
    for entry in entries:
        table = losses_table(experiment, entry)
        if table is not None:
            parts.append(f"<h3>{page.text(table.title)}</h3>")
            numbers = table_of(table, as_cards=True, with_title=False)
            parts.append(page.row(losses_picture(experiment, entry), page.wide(numbers)))
    return "".join(parts)


def _f1(experiment: Experiment, entries: Sequence[Entry]) -> str:
    made = [f1_table(column, entries) for column in experiment.columns if column.class_names]
    found = [page.wide(table_of(table)) for table in made if table is not None]
    return page.row(*found) if found else ""


def _owners(entries: Sequence[Entry]) -> str:
    parts = []
    for entry in entries:
        table = owner_table(entry) if entry.variant == summary.VARIANT else None
        if table is not None:
            parts.append(f"<h3>{page.text(table.title)}</h3>")
            numbers = table_of(table, as_cards=True, with_title=False)
            parts.append(page.row(owner_picture(entry), page.wide(numbers)))
    return "".join(parts)
