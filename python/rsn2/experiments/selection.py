"""Beyond the paper: which weights should a task choose, and should it choose once?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from rsn2.experiments import exp3
from rsn2.experiments.exp3 import Settings as SettingsOfExp3
from rsn2.experiments.experiment import Column, Experiment, Variant
from rsn2.experiments.protocol import SMOKE, Recipe, units_of_stage
from rsn2.procedure import Reselection

KEEPS = (0.02, 0.005)
SCORES = {
    "gradient": "largest |gradient|, as in the paper",
    "magnitude": "largest |weight|",
    "gradient_x_weight": "largest |gradient x weight|",
    "random": "drawn by lot",
}
REGROW = {
    "reselect": ("gradient", "|gradient|, then re-selected by |gradient| while training"),
    "reselect_random": ("random", "|gradient|, then re-selected by lot while training"),
}


@dataclass(frozen=True)
class Settings(SettingsOfExp3):
    """See Experiment 3.

    Attributes:
        regrow: how weights are chosen anew while training, see ``rsn2.Reselection``; ``""`` for not at all.
        reselect_every, reselect_until: in optimizer steps, of which an epoch has 94.
        reselect_fraction: share that moves at first.
    """

    max_epochs: int = 20
    regrow: str = ""
    reselect_every: int = 100
    reselect_until: int = 900
    reselect_fraction: float = 0.3


def ways_of_selection() -> Experiment:
    """Four scores and two ways of re-selection, at two shares so small that the choice matters."""
    return Experiment(
        name="selection",
        title="Which weights a task chooses, and re-selection while it trains",
        description=(
            "Digits and Fashion-MNIST in the network and by the protocol of Experiment 3, but with so few weights that "
            "it matters which: 2 % and 0.5 % of every layer for each task instead of 10 %. The paper takes the weights "
            "with the largest gradient, once, before training; here that is compared with other scores, and with "
            "weights that move among the free ones while a task trains, which the paper leaves to future work "
            "(rsn2.Reselection; Evci et al., 2020, section 3, and, drawn by lot, Mocanu et al., 2018): up to step 900, "
            "after every 100 steps, at most 30 % of a task's weights, the smallest, are given back, and as many free "
            "ones are claimed. Early stopping begins when ownership is final, in the tenth epoch. So that no way gains "
            "by training longer, all train for at most 20 epochs, which with 0.5 % is before all but four of the 36 "
            "trainings have stopped learning; the epochs of every run are in its line. What Experiment 3 reaches with "
            "10 % and its dense control are the figures to compare with."
        ),
        variants={f"{name}-{keep:g}": variant for keep in KEEPS for name, variant in _variants(keep).items()},
        smoke=SMOKE | {"widths": (784, 64, 48, 10), "keep": 0.2, "reselect_every": 1, "reselect_until": 2},
        columns=(
            Column("digits", "accuracy", "Digits, %"),
            Column("fashion", "accuracy", "Fashion, %"),
        ),
        run_unit=units_of_stage(Recipe(exp3.tasks, exp3.network, exp3.control, fit_options=reselection)),
        borrowed_controls={"digits": ("exp3", "digits"), "fashion": ("exp3", "fashion")},
    )


def _variants(keep: float) -> dict[str, Variant]:
    common = Settings(stages=("digits", "fashion"), keep=keep)
    share = f"{100 * keep:g} %: "
    one_shot = {
        name: Variant(share + title, replace(common, score=name), common.stages) for name, title in SCORES.items()
    }
    return one_shot | {
        name: Variant(share + title, replace(common, regrow=regrow), common.stages)
        for name, (regrow, title) in REGROW.items()
    }


def reselection(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What ``rsn2.fit`` is told besides."""
    if not settings["regrow"]:
        return {}
    plan = Reselection(until=settings["reselect_until"], every=settings["reselect_every"],
                       fraction=settings["reselect_fraction"], regrow=settings["regrow"])  # fmt: skip
    return {"reselect": plan}
