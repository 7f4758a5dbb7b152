"""Experiment 6 of the paper: colour images, then digits and clothing, in one convolutional network."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from rsn2.experiments import published
from rsn2.experiments.exp4 import SMALL
from rsn2.experiments.exp4 import Settings as ConvSettings
from rsn2.experiments.experiment import Column, Experiment, Variant
from rsn2.experiments.protocol import COMMON, DENSE, PAPER, SMOKE, Recipe, as_published, units_of_stage, with_speed
from rsn2.experiments.tasks import CIFAR_CLASSES, DIGIT_CLASSES, FASHION_CLASSES, Task, cifar10, digits, fashion
from rsn2.models import conv_network
from rsn2.network import MultitaskNetwork


@dataclass(frozen=True)
class Settings(ConvSettings):
    """See Experiment 4.

    Attributes:
        pixels: ``"raw"``: 0..255 for all tasks, as in the paper's run; ``"standardised"``: those of CIFAR-10 with mean
            0 and deviation 1, the others divided by 255.
    """

    keep: float = 0.1
    pixels: str = "standardised"


def cifar_mnist_and_fashion() -> Experiment:
    """Experiment 6: CIFAR-10, then MNIST and Fashion-MNIST, each in a tenth of the weights."""
    ours = Settings(stages=("cifar", "digits", "fashion"))
    paper = replace(ours, stages=("cifar", "digits+fashion"), pixels="raw", **PAPER)
    source = "Tables 6, 11 and 12"
    return Experiment(
        name="exp6",
        title="CIFAR-10, MNIST digits and Fashion-MNIST in one convolutional network",
        description=(
            "The convolutional network of Experiment 4, whose first convolution each task has for itself: 3 channels "
            "for CIFAR-10, 1 for the others; the rest is shared out. CIFAR-10 is resized to 28x28 (bilinear and "
            "smoothed; the script's resize does not smooth, which brings patterns that are not there). Every task "
            "claims 10 % of every layer, as the paper's script does (its Table 6 says 20 % for CIFAR-10). `paper` "
            "leaves pixels in 0..255, as its script does for all three tasks; `ours` and the controls divide by 255, "
            "and give CIFAR-10's channels mean 0 and deviation 1. A first run of seed 0 had only divided them and got "
            "58.2 % of the validation and 57.0 % of the test images; with mean and deviation it is 61.4 % of the "
            "validation images, by which this was chosen, when the test figure was known to miss its target; the "
            "control has the same pixels, but nothing was chosen for it. In the paper digits and clothing share one "
            "first convolution of which each owns a tenth; here each keeps a tenth of its own, which stores as much."
        ),
        common=COMMON,
        variants={
            **with_speed(ours),
            **as_published(paper),
            "control": Variant("dense control, one network per task", replace(ours, stages=(), **DENSE), ("cifar",),
                               is_control=True),
        },
        smoke=SMOKE | SMALL,
        columns=(
            Column("cifar", "accuracy", "CIFAR-10, %", published=60, published_control=47, source=source,
                   expected={"ours": 58}, class_names=CIFAR_CLASSES, published_f1=published.EXP6_CIFAR,
                   published_control_f1=published.CIFAR_CONTROL),
            Column("digits", "accuracy", "Digits, %", published=98, published_control=99, source=source,
                   expected={"ours": 98}, class_names=DIGIT_CLASSES, published_f1=published.EXP6_DIGITS,
                   published_control_f1=published.DIGITS_CONV_CONTROL),
            Column("fashion", "accuracy", "Fashion, %", published=89, published_control=92, source=source,
                   expected={"ours": 88.5}, class_names=FASHION_CLASSES, published_f1=published.EXP6_FASHION,
                   published_control_f1=published.FASHION_CONV_CONTROL),
        ),
        run_unit=units_of_stage(Recipe(tasks, network, control, output_layers=("heads.*",))),
        borrowed_controls={"digits": ("exp4", "digits"), "fashion": ("exp4", "fashion")},
    )  # fmt: skip


def tasks(settings: Mapping[str, Any]) -> Mapping[str, Task]:
    """All three tasks."""
    scaled = settings["pixels"] != "raw"
    return {
        "cifar": cifar10(28, pixels=settings["pixels"]),
        "digits": digits(scaled=scaled),
        "fashion": fashion(scaled=scaled),
    }


def network(settings: Mapping[str, Any]) -> MultitaskNetwork:
    """All three tasks: a trunk from the second convolution on, a first convolution and a head for each."""
    net = None
    for task in tasks(settings):
        whole = control(settings, task)
        layers = OrderedDict(whole.named_children())
        stem = nn.Sequential(OrderedDict((name, layers.pop(name)) for name in ("conv1", "relu1")))
        head = nn.Sequential(OrderedDict(output=layers.pop("output")))
        if net is None:
            net = MultitaskNetwork(nn.Sequential(layers))
        net.add_task(task, stem=stem, head=head, prune_stem=True, prune_head=True)
    assert net is not None
    return net


def control(settings: Mapping[str, Any], task: str) -> nn.Module:
    """The dense network of a task."""
    options = {key: settings[key] for key in ("channels", "hidden", "pool_stride", "initialiser")}
    return conv_network(3 if task == "cifar" else 1, **options).whole()
