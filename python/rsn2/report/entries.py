"""Which lines of results a row or a column of a table is made from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rsn2.experiments.experiment import Experiment
from rsn2.experiments.records import key_of

ResultLine = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """All that was run of one variant with the same settings.

    Attributes:
        variant: its name.
        title: how it is called in a table.
        is_control: whether it is the dense control: one network, and one line, per task.
        is_smoke: whether it shows nothing but that everything works.
        lines: one per seed and stage; those of controls that another experiment trained have this one's tasks.
        order: the stages that make a whole run of one seed.
        short_title: the title up to its comma, or all of it where another entry of the experiment has the same there.
        is_current: whether the variant has these settings now; of several that it has no more, the last ones.
    """

    variant: str
    title: str
    is_control: bool
    is_smoke: bool
    lines: tuple[ResultLine, ...]
    order: tuple[str, ...]
    short_title: str = ""
    is_current: bool = True

    @property
    def seeds(self) -> list[int]:
        return sorted({line["seed"] for line in self.lines})

    @property
    def stages(self) -> list[str]:
        """The stages that were run, in order."""
        found = {line["stage"] for line in self.lines}
        return [stage for stage in self.order if stage in found]

    def by_seed(self, task: str, metric: str) -> dict[int, Any]:
        """The value of every seed that has one, in the order of the seeds."""
        found = {}
        for line in self.lines:
            value = line["metrics"].get("tasks", {}).get(task, {}).get(metric)
            if value is not None:
                found[line["seed"]] = value
        return dict(sorted(found.items()))

    def values(self, task: str, metric: str) -> list[Any]:
        """These values alone."""
        return list(self.by_seed(task, metric).values())

    def whole_runs(self) -> list[list[ResultLine]]:
        """For every seed of which all stages are finished, its lines in the order of the stages."""
        runs = []
        for seed in self.seeds:
            by_stage = {line["stage"]: line for line in self.lines if line["seed"] == seed}
            if set(by_stage) == set(self.order):
                runs.append([by_stage[stage] for stage in self.order])
        return runs

    def networks(self) -> list[list[ResultLine]]:
        """For every whole run, the lines that say how large its networks are in the end: the last stage's, or, where
        each task has a network of its own, all.
        """
        return [run if self.is_control else run[-1:] for run in self.whole_runs()]


class Results:
    """Lines of results, each unit's last one.

    Args:
        lines: of any experiments, as they were written.
    """

    def __init__(self, lines: Iterable[ResultLine]) -> None:
        latest: dict[Any, ResultLine] = {}
        for line in lines:
            latest.pop(key_of(line), None)  # so that the order is that of the last ones
            latest[key_of(line)] = line
        self.lines = list(latest.values())

    @property
    def experiments(self) -> list[str]:
        return sorted({line["experiment"] for line in self.lines})

    def of(self, experiment: Experiment) -> list[ResultLine]:
        """Lines of an experiment's own units: those of full runs when there are any."""
        own = [line for line in self.lines if line["experiment"] == experiment.name]
        return [line for line in own if not _is_smoke(line)] or own

    def entries(self, experiment: Experiment) -> list[Entry]:
        """One entry per variant and settings, in the order of the experiment; controls last, with those that another
        experiment trained. Those of smoke runs only when there are no others.
        """
        own = [line for line in self.lines if line["experiment"] == experiment.name]
        known = [name for name, variant in experiment.variants.items() if not variant.is_control]
        unknown = sorted({line["variant"] for line in own} - set(experiment.variants))
        found = []
        for name in (*known, *unknown):
            title = experiment.variants[name].title if name in experiment.variants else name
            stages = experiment.variants[name].stages if name in experiment.variants else ()
            for lines in _by_settings([line for line in own if line["variant"] == name]):
                order = stages or tuple(dict.fromkeys(line["stage"] for line in lines))
                found.append(Entry(name, title, False, _is_smoke(lines[0]), tuple(lines), order))
        found += self._controls(experiment, own)
        return _told_apart([entry for entry in found if not entry.is_smoke] or found, experiment)

    def chosen(self, experiment: Experiment, variant: str, *, smoke: bool) -> Entry | None:
        """The entry that stands for a variant where there is room for one only."""
        fitting = (e for e in self.entries(experiment) if e.variant == variant and e.is_smoke == smoke and e.is_current)
        return next(fitting, None)

    def control(self, experiment: Experiment, *, smoke: bool) -> Entry | None:
        """The dense controls that stand beside the other variants."""
        fitting = (e for e in self.entries(experiment) if e.is_control and e.is_smoke == smoke and e.is_current)
        return next(fitting, None)

    def _controls(self, experiment: Experiment, own: Sequence[ResultLine]) -> list[Entry]:
        found = []
        names = [name for name, variant in experiment.variants.items() if variant.is_control]
        borrowed_order = tuple(dict.fromkeys(stage for _, stage in experiment.borrowed_controls.values()))
        title = "dense control, one network per task"
        for name in names:
            order, title = (*borrowed_order, *experiment.variants[name].stages), experiment.variants[name].title
            for lines in _by_settings([line for line in own if line["variant"] == name]):
                smoke = _is_smoke(lines[0])
                found.append(Entry(name, title, True, smoke, (*lines, *self._borrowed(experiment, smoke)), order))
        for smoke in sorted({_is_smoke(line) for line in own} - {entry.is_smoke for entry in found}):
            if lines := self._borrowed(experiment, smoke):
                order = (*borrowed_order, *(stage for name in names for stage in experiment.variants[name].stages))
                found.append(Entry(names[0] if names else "control", title, True, smoke, tuple(lines), order))
        return found

    def _borrowed(self, experiment: Experiment, smoke: bool) -> list[ResultLine]:
        """Other experiments' lines of controls, with their figures under the names of this one's tasks."""
        names: dict[tuple[str, str], list[str]] = {}
        for task, home in experiment.borrowed_controls.items():
            names.setdefault(home, []).append(task)
        found = []
        for (other, stage), tasks in names.items():
            lines = [
                line
                for line in self.lines
                if line["experiment"] == other
                and line["stage"] == stage
                and line["settings"].get("kind") == "dense"
                and _is_smoke(line) == smoke
            ]
            for line in (_by_settings(lines) or [[]])[-1]:
                metrics = line["metrics"] | {"tasks": dict.fromkeys(tasks, line["metrics"]["tasks"][stage])}
                found.append(line | {"metrics": metrics})
        return found


