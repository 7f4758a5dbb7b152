"""What an experiment is made of: variants, units of work, and the figures it is compared with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from rsn2.experiments.figure import Figure


@dataclass(frozen=True)
class Unit:
    """The smallest piece of work that is done and recorded as a whole.

    Attributes:
        experiment, variant, seed, stage: which.
        settings: everything that decides the result, as plain JSON values.
    """

    experiment: str
    variant: str
    seed: int
    stage: str
    settings: Mapping[str, Any]

    @property
    def settings_hash(self) -> str:
        """Twelve hexadecimal digits of the SHA-256 of the settings; two units with one hash do the same work."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def key(self) -> tuple[str, str, int, str, str]:
        """What a line of results is found by."""
        return self.experiment, self.variant, self.seed, self.stage, self.settings_hash

    @property
    def series(self) -> tuple[str, str, int, str]:
        """What the stages of one run have in common."""
        return self.experiment, self.variant, self.seed, self.settings_hash

    @property
    def file_stem(self) -> str:
        """A name for the unit's files."""
        return "-".join(map(str, self.key)).replace(" ", "_")


@dataclass(frozen=True)
class Context:
    """Where a unit works.

    Attributes:
        data_dir: the folder of the data sets; ``RSN2_DATA`` when None.
        out: the folder of results.
        checkpoint: the file from which the unit resumes when it was interrupted, and which it keeps up to date.
        progress: whether to show progress bars.
        say: prints a line.
        device: where networks are trained.
    """

    data_dir: Path | None
    out: Path
    checkpoint: Path
    progress: bool
    say: Callable[[str], None]
    device: torch.device = torch.device("cpu")


def network_file(unit: Unit, context: Context, stage: str) -> Path:
    """Where the network after a stage of the unit's run is kept for the next one."""
    name = "-".join(map(str, (unit.experiment, unit.variant, unit.seed, stage.replace(" ", "_"), unit.settings_hash)))
    return context.out / "networks" / f"{name}.pt"


@dataclass(frozen=True)
class Column:
    """One column of the table of results: a metric of a task, what the paper printed, what this project wants to reach.

    Attributes:
        task: the task's name.
        metric: key in the task's metrics, for example ``"accuracy"``.
        title: heading.
        scale: factor for printing; 100 prints a share as percent.
        published, published_control: the paper's figures for its networks and for its dense controls, or None.
        source: where these stand.
        expected: variant -> the value wanted of the mean over seeds, as printed: at least, or at most.
        lower_is_better: whether the metric is an error.
        class_names: names of the task's classes, for the table of F1 per class.
        published_f1, published_control_f1: the paper's F1 per class.
    """

    task: str
    metric: str
    title: str
    scale: float = 100.0
    published: float | None = None
    published_control: float | None = None
    source: str = ""
    expected: Mapping[str, float] | None = None
    lower_is_better: bool = False
    class_names: tuple[str, ...] = ()
    published_f1: tuple[float, ...] = ()
    published_control_f1: tuple[float, ...] = ()


@dataclass(frozen=True)
class Variant:
    """One way of running an experiment.

    Attributes:
        title: in one line, for tables.
        settings: a frozen dataclass of plain values.
        stages: names of its units, in order; a later one may build on what an earlier one left in the folder of
            results.
        is_control: whether this is the dense control.
        seeds: the only ones that make sense, where another seed would say nothing new.
    """

    title: str
    settings: Any
    stages: tuple[str, ...]
    is_control: bool = False
    seeds: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Experiment:
    """A whole experiment.

    Attributes:
        name, title: short and in one line.
        description: what is done, and every deviation from the paper with its reason.
        variants: by name.
        smoke: settings that replace those of every variant for a run of seconds, which shows that everything works and
            nothing about how well.
        columns: what the table of results shows.
        run_unit: does one unit's work and returns its metrics as JSON values.
        seeds: those of the full run.
        borrowed_controls: tasks whose dense control another experiment trains: the same network on the same data; by
            task the experiment and its task there.
        common: what it shares with others, with deviations and reasons, told once in a report of all of them.
        label: how it is called in tables beside others, where its name alone would not do.
        figures: what the report draws besides what it draws of every experiment; it is given the lines of the
            experiment's results, of full runs when there are any.
    """

    name: str
    title: str
    description: str
    variants: Mapping[str, Variant]
    smoke: Mapping[str, Any]
    columns: tuple[Column, ...]
    run_unit: Callable[[Unit, Context], dict[str, Any]]
    seeds: tuple[int, ...] = (0, 1, 2)
    borrowed_controls: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    common: str = ""
    label: str = ""
    figures: Callable[[Sequence[dict[str, Any]]], Sequence[Figure]] | None = None

    @property
    def name_in_tables(self) -> str:
        """Its label, if it has one."""
        return self.label or self.name

    @property
    def controls(self) -> tuple[str, ...]:
        """The variants that are dense controls."""
        return tuple(name for name, variant in self.variants.items() if variant.is_control)

    def units(self, seeds: tuple[int, ...] | None = None, variants: tuple[str, ...] | None = None,
              smoke: bool = False) -> list[Unit]:  # fmt: skip
        """The units of some seeds and variants (all by default), seed after seed. An experiment whose controls are all
        borrowed has a variant ``control``, too, without units of its own.

        Raises:
            ValueError: a variant is unknown.
        """
        known = [*self.variants, *(["control"] if self.borrowed_controls and not self.controls else [])]
        unknown = [name for name in variants or () if name not in known]
        if unknown:
            raise ValueError(f"units: variants (--variant) of {self.name} must be among {', '.join(known)}, got "
                             f"{', '.join(unknown)}")  # fmt: skip
        changes = dict(self.smoke) if smoke else {}
        return [
            Unit(self.name, name, seed, stage, asdict(variant.settings) | changes)
            for seed in (self.seeds if seeds is None else seeds)
            for name, variant in self.variants.items()
            if (variants is None or name in variants) and (variant.seeds is None or seed in variant.seeds)
            for stage in variant.stages
        ]
