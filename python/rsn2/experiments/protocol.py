"""What the paper's experiments have in common: claim, train, test, stage after stage, and one line for each stage."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from typing import Any, cast

import torch
from torch import nn

from rsn2.data import Dataset, TensorBatches
from rsn2.experiments import environment, records
from rsn2.experiments.experiment import Context, Unit, Variant, network_file
from rsn2.experiments.speed import time_of_steps
from rsn2.experiments.tasks import Task, prepared
from rsn2.experiments.training import DenseNetworks, digest, evaluate, outputs_of, sizes_of
from rsn2.network import MultitaskNetwork
from rsn2.procedure import EarlyStopping, claim, fit
from rsn2.procedure.authors_selection import count_authors_selection

Datasets = dict[str, Dataset]

COMMON = (
    "What the eight have in common, unless one says otherwise. Batches of 512; Adam with a learning rate of 1e-3 and "
    "an epsilon of 1e-7; at most 100 epochs, stopped when the sum of the validation losses of the tasks that train "
    "together has not fallen by 0.01 for 3 of them, best weights restored. The last 20 % of the training arrays "
    "validate (12 000 of MNIST's and Fashion-MNIST's 60 000 images, 10 000 of CIFAR-10's 50 000, 81 of Boston's 404 "
    "rows, 5000 of IMDB's 25 000 reviews). Claims see training rows alone, so that where the paper's script shows a "
    "task all of its rows, here it sees 80 % of them.\n\nBoth variants differ from the paper's scripts in two points. "
    "No weight has two owners, while a threshold at a percentile also takes all that tie with it, so that tasks "
    "there came to own the same weights. And every task has biases of its own in every layer, which are not pruned, "
    "as the paper's equation 1 has them (t x n), while the scripts prune biases like weights, which leaves each to "
    "one task at most.\n\n`paper` follows the scripts otherwise: all tasks choose before any training, each by its "
    "own kernels drawn from N(0, 0.05 squared) with biases of 0, by the size of the gradient in every layer as a "
    "whole; then they train together where they did there. `ours` follows the paper's Algorithm 1: one task after "
    "another claims, by the gradient on 10 000 training rows, and trains before the next one comes, since that a new "
    "task changes nothing is what the method is for. All start from the same base weights (Glorot), those of each "
    "output unit multiplied by the root of its inputs over its kept inputs: with a tenth of its inputs left, a unit "
    "would otherwise pass on a tenth of the variance, and after a few layers nothing. In the output layer every class "
    "keeps as many weights: the largest gradients of the layer as a whole can leave several classes with none or "
    "one, which cannot be told apart, as in six of the nine runs of `paper` of Experiments 3, 5 and 7 that come with "
    "the project. Dense controls are whole networks with the same layers, one per task, trained by the same protocol "
    "from Glorot's start."
)
"""What the paper's experiments share, with every deviation from the paper and its reason."""


@dataclass(frozen=True)
class Settings:
    """Everything that decides a result besides the seed.

    Attributes:
        kind: ``"rsn2"`` (one network, disjoint weights), ``"dense"`` (one ordinary network per task), ``"finetuned"``
            (the same, but those of later stages start from the first one's, all but the output layer), ``"authors"``
            (masks by the rule of the authors' code are counted and nothing is trained), or ``"speed"`` (training steps
            are timed).
        stages: the tasks that train together, joined by ``+``, stage after stage.
        initialiser: starting values, a name in ``rsn2.models.INITIALISERS``.
        keep: share of every layer's weights that a task claims.
        mode: when the tasks choose, see ``rsn2.claim``: all before the first training, or each before its own.
        start: the values that claimed weights start from, see ``rsn2.claim``.
        score: what they choose by.
        output_scope: ``"row"``: every output unit (class) keeps as many weights; ``"tensor"``: the largest scores of
            the output layer as a whole, as the paper has it.
        claim_rows: the first rows of the training part that they choose by.
        batch_size, learning_rate, adam_eps, max_epochs: of training.
        patience, min_delta: early stopping on the sum of the validation losses of the tasks that train together.
        by_stage: the last two lines for one stage, where they differ there.
        validation_share: the last rows of the training arrays that are kept for validation.
        max_rows: only the first rows of each data set, or None for all.
        smoke: whether this run only shows that everything works.
    """

    kind: str = "rsn2"
    stages: tuple[str, ...] = ()
    initialiser: str = "glorot"
    keep: float = 0.1
    mode: str = "sequential"
    start: str = "rescaled"
    score: str = "gradient"
    output_scope: str = "row"
    claim_rows: int = 10_000
    batch_size: int = 512
    learning_rate: float = 1e-3
    adam_eps: float = 1e-7
    max_epochs: int = 100
    patience: int = 3
    min_delta: float = 0.01
    by_stage: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    validation_share: float = 0.2
    max_rows: int | None = None
    smoke: bool = False


