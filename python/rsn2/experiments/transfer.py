"""Beyond the paper: a task with few rows that may read what an earlier one has learned from many."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from rsn2 import data as datasets
from rsn2.data import Dataset, flat_pixels, unit_pixels
from rsn2.experiments.experiment import Column, Experiment, Variant
from rsn2.experiments.protocol import DENSE, SMOKE, Recipe, units_of_stage
from rsn2.experiments.protocol import Settings as CommonSettings
from rsn2.experiments.tasks import Task, cross_entropy
from rsn2.models import conv_network, fully_connected
from rsn2.models.fully_connected import PAPER_WIDTHS
from rsn2.network import MultitaskNetwork
from rsn2.procedure.reading import read_weights

FIRST = "first"
ROWS = {"100 rows": 100, "300 rows": 300, "1000 rows": 1000}
CLASSES = {"digits": ((0, 1, 2, 3, 4), (5, 6, 7, 8, 9)), "fashion": ((0, 2, 3, 7, 8), (6, 4, 1, 9, 5))}
"""Those of the first task, and those of the others: in Fashion-MNIST each has a relative in the first task (shirt and
T-shirt, coat and pullover, trousers and dress, ankle boot and sneaker, sandal and bag)."""
LOADERS = {"digits": datasets.load_mnist, "fashion": datasets.load_fashion_mnist}


@dataclass(frozen=True)
class Settings(CommonSettings):
    """See the common settings.

    Attributes:
        data_set: ``"digits"`` or ``"fashion"``.
        reads: whether the tasks with few rows read the first one's weights, in all layers but the output.
        network: ``"fully_connected"`` or ``"convolutional"``.
        widths: of the fully connected network.
        channels, hidden, pool_stride: of the convolutional one.
    """

    data_set: str = "fashion"
    reads: bool = False
    network: str = "fully_connected"
    widths: tuple[int, ...] = PAPER_WIDTHS
    channels: tuple[int, ...] = (32, 64)
    hidden: tuple[int, ...] = (256, 256)
    pool_stride: int = 2


FEW: dict[str, Any] = {"batch_size": 32, "patience": 20, "max_epochs": 200}
"""Training with few rows: an epoch has few steps, and its validation loss is the mean over few rows."""

SMALL_KEEP = 0.01
"""What the tasks with few rows claim in the variants that also have few weights of their own."""


def fashion_to_fashion() -> Experiment:
    """From five kinds of clothing to the other five, fully connected, with many and with few weights of one's own."""
    return _experiment("transfer", "Reading what five classes of Fashion-MNIST taught, with few rows of the others",
                       Settings(), few_weights=True)  # fmt: skip


def digits_to_digits() -> Experiment:
    """From the digits 0 to 4 to the digits 5 to 9, fully connected."""
    return _experiment("transfer-digits", "Reading what the digits 0 to 4 taught, with few rows of 5 to 9",
                       Settings(data_set="digits"))  # fmt: skip


def fashion_to_fashion_conv() -> Experiment:
    """From five kinds of clothing to the other five, convolutional."""
    return _experiment("transfer-conv", "The same with Fashion-MNIST in a convolutional network",
                       Settings(network="convolutional", keep=0.2))  # fmt: skip


