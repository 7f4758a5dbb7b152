"""Experiment 1 of the paper: five networks for one data set inside of one, and their ensemble."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from rsn2.data import Dataset, TensorBatches
from rsn2.experiments import exp4, published
from rsn2.experiments.exp4 import SMALL, Settings
from rsn2.experiments.experiment import Column, Experiment
from rsn2.experiments.figure import Figure, Series
from rsn2.experiments.protocol import COMMON, PAPER, SMOKE, Recipe, as_published, units_of_stage, with_speed
from rsn2.experiments.tasks import FASHION_CLASSES, Task, fashion
from rsn2.experiments.training import outputs_of
from rsn2.metrics import accuracy, f1_per_class
from rsn2.network import MultitaskNetwork

NAMES = tuple(f"subnetwork {number}" for number in range(1, 6))


def fashion_ensemble() -> Experiment:
    """Experiment 1: Fashion-MNIST five times, each time in a fifth of the weights."""
    ours = Settings(stages=NAMES, score="random")
    together = "+".join(NAMES)
    source = "Tables 1, 11 and 12"
    return Experiment(
        name="exp1",
        title="Fashion-MNIST five times in one convolutional network, and the ensemble",
        description=(
            "The convolutional network of Experiment 4 holds Fashion-MNIST five times; each subnetwork claims 20 % of "
            "the weights of every layer, so that all weights are used. The ensemble adds the five softmax outputs. In "
            "the paper's own run the fifth task got all weights of every layer, by the rule of its threshold (counted "
            "below); here no weight has two owners, which is why its 92 % for that subnetwork and for the ensemble are "
            "not promised. Steps are timed for the first; the others have as many weights. `ours` chooses at random: "
            "five times the same data want the same weights, and who chooses last by the gradient is left with those "
            "that matter least (in runs of seed 0 the fifth had 88.2 % of the validation images when the largest "
            "gradients of each layer were taken, 89.1 % with those of each unit, and the others 90.8 to 92.0 %; at "
            "random all five have 91.8 to 92.0 %, 91.1 to 92.4 % over three seeds).\n\nThe target of 0.5 points above "
            "the best member is missed by two of the three seeds that come with the project (0.51, -0.05 and 0.07; the "
            "paper prints 92 % for both, a gain of 0). Above the mean of its members the ensemble is in every seed, by "
            "0.64, 0.71 and 0.48; the rest is how far the best of five test figures lies above their mean (0.13, 0.76 "
            "and 0.41), which is mostly chance: by validation images the ensemble is 0.52, 0.08 and 0.25 above the "
            "best. In the one run of `paper` it gains 0.54 (0.78 above the mean): there the five train together until "
            "the sum of their losses stops falling, with the best weights after 19 epochs instead of 7 to 13. The "
            "ensemble has no dense control, which would be an ensemble of five dense networks."
        ),
        common=COMMON,
        variants={
            **with_speed(ours),
            **as_published(replace(ours, stages=(together,), claim_rows=1000, score="gradient", **PAPER)),
        },
        smoke=SMOKE | SMALL,
        columns=(
            *(Column(name, "accuracy", f"Subnetwork {number}, %", published=92 if number == 5 else 90,
                     published_control=92, source=source, expected={"ours": 89.5}, class_names=FASHION_CLASSES,
                     published_f1=published.EXP1[number - 1], published_control_f1=published.FASHION_CONV_CONTROL)
              for number, name in enumerate(NAMES, start=1)),
            Column("ensemble", "accuracy", "Ensemble, %", published=92, published_control=92, source=source,
                   class_names=FASHION_CLASSES, published_f1=published.EXP1_ENSEMBLE,
                   published_control_f1=published.FASHION_CONV_CONTROL),
            Column("ensemble", "above_best", "Ensemble above the best, points", expected={"ours": 0.5}),
        ),
        run_unit=units_of_stage(Recipe(tasks, network, exp4.control, finish=ensemble, timed=NAMES[:1])),
        figures=figures,
        borrowed_controls={name: ("exp4", "fashion") for name in NAMES},
    )  # fmt: skip


def figures(lines: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """What the ensemble adds, seed by seed."""
    current = {unit.settings_hash for unit in fashion_ensemble().units((0,), ("ours",))}
    found: dict[int, dict[str, float]] = {}
    for line in lines:
        if line["settings_hash"] in current:
            accuracies = {name: values["accuracy"] for name, values in line["metrics"]["tasks"].items()}
            found.setdefault(line["seed"], {}).update(accuracies)
    whole = {seed: values for seed, values in sorted(found.items()) if set(values) >= {*NAMES, "ensemble"}}
    if not whole:
        return []

    def above(label: str, of: Callable[[list[float]], float]) -> Series:
        points = (
            (f"seed {seed}", (100 * (values["ensemble"] - of([values[name] for name in NAMES])),))
            for seed, values in whole.items()
        )
        return Series(label, tuple(points))

    return [
        Figure(
            "What the ensemble adds",
            "Test accuracy of the ensemble above the mean of its five members, and above the best, seed by seed.",
            "seed",
            "points above",
            (above("the mean of the five", statistics.fmean), above("the best of the five", max)),
            kind="dots",
        )
    ]


def tasks(settings: Mapping[str, Any]) -> Mapping[str, Task]:
    """Fashion-MNIST under five names."""
    return {name: fashion() for name in NAMES}


def network(settings: Mapping[str, Any]) -> MultitaskNetwork:
    """All five in one network, head included."""
    net = MultitaskNetwork(exp4.control(settings, ""))
    for name in NAMES:
        net.add_task(name)
    return net


def ensemble(net: MultitaskNetwork, data: dict[str, Dataset], settings: Mapping[str, Any]) -> dict[str, Any]:
    """How right the sum of all softmax outputs is, on the validation part and on the test part."""

    def judged(part: str) -> dict[str, Any]:
        split = data[NAMES[0]].splits()[part]
        batches = TensorBatches(split.x, split.y, 500, transform=tasks(settings)[NAMES[0]].transform)
        outputs = [outputs_of(net, name, batches)[0].softmax(1) for name in NAMES]
        total, target = torch.stack(outputs).sum(0).cpu(), split.y
        best = max(accuracy(single.cpu(), target) for single in outputs)
        found = accuracy(total, target)
        return {"accuracy": found, "above_best": found - best, "f1": f1_per_class(total, target, 10)}

    validation = judged("validation")
    return {"ensemble": judged("test") | {"validation": {"accuracy": validation["accuracy"]}}}