PAPER: dict[str, Any] = {"initialiser": "normal_0.05", "mode": "preallocate", "start": "per_task",
                         "output_scope": "tensor"}  # fmt: skip
"""Settings of the variants ``paper``: all masks before any training, kernels N(0, 0.05^2) of each task's own."""

AUTHORS: dict[str, Any] = {"kind": "authors", "stages": ()}
"""What the variants ``authors`` change of ``paper``."""

DENSE: dict[str, Any] = {"kind": "dense", "keep": 1.0, "mode": "", "start": "", "score": "", "output_scope": "",
                         "claim_rows": 0}  # fmt: skip
"""Settings of the dense controls."""


def as_published(paper: Settings, authors_rule: str = "gradient") -> dict[str, Variant]:
    """The variants ``paper`` and ``authors`` of an experiment; by which rule the authors' script chose masks."""
    counted = replace(paper, score=authors_rule, **AUTHORS)
    return {
        "paper": Variant("as the paper has it", paper, paper.stages),
        "authors": Variant("masks by the rule of the authors' code, counted", counted, ("selection",), seeds=(0,)),
    }


def with_speed(ours: Settings) -> dict[str, Variant]:
    """The variants ``ours`` and ``speed`` of an experiment."""
    timed = replace(ours, kind="speed", stages=())
    return {
        "ours": Variant("ours", ours, ours.stages),
        "speed": Variant("a training step of ours, timed", timed, ("steps",), seeds=(0,)),
    }


SMOKE: dict[str, Any] = {"max_rows": 320, "max_epochs": 1, "batch_size": 128, "smoke": True, "by_stage": {},
                         "claim_rows": 128}  # fmt: skip
"""What a run of seconds changes."""


@dataclass(frozen=True)
class Recipe:
    """What one of these experiments adds to the common protocol.

    Attributes:
        tasks: by name, for some settings.
        network: the network with all tasks added and no weight claimed.
        control: the dense network of a task: same architecture, nothing shared.
        output_layers: patterns of the layers for which ``Settings.output_scope`` is meant.
        finish: more metrics after the last stage, by task.
        timed: the tasks whose training steps are timed; all by default.
        claim_options: more arguments of ``rsn2.claim``, or others, for some settings.
        prepare: called with the network and the tasks of a stage, before they claim.
        fit_options: more arguments of ``rsn2.fit``, for some settings.
    """

    tasks: Callable[[Mapping[str, Any]], Mapping[str, Task]]
    network: Callable[[Mapping[str, Any]], MultitaskNetwork]
    control: Callable[[Mapping[str, Any], str], nn.Module]
    output_layers: tuple[str, ...] = ("output",)
    finish: Callable[[MultitaskNetwork, Datasets, Mapping[str, Any]], dict[str, Any]] | None = None
    timed: tuple[str, ...] = ()
    claim_options: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None
    prepare: Callable[[MultitaskNetwork, Sequence[str], Mapping[str, Any]], None] | None = None
    fit_options: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None


def run_stage(recipe: Recipe, unit: Unit, context: Context) -> dict[str, Any]:
    """One unit: the tasks of its stage claim, train and are tested; those of earlier stages are tested again."""
    stage = _Stage(recipe, unit, context)
    runs = {"authors": stage.count_authors_selection, "speed": stage.time_steps}
    return runs.get(unit.settings["kind"], stage.run)()


def units_of_stage(recipe: Recipe) -> Callable[[Unit, Context], dict[str, Any]]:
    """``Experiment.run_unit`` of a recipe."""
    return functools.partial(run_stage, recipe)


