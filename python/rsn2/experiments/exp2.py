"""Experiment 2 of the paper: the easy and the hard classes of Fashion-MNIST as two tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rsn2.experiments import exp4, published
from rsn2.experiments.exp4 import SMALL, Settings
from rsn2.experiments.experiment import Column, Experiment, Variant
from rsn2.experiments.protocol import COMMON, DENSE, PAPER, SMOKE, Recipe, as_published, units_of_stage, with_speed
from rsn2.experiments.tasks import FASHION_CLASSES, Task, fashion_classes
from rsn2.network import MultitaskNetwork

CLASSES = {"easy": (1, 5, 7, 8, 9), "hard": (0, 2, 3, 4, 6)}
"""Easy are the five classes with the best F1 of the paper's dense control."""


def easy_and_hard_fashion() -> Experiment:
    """Experiment 2: five classes each, each in a fifth of the weights."""
    ours = Settings(stages=("easy", "hard"))
    return Experiment(
        name="exp2",
        title="Easy and hard classes of Fashion-MNIST in one convolutional network",
        description=(
            "The convolutional network of Experiment 4 holds two tasks of five classes each, numbered anew; the head "
            "keeps its ten outputs, as in the paper's run. Each task claims 20 % of the weights of every layer. The "
            "paper compares with its control for all ten classes (92 %); here each task has a control of its own. In "
            "`ours` half of a task's weights of the head go to the five outputs that never occur, since every output "
            "keeps as many."
        ),
        common=COMMON,
        variants={
            **with_speed(ours),
            **as_published(replace(ours, stages=("easy+hard",), claim_rows=1000, **PAPER)),
            "control": Variant("dense control, one network per task", replace(ours, stages=(), **DENSE),
                               ("easy", "hard"), is_control=True),
        },
        smoke=SMOKE | SMALL,
        columns=(
            Column("easy", "accuracy", "Easy, %", published=98, published_control=92, source="Tables 2, 11 and 12",
                   expected={"ours": 97.5}, class_names=_names("easy"), published_f1=published.EXP2_EASY,
                   published_control_f1=_of_control("easy")),
            Column("hard", "accuracy", "Hard, %", published=84, published_control=92, source="Tables 2, 11 and 12",
                   expected={"ours": 83.5}, class_names=_names("hard"), published_f1=published.EXP2_HARD,
                   published_control_f1=_of_control("hard")),
        ),
        run_unit=units_of_stage(Recipe(tasks, network, exp4.control)),
    )  # fmt: skip


def _names(task: str) -> tuple[str, ...]:
    return tuple(FASHION_CLASSES[number] for number in CLASSES[task])


def _of_control(task: str) -> tuple[float, ...]:
    return tuple(published.FASHION_CONV_CONTROL[number] for number in CLASSES[task])


def tasks(settings: Mapping[str, Any]) -> Mapping[str, Task]:
    """Five classes each."""
    return {name: fashion_classes(classes) for name, classes in CLASSES.items()}


def network(settings: Mapping[str, Any]) -> MultitaskNetwork:
    """Both tasks in one network, head included."""
    net = MultitaskNetwork(exp4.control(settings, ""))
    for name in CLASSES:
        net.add_task(name)
    return net
