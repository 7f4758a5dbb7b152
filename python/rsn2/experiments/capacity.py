"""How many tasks fit into one network: permuted MNIST and Fashion-MNIST, each task in an equal share of the weights.

The paper leaves the question open; its authors' study (not in the paper) trained all tasks together, judged by test
accuracy and found at most 13 (MNIST) and 17 (Fashion-MNIST) tasks for a network with five hidden layers of 500.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rsn2.data import Dataset, Split, TensorBatches, unit_pixels
from rsn2.experiments.experiment import Column, Context, Experiment, Unit, Variant, network_file
from rsn2.experiments.figure import Figure, series_of
from rsn2.experiments.protocol import SMOKE
from rsn2.experiments.protocol import Settings as CommonSettings
from rsn2.experiments.tasks import cross_entropy, flat_digits, flat_fashion, prepared
from rsn2.experiments.training import digest, evaluate, outputs_of, sizes_of
from rsn2.models import fully_connected
from rsn2.network import MultitaskNetwork
from rsn2.procedure import EarlyStopping, claim, equal_share, fit

DATA = {"mnist": flat_digits, "fashion": flat_fashion}
SOURCES = (("mnist", "MNIST", 0.9, 13), ("fashion", "Fashion-MNIST", 0.8, 17))
"""Data, its name, the accuracy that every task must have, and how many tasks the authors report to fit."""
NUM_PIXELS = 784


@dataclass(frozen=True)
class Settings(CommonSettings):
    """See the common settings; ``keep`` is not used, since T tasks keep 1 / T of the weights each.

    Attributes:
        data: ``"mnist"`` or ``"fashion"``.
        hidden_scope: as ``output_scope``, for the hidden layers.
        threshold: the validation accuracy that every task must have for T to count as reached.
        widths: of the fully connected network.
    """

    keep: float = 0.0
    claim_rows: int = 1000
    data: str = "mnist"
    hidden_scope: str = "tensor"
    threshold: float = 0.9
    max_rows: int | None = 25_000
    max_epochs: int = 30
    widths: tuple[int, ...] = (784, 500, 500, 500, 500, 500, 10)


WAYS: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    "": ("the largest gradients of every layer", {}, (1, 2, 4, 8, 13, 17, 24)),
    "-row": ("the largest gradients of every unit", {"hidden_scope": "row"}, (4, 8, 13, 17, 24, 32)),
    "-random": ("weights at random", {"score": "random"}, (8, 17, 32, 64, 128)),
}
"""How weights are chosen: what it is, settings, and the numbers of tasks that are tried. One task alone keeps all
weights and is the dense network."""

NUMBERS = tuple(sorted({number for _, _, numbers in WAYS.values() for number in numbers}))


def capacity() -> Experiment:
    """T tasks in 1 / T of the weights each, for more and more T."""
    return Experiment(
        name="capacity",
        title="How many permuted tasks fit into one fully connected network",
        description=(
            "One network 784-500x5-10 (1 397 000 weights) holds T tasks, each in 1 / T of the weights of every layer, "
            "rounded down, so that next to none is left. Task 0 is the data set as it is; each further one has its "
            "pixels in another order, which the seed fixes. The tasks choose and train one after another. T is reached "
            "when every task's validation accuracy is at least 90 % (MNIST) or 80 % (Fashion-MNIST): the authors' "
            "rule, which they applied to test accuracy; their best is 13 and 17. Their tasks trained together until 20 "
            "epochs had brought nothing, on all 60 000 images. Here, to keep time bounded, the first 25 000 are used "
            "(20 000 to train, 5000 to validate; of the test images all 10 000), and training stops when the "
            "validation loss has not fallen by 0.01 for 3 epochs, or after 30. Only the numbers of tasks that are "
            "listed were tried. Besides the paper's choice, by the gradient on 1000 images in every layer as a whole, "
            "there are two more: they show what the last tasks suffer from: they are left with what the others did not "
            "want, units without inputs among them. Choosing for every unit leaves all units inputs, choosing at "
            "random leaves a random part."
        ),
        variants={
            f"{data}{suffix}": Variant(
                f"{title}, {what}",
                Settings(data=data, threshold=threshold, **changes),
                tuple(f"T={number}" for number in numbers),
            )
            for data, title, threshold, _ in SOURCES
            for suffix, (what, changes, numbers) in WAYS.items()
        },
        smoke=SMOKE | {"widths": (784, 96, 64, 10), "claim_rows": 64},
        columns=tuple(
            Column(summary_name(number), "accuracy", f"T = {number}, mean of the tasks, %") for number in NUMBERS
        ),
        run_unit=run_unit,
        seeds=(0,),
        figures=figures,
    )


def figures(lines: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """The worst task for every T, by which T is reached or not, and what its weights are good for."""
    found = []
    for data, title, threshold, best in SOURCES:
        ways = {}
        for suffix, (what, _, _) in WAYS.items():
            own = [line for line in lines if line["variant"] == data + suffix]
            if own:
                ways[what.removeprefix("the ")] = own
        if not ways:
            continue
        answers = "; ".join(f"{what}: {_reached(own)}" for what, own in ways.items())
        found += [
            Figure(
                f"{title}: the worst of T tasks",
                f"Validation accuracy of the worst task. T is reached at {100 * threshold:g} %. {answers}. The authors "
                f"count {best} with five hidden layers of 500 as here, on test images and with masks that overlap.",
                "tasks T",
                "accuracy of the worst task, %",
                tuple(series_of(what, own, _num_tasks, _worst) for what, own in ways.items()),
            ),
            Figure(
                f"{title}: weights on a path",
                "How many of a task's weights lie on a path from an input to an output, of the task with the fewest: "
                "the others are behind a unit without inputs or in front of one without outputs.",
                "tasks T",
                "weights on a path, % of the task's",
                tuple(series_of(what, own, _num_tasks, _connected) for what, own in ways.items()),
            ),
        ]
    return found


def _num_tasks(line: Mapping[str, Any]) -> float:
    return float(line["metrics"]["num_tasks"])


def _summary_of(line: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = line["metrics"]["tasks"][summary_name(line["metrics"]["num_tasks"])]
    return found


def _worst(line: Mapping[str, Any]) -> float:
    return 100 * float(_summary_of(line)["validation"]["worst"])


def _connected(line: Mapping[str, Any]) -> float:
    tasks = [task for name, task in line["metrics"]["tasks"].items() if not name.startswith("all ")]
    return 100 * min(task["connected_weights"] / task["owned_weights"] for task in tasks)


def _reached(lines: Sequence[Mapping[str, Any]]) -> str:
    """The largest T below the first that is not reached, on all seeds, and that one."""
    by_number: dict[int, bool] = {}
    for line in lines:
        number = line["metrics"]["num_tasks"]
        by_number[number] = by_number.get(number, True) and bool(_summary_of(line)["is_success"])
    failed = min((number for number, success in by_number.items() if not success), default=None)
    reached = max((number for number in by_number if failed is None or number < failed), default=None)
    words = "no T reached" if reached is None else f"{reached} reached"
    return words + (", the largest tried" if failed is None else f", {failed} not")


def summary_name(num_tasks: int) -> str:
    """Under which name ``metrics["tasks"]`` holds what is true of all tasks."""
    return f"all {num_tasks}"


def permutation(seed: int, task: int) -> Tensor:
    """The order of a task's pixels, int64 ``[784]``: the usual one for task 0, fixed by the seed for the others.

    It does not depend on how many tasks there are.
    """
    if task == 0:
        return torch.arange(NUM_PIXELS)
    # NumPy has frozen this stream for good.
    return torch.from_numpy(np.random.RandomState((seed, task)).permutation(NUM_PIXELS))


def permuted(dataset: Dataset, seed: int, task: int) -> Dataset:
    """The images as rows of 784 bytes in the task's order of pixels."""
    order = permutation(seed, task)
    return dataset.map(lambda _, split: Split(split.x.flatten(1)[:, order], split.y))