def _experiment(name: str, title: str, settings: Settings, few_weights: bool = False) -> Experiment:
    stages = (FIRST, *ROWS)
    alone = replace(settings, stages=stages, by_stage=dict.fromkeys(ROWS, FEW))
    variants = {
        "reading": Variant("reading the first task's weights", replace(alone, reads=True), stages),
        "alone": Variant("own weights only, as in the paper", alone, stages),
    }
    if few_weights:
        small = replace(alone, by_stage=dict.fromkeys(ROWS, FEW | {"keep": SMALL_KEEP}))
        variants |= {
            "reading-0.01": Variant("reading with 1 % of one's own", replace(small, reads=True), stages),
            "alone-0.01": Variant("1 % of one's own only", small, stages),
        }
    variants["control"] = Variant("dense control, one network per task", replace(alone, stages=(), **DENSE),
                                  tuple(ROWS), is_control=True)  # fmt: skip
    finetuned = replace(alone, **DENSE | {"kind": "finetuned"})
    variants["finetuned"] = Variant("dense control, trained on from the first task's", finetuned, stages,
                                    is_control=True)  # fmt: skip
    return Experiment(
        name=name,
        title=title,
        description=(
            "Five classes with all their rows (24 000 and more to train) are learned first; then, one after another, "
            "come three tasks with the other five classes, of which they see the first 100, 300 and 1000 rows and a "
            "quarter as many for validation. Each task claims "
            f"{100 * settings.keep:g} % of every layer"
            + (f", in two of the variants the three only {100 * SMALL_KEEP:g} %" if few_weights else "")
            + ". In the variants `reading` the three also compute with the first "
            "one's weights in all layers but the output (rsn2's read_weights), and claim by the gradient of the "
            "network as it then is; nobody reads one of the three. That the first task's outputs, and those of every "
            "other finished task, keep every bit is asserted in each run. One dense control learns the same few rows "
            "from scratch; the other goes on from a dense network that has learned the first task, with a new output "
            "layer: what is usually done where a network per task may be kept. "
            + ("The fully connected network of Experiment 3." if settings.network == "fully_connected" else
               "The convolutional network of Experiment 4, with maxima of stride 2 (935 712 weights).")
            + " With few rows: batches of 32, patience of 20 epochs, at most 200."
        ),
        variants=variants,
        smoke=SMOKE | {"widths": (784, 64, 48, 10), "channels": (8, 8), "hidden": (64, 48)},
        columns=tuple(
            Column(task, "accuracy", "First five classes, %" if task == FIRST else f"The others, {task}, %")
            for task in stages
        ),
        run_unit=units_of_stage(Recipe(tasks, network, control, prepare=prepare)),
    )  # fmt: skip


def tasks(settings: Mapping[str, Any]) -> Mapping[str, Task]:
    """Five classes with all rows, and three times the others with few."""
    transform = flat_pixels if settings["network"] == "fully_connected" else unit_pixels
    return {
        name: Task(_loader(settings, name), cross_entropy, len(CLASSES[settings["data_set"]][0]), transform)
        for name in (FIRST, *ROWS)
    }


def _loader(settings: Mapping[str, Any], task: str) -> Callable[[Any], Dataset]:
    def load(data_dir: Any) -> Dataset:
        whole, (first, others) = LOADERS[settings["data_set"]](data_dir), CLASSES[settings["data_set"]]
        if task == FIRST:
            return datasets.select_classes(whole, first)
        chosen = datasets.select_classes(whole, others)
        # So many that as many as the task is named after are left when the validation part is taken away.
        num_rows = round(ROWS[task] / (1 - settings["validation_share"]))
        return chosen.map(lambda part, split: split.take(slice(0, num_rows)) if part == "train" else split)

    return load


def network(settings: Mapping[str, Any]) -> MultitaskNetwork:
    """All tasks in one network, head included."""
    net = MultitaskNetwork(control(settings, ""))
    for task in (FIRST, *ROWS):
        net.add_task(task)
    return net


def control(settings: Mapping[str, Any], task: str) -> nn.Module:
    """The dense network, the same for all."""
    if settings["network"] == "fully_connected":
        return fully_connected(settings["widths"], initialiser=settings["initialiser"]).whole()
    options = {key: settings[key] for key in ("channels", "hidden", "pool_stride", "initialiser")}
    return conv_network(**options).whole()


def prepare(net: MultitaskNetwork, own: Sequence[str], settings: Mapping[str, Any]) -> None:
    """Let the tasks with few rows read the first one."""
    for task in own:
        if settings["reads"] and task != FIRST:
            hidden = [name for name in net.trunk_layers() if name != "output"]
            read_weights(net, task, FIRST, layers=hidden)