class _Stage:
    def __init__(self, recipe: Recipe, unit: Unit, context: Context) -> None:
        self.recipe, self.unit, self.context = recipe, unit, context
        self.own = unit.stage.split("+")
        kind = unit.settings["kind"]
        self.is_finetuned = kind == "finetuned"
        self.is_dense = kind == "dense" or self.is_finetuned
        stages = list(unit.settings["stages"]) if kind in ("rsn2", "finetuned") else [unit.stage]
        self.number = stages.index(unit.stage)
        self.stages = stages
        before = [] if self.is_dense else stages[: self.number]
        self.earlier = [task for stage in before for task in stage.split("+")]
        self.settings: dict[str, Any] = dict(unit.settings) | dict(unit.settings["by_stage"].get(unit.stage, {}))
        self.tasks = recipe.tasks(unit.settings)

    def run(self) -> dict[str, Any]:
        all_tasks = [task for stage in self.stages for task in stage.split("+")]
        claims_for = all_tasks if self.number == 0 and self.settings["mode"] == "preallocate" else self.own
        wanted = dict.fromkeys([*self.own, *self.earlier, *claims_for])
        data = {task: prepared(self.tasks[task], self.settings, self.context.data_dir) for task in wanted}
        net = self._network()
        before = self._digests(net, data, self.earlier)
        self._check_unchanged(before, self._digests_of_last_stage(), "between two stages")
        claimed = None
        if isinstance(net, MultitaskNetwork) and not (self.number and self.settings["mode"] == "preallocate"):
            start = time.perf_counter()
            if self.recipe.prepare is not None:
                self.recipe.prepare(net, self.own, self.settings)
            self._claim(net, claims_for, data)
            claimed = time.perf_counter() - start
        history = self._fit(net, data)
        after = self._digests(net, data, () if self.is_dense else (*self.earlier, *self.own))
        self._check_unchanged(before, after, "in a later stage")
        seconds = [epoch["seconds"] for epoch in history.epochs]
        tested = {
            task: self._test(net, task, part) for task, part in data.items() if task in (*self.own, *self.earlier)
        }
        found: dict[str, Any] = {"tasks": {task: tested[task] for task in self.own}}
        if self.is_finetuned or not self.is_dense:
            self._keep(net)
        is_last = self.unit.stage == self.stages[-1]
        if isinstance(net, MultitaskNetwork) and self.recipe.finish is not None and is_last:
            found["tasks"] |= self.recipe.finish(net, data, self.settings)
        return found | {
            "losses_after": {task: metrics["loss"] for task, metrics in tested.items()},
            "outputs_of_earlier_tasks": "the same bits" if before else "no earlier tasks",
            "output_digests": after,
            "rows": {task: {name: len(split) for name, split in data[task].splits().items()} for task in self.own},
            "claim_seconds": None if claimed is None else round(claimed, 4),  # a small layer takes milliseconds
            "epochs": len(history.epochs),
            "best_epoch": history.best_epoch,
            "stopped_early": history.stopped_early,
            "validation_losses": [epoch["val_loss"] for epoch in history.epochs],
            "seconds_per_epoch": round(sum(seconds) / len(seconds), 3),
            **sizes_of(net, network_file(self.unit, self.context, self.unit.stage).with_suffix(".safetensors")),
        }

    def count_authors_selection(self) -> dict[str, Any]:
        """The masks that the authors' rule would choose for all tasks before any training."""
        data = {task: prepared(spec, self.settings, self.context.data_dir) for task, spec in self.tasks.items()}
        torch.manual_seed(self.unit.seed)
        net, losses = self.recipe.network(self.settings), {task: spec.loss for task, spec in self.tasks.items()}
        batches = {task: self._claim_batches(task, data[task]) for task in self.tasks}
        counts = count_authors_selection(net, list(self.tasks), batches, losses, self.settings["keep"],
                                         rule=self.settings["score"], start=self.settings["start"],
                                         seed=self.unit.seed)  # fmt: skip
        return {"tasks": {}, "authors_selection": counts}

    def time_steps(self) -> dict[str, Any]:
        """How long a step of each task takes, each in the network as it is when the tasks before have claimed."""
        torch.manual_seed(self.unit.seed)
        net, found = self.recipe.network(self.settings), {}
        for task in self.recipe.timed or self.tasks:
            self.settings = dict(self.unit.settings) | dict(self.unit.settings["by_stage"].get(task, {}))
            part = prepared(self.tasks[task], self.settings, self.context.data_dir)
            self._claim(net, [task], {task: part})
            x, y = next(iter(self._claim_batches(task, part)))
            control = functools.partial(self.recipe.control, self.settings, task)
            found[task] = time_of_steps(net, task, control, self.tasks[task].loss, x, y)
        return {"tasks": {}, "speed": found}

    def _network(self) -> MultitaskNetwork | DenseNetworks:
        torch.manual_seed(self.unit.seed)
        if self.is_dense:
            control = self.recipe.control(self.settings, self.unit.stage)
            if self.is_finetuned and self.number:
                self._start_from_the_first(control)
            control = control.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
            return DenseNetworks({self.unit.stage: control}).to(self.context.device)
        net = self.recipe.network(self.settings).to(self.context.device)
        if self.number:
            path = network_file(self.unit, self.context, self.stages[self.number - 1])
            net.load_state_dict(torch.load(path, map_location=self.context.device, weights_only=True))
            for task in self.earlier:
                net.freeze(task)
        return net

    def _start_from_the_first(self, control: nn.Module) -> None:
        first = self.stages[0]
        state = torch.load(network_file(self.unit, self.context, first), map_location="cpu", weights_only=True)
        prefix = f"networks.{first}."
        learned = {name.removeprefix(prefix): value for name, value in state.items()}
        own = control.state_dict()
        kept = [name for name in own if not any(fnmatch(name, f"{layer}.*") for layer in self.recipe.output_layers)]
        control.load_state_dict(own | {name: learned[name] for name in kept})

    def _keep(self, net: nn.Module) -> None:
        if self.unit.stage != self.stages[-1]:
            path = network_file(self.unit, self.context, self.unit.stage)
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(net.state_dict(), path)

    def _claim(self, net: MultitaskNetwork, tasks: Sequence[str], data: Datasets) -> None:
        settings = self.settings
        batches = {task: self._claim_batches(task, data[task]) for task in tasks}
        options: dict[str, Any] = {"scope": dict.fromkeys(self.recipe.output_layers, settings["output_scope"])}
        if self.recipe.claim_options is not None:
            options |= self.recipe.claim_options(settings)
        claim(net, tasks, batches, {task: self.tasks[task].loss for task in tasks}, settings["keep"],
              mode=settings["mode"], score=settings["score"], start=settings["start"],
              seed=self.unit.seed, **options)  # fmt: skip

    def _claim_batches(self, task: str, part: Dataset) -> TensorBatches:
        rows = part.train.take(slice(0, self.settings["claim_rows"]))
        size = min(self.settings["batch_size"], len(part.train))
        return TensorBatches(rows.x, rows.y, size, transform=self.tasks[task].transform)

    def _fit(self, net: MultitaskNetwork | DenseNetworks, data: Datasets) -> Any:
        settings, size = self.settings, self.settings["batch_size"]
        train, validation = {}, {}
        for task in self.own:
            part, transform = data[task], self.tasks[task].transform
            assert part.validation is not None
            train[task] = TensorBatches(part.train.x, part.train.y, size, shuffle=True, seed=self.unit.seed,
                                        transform=transform)  # fmt: skip
            validation[task] = TensorBatches(part.validation.x, part.validation.y, size, transform=transform)
        optimizer = functools.partial(torch.optim.Adam, lr=settings["learning_rate"], eps=settings["adam_eps"])
        stopping = EarlyStopping(patience=settings["patience"], min_delta=settings["min_delta"])
        losses = {task: self.tasks[task].loss for task in self.own}
        more = {} if self.recipe.fit_options is None else self.recipe.fit_options(settings)
        # What fit asks of a network, the dense ones answer too.
        return fit(cast(MultitaskNetwork, net), self.own, train, validation, losses, optimizer=optimizer,
                   max_epochs=settings["max_epochs"], early_stopping=stopping, checkpoint=self.context.checkpoint,
                   progress=self.context.progress, seed=self.unit.seed, **more)  # fmt: skip

    def _digests(self, net: nn.Module, data: Datasets, tasks: Iterable[str]) -> dict[str, str]:
        return {task: digest(outputs_of(net, task, self._test_batches(task, data[task]))[0]) for task in tasks}

    def _digests_of_last_stage(self) -> dict[str, str]:
        """Of the outputs that tasks had when the stage before ended; none where that was on another machine or by
        other code, which may round otherwise.
        """
        if not self.number:
            return {}
        lines = records.read_lines(records.file_of(self.context.out, self.unit.experiment))
        line = records.find(lines, replace(self.unit, stage=self.stages[self.number - 1]))
        if line is None or line.get("environment") != environment.facts(self.context.device):
            return {}
        found: dict[str, str] = line["metrics"].get("output_digests", {})
        return found

    def _check_unchanged(self, before: Mapping[str, str], after: Mapping[str, str], when: str) -> None:
        changed = [task for task in before if task in after and before[task] != after[task]]
        if changed:
            raise RuntimeError(f"{self.unit.file_stem}: outputs of {', '.join(changed)} changed {when}")

    def _test(self, net: nn.Module, task: str, part: Dataset) -> dict[str, Any]:
        spec = self.tasks[task]
        found = evaluate(net, task, self._test_batches(task, part), spec.loss, num_classes=spec.num_classes)
        if task in self.own:
            assert part.validation is not None
            batches = TensorBatches(part.validation.x, part.validation.y, 500, transform=spec.transform)
            found["validation"] = evaluate(net, task, batches, spec.loss, num_classes=spec.num_classes, f1=False)
        return found

    def _test_batches(self, task: str, part: Dataset) -> TensorBatches:
        return TensorBatches(part.test.x, part.test.y, 500, transform=self.tasks[task].transform)