def is_success(validation_accuracies: Sequence[float], threshold: float) -> bool:
    """The authors' rule: every task reaches the threshold."""
    return min(validation_accuracies) >= threshold


def connected_weights(masks: Sequence[Tensor]) -> int:
    """How many of a task's weights lie on a path from an input to an output.

    Args:
        masks: of the layers in their order, bool ``[O, I]``; each has the outputs of the one before as inputs.
    """
    reached = [torch.ones(masks[0].shape[1], dtype=torch.bool, device=masks[0].device)]
    for mask in masks[:-1]:
        reached.append((mask & reached[-1]).any(1))
    is_used, count = torch.ones(len(masks[-1]), dtype=torch.bool, device=masks[0].device), 0
    for mask, is_reached in zip(reversed(masks), reversed(reached), strict=True):
        on_path = mask & is_reached & is_used[:, None]
        count += int(on_path.count_nonzero())
        is_used = on_path.any(0)
    return count


def run_unit(unit: Unit, context: Context) -> dict[str, Any]:
    """T tasks, one after another, and the test of all of them at the end.

    Raises:
        RuntimeError: an earlier task's outputs on its validation part are not the same bits at the end.
    """
    return _Tasks(unit, context).run()


class _Tasks:
    def __init__(self, unit: Unit, context: Context) -> None:
        self.unit, self.context, self.settings = unit, context, unit.settings
        self.num_tasks = int(unit.stage.removeprefix("T="))
        self.data = prepared(DATA[self.settings["data"]](), self.settings, context.data_dir)
        torch.manual_seed(unit.seed)
        widths = self.settings["widths"]
        self.net = MultitaskNetwork(fully_connected(widths, initialiser=self.settings["initialiser"]).whole())
        for task in range(self.num_tasks):
            self.net.add_task(f"task {task}")
        self.net.to(context.device)
        self.trained: list[dict[str, Any]] = []

    def run(self) -> dict[str, Any]:
        self._resume()
        for task in range(len(self.trained), self.num_tasks):
            self.trained.append(self._train(task))
            # What is done stays done: a unit that is interrupted goes on with the task that it was in.
            partial = self.context.checkpoint.with_suffix(".part")
            torch.save({"net": self.net.state_dict(), "trained": self.trained}, partial)
            partial.replace(self.context.checkpoint)
        tasks = {f"task {task}": self._judge(task) for task in range(self.num_tasks)}
        seconds = sum(found["seconds"] for found in self.trained)
        epochs = sum(found["epochs"] for found in self.trained)
        path = network_file(self.unit, self.context, self.unit.stage).with_suffix(".safetensors")
        return {
            "tasks": tasks | {summary_name(self.num_tasks): self._summary(list(tasks.values()))},
            "num_tasks": self.num_tasks,
            "keep": 1 / self.num_tasks,
            "outputs_of_earlier_tasks": "the same bits",
            "rows": {name: len(split) for name, split in self.data.splits().items()},
            "claim_seconds": round(sum(found["claim_seconds"] for found in self.trained), 4),
            "epochs": epochs,
            "seconds_per_epoch": round(seconds / epochs, 3),
            **sizes_of(self.net, path),
        }

    def _resume(self) -> None:
        if not self.context.checkpoint.exists():
            return
        state = torch.load(self.context.checkpoint, map_location=self.context.device, weights_only=True)
        self.net.load_state_dict(state["net"])
        self.trained = state["trained"]
        for task in range(len(self.trained)):
            self.net.freeze(f"task {task}")

    def _train(self, task: int) -> dict[str, Any]:
        settings, name, size = self.settings, f"task {task}", self.settings["batch_size"]
        data = permuted(self.data, self.unit.seed, task)
        assert data.validation is not None
        chosen_by = data.train.take(slice(0, settings["claim_rows"]))
        start = time.perf_counter()
        claim(self.net, name, _batches(chosen_by, min(size, len(chosen_by))), cross_entropy,
              equal_share(self.num_tasks), mode=settings["mode"], score=settings["score"], start=settings["start"],
              scope={"output": settings["output_scope"], "*": settings["hidden_scope"]},
              seed=self.unit.seed)  # fmt: skip
        claimed = time.perf_counter() - start
        train = TensorBatches(data.train.x, data.train.y, size, shuffle=True, seed=self.unit.seed,
                              transform=unit_pixels)  # fmt: skip
        optimizer = functools.partial(torch.optim.Adam, lr=settings["learning_rate"], eps=settings["adam_eps"])
        stopping = EarlyStopping(patience=settings["patience"], min_delta=settings["min_delta"])
        history = fit(self.net, name, train, _batches(data.validation, size), cross_entropy, optimizer=optimizer,
                      max_epochs=settings["max_epochs"], early_stopping=stopping, progress=self.context.progress,
                      seed=self.unit.seed)  # fmt: skip
        return {
            "claim_seconds": claimed,
            "epochs": len(history.epochs),
            "best_epoch": history.best_epoch,
            "stopped_early": history.stopped_early,
            "seconds": sum(epoch["seconds"] for epoch in history.epochs),
            "digest": self._digest(task, data),
        }

    def _judge(self, task: int) -> dict[str, Any]:
        data, name = permuted(self.data, self.unit.seed, task), f"task {task}"
        assert data.validation is not None
        trained = self.trained[task]
        if self._digest(task, data) != trained["digest"]:
            raise RuntimeError(f"{self.unit.file_stem}: outputs of {name} changed while later tasks trained")
        masks = [layer.mask(slot) for layer, slot in self.net.task_layers(name).values()]
        test = evaluate(self.net, name, _batches(data.test, 500), cross_entropy, num_classes=10, f1=False)
        validation = evaluate(self.net, name, _batches(data.validation, 500), cross_entropy, num_classes=10, f1=False)
        return test | {
            "validation": validation,
            "owned_weights": sum(owned[name] for owned in self.net.owned_weights().values()),
            "connected_weights": connected_weights(masks),
            **{key: trained[key] for key in ("epochs", "best_epoch", "stopped_early")},
        }

    def _digest(self, task: int, data: Dataset) -> str:
        assert data.validation is not None
        return digest(outputs_of(self.net, f"task {task}", _batches(data.validation, 500))[0])

    def _summary(self, tasks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        test = [found["accuracy"] for found in tasks]
        validation = [found["validation"]["accuracy"] for found in tasks]
        return {
            "accuracy": sum(test) / len(test),
            "worst": min(test),
            "validation": {"accuracy": sum(validation) / len(validation), "worst": min(validation)},
            "is_success": is_success(validation, self.settings["threshold"]),
        }


def _batches(split: Split, size: int) -> TensorBatches:
    return TensorBatches(split.x, split.y, size, transform=unit_pixels)
