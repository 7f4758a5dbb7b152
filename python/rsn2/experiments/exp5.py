"""Experiment 5 of the paper: digits and clothing, and house prices, which have other inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from rsn2.experiments import published
from rsn2.experiments.experiment import Column, Experiment, Variant
from rsn2.experiments.protocol import COMMON, DENSE, PAPER, SMOKE, Recipe, as_published, units_of_stage, with_speed
from rsn2.experiments.protocol import Settings as CommonSettings
from rsn2.experiments.tasks import DIGIT_CLASSES, FASHION_CLASSES, Task, boston, flat_digits, flat_fashion
from rsn2.models import fully_connected
from rsn2.models.fully_connected import PAPER_WIDTHS
from rsn2.models.initialising import initialise
from rsn2.network import MultitaskNetwork

# An epoch of Boston has 11 steps and its loss is about .02: stopping when that has not fallen by .01 for 3 epochs would
# stop it at once.
PATIENT: dict[str, Any] = {"batch_size": 32, "patience": 50, "min_delta": 1e-5, "max_epochs": 500}


@dataclass(frozen=True)
class Settings(CommonSettings):
    """See the common settings.

    Attributes:
        widths: of the fully connected network; the last one is the width of the heads for classes.
        relu_output: whether the house price passes a ReLU, as in the paper's run.
    """

    widths: tuple[int, ...] = PAPER_WIDTHS
    relu_output: bool = False


def mnist_fashion_and_boston() -> Experiment:
    """Experiment 5: two tasks with images, then one with 13 numbers, in a tenth of the weights each."""
    ours = Settings(stages=("digits", "fashion", "boston"), by_stage={"boston": PATIENT})
    paper = replace(ours, stages=("digits+fashion", "boston"), claim_rows=404, relu_output=True,
                    by_stage={"boston": {"batch_size": 32}}, **PAPER)  # fmt: skip
    source = "Tables 5, 11, 12 and 14"
    return Experiment(
        name="exp5",
        title="MNIST digits, Fashion-MNIST and Boston housing in one fully connected network",
        description=(
            "The network 784-1000x6 holds three tasks, each in 10 % of the weights of every layer. The 13 features of "
            "Boston housing come in through a layer 13-784 of their own; each task has a head of its own; both are "
            "pruned to 10 %. Features and prices of Boston are mapped to 0..1 by the training rows, so that its MSE "
            "is of prices in 0..1. Split: 404 and 102 rows after a shuffle by RandomState(113). Batches of 32 for "
            "Boston. `paper` chooses by 404 rows of each task (of Boston the 323 that do not validate), has a ReLU "
            "behind the price, which for some starting values is negative for all houses and then never learns, and "
            "stops Boston by the rule of the others, which with losses about 0.02 means after few epochs. `ours` takes "
            "the head's output as it is and trains Boston until the validation loss has not fallen by 1e-5 for 50 of "
            "at most 500 epochs of 11 steps; so does its control."
        ),
        common=COMMON,
        variants={
            **with_speed(ours),
            **as_published(paper),
            "control": Variant("dense control, one network per task",
                               replace(ours, stages=(), **DENSE), ("boston",), is_control=True),
        },
        smoke=SMOKE | {"widths": (784, 64, 48, 10)},
        columns=(
            Column("digits", "accuracy", "Digits, %", published=97, published_control=97, source=source,
                   expected={"ours": 97}, class_names=DIGIT_CLASSES, published_f1=published.EXP5_DIGITS,
                   published_control_f1=published.DIGITS_FC_CONTROL),
            Column("fashion", "accuracy", "Fashion, %", published=87, published_control=88, source=source,
                   expected={"ours": 86.5}, class_names=FASHION_CLASSES, published_f1=published.EXP5_FASHION,
                   published_control_f1=published.FASHION_FC_CONTROL),
            Column("boston", "mse", "Boston, MSE", scale=1, published=.016, published_control=.017, source=source,
                   expected={"ours": .017}, lower_is_better=True),
        ),
        run_unit=units_of_stage(Recipe(tasks, network, control, output_layers=("heads.*",))),
        borrowed_controls={"digits": ("exp3", "digits"), "fashion": ("exp3", "fashion")},
    )  # fmt: skip


def tasks(settings: Mapping[str, Any]) -> Mapping[str, Task]:
    """All three tasks."""
    return {"digits": flat_digits(), "fashion": flat_fashion(), "boston": boston()}


def network(settings: Mapping[str, Any]) -> MultitaskNetwork:
    """All three tasks in one network."""
    widths, initialiser = settings["widths"], settings["initialiser"]
    net = MultitaskNetwork(fully_connected(widths, initialiser=initialiser).trunk)
    for task in ("digits", "fashion"):
        net.add_task(task, head=layer(widths[-2], widths[-1], initialiser), prune_head=True)
    net.add_task("boston", stem=nn.Sequential(layer(13, widths[0], initialiser), nn.ReLU()),
                 head=price_head(widths[-2], settings), prune_stem=True, prune_head=True)  # fmt: skip
    return net


def control(settings: Mapping[str, Any], task: str) -> nn.Module:
    """Stem, trunk and head of a task as one dense network."""
    widths, initialiser = settings["widths"], settings["initialiser"]
    if task != "boston":
        return fully_connected(widths, initialiser=initialiser).whole()
    trunk = fully_connected(widths, initialiser=initialiser).trunk
    return nn.Sequential(layer(13, widths[0], initialiser), nn.ReLU(), trunk, price_head(widths[-2], settings))


def layer(num_in: int, num_out: int, initialiser: str) -> nn.Linear:
    """A linear layer with the experiment's starting values."""
    made = nn.Linear(num_in, num_out)
    initialise(made, initialiser)
    return made


def price_head(num_in: int, settings: Mapping[str, Any]) -> nn.Module:
    """One number, with or without the ReLU of the paper's run."""
    made = layer(num_in, 1, settings["initialiser"])
    return nn.Sequential(made, nn.ReLU()) if settings["relu_output"] else nn.Sequential(made)