def _is_smoke(line: ResultLine) -> bool:
    return bool(line["settings"].get("smoke"))


def _by_settings(lines: Sequence[ResultLine]) -> list[list[ResultLine]]:
    """Lines with the same settings together; those that were written last come last."""
    groups: dict[str, list[ResultLine]] = {}
    for line in lines:
        group = groups.pop(line["settings_hash"], [])
        groups[line["settings_hash"]] = [*group, line]
    return list(groups.values())


def _told_apart(entries: Sequence[Entry], experiment: Experiment) -> list[Entry]:
    """The same entries with short titles; those with settings that a variant has no more are named by what differs."""
    found = []
    for entry in entries:
        rivals = [e for e in entries if (e.variant, e.is_smoke) == (entry.variant, entry.is_smoke)]
        now = _settings_now(experiment, entry)
        current = next((e for e in rivals if _settings_of(e) == now), rivals[-1])
        mark = "" if entry is current else f" ({_difference(_settings_of(entry), _settings_of(current), entry)})"
        smoke = " (smoke run)" if entry.is_smoke else ""
        short = entry.title.partition(",")[0]
        found.append(replace(entry, title=entry.title + mark + smoke, short_title=short + mark + smoke,
                             is_current=entry is current))  # fmt: skip
    short_titles = [entry.short_title for entry in found]
    return [
        replace(entry, short_title=entry.title) if short_titles.count(entry.short_title) > 1 else entry
        for entry in found
    ]


def _settings_of(entry: Entry) -> dict[str, Any]:
    settings: dict[str, Any] = entry.lines[0]["settings"]
    return settings


def _settings_now(experiment: Experiment, entry: Entry) -> dict[str, Any] | None:
    """As a line would hold them that was written now."""
    if entry.variant not in experiment.variants:
        return None
    changes = dict(experiment.smoke) if entry.is_smoke else {}
    found: dict[str, Any] = json.loads(json.dumps(asdict(experiment.variants[entry.variant].settings) | changes))
    return found


def _difference(settings: dict[str, Any], current: dict[str, Any], entry: Entry) -> str:
    """How settings differ from the current ones, in words."""
    own, other = _flat(settings), _flat(current)
    words = [f"{key} {value}" for key, value in own.items() if other.get(key, value) != value or key not in other]
    words += [f"without {key}" for key in other if key not in own]
    return f"earlier: {', '.join(words)}" if words else entry.lines[0]["settings_hash"]


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {prefix + key: value}
    return found
