"""Algorithm 1, line 7: train the network as usual, altering only what the tasks own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from rsn2.network import MultitaskNetwork
from rsn2.procedure.claim import by_task, losses_by_task
from rsn2.procedure.history import EarlyStopping, History
from rsn2.procedure.loaders import check_loader
from rsn2.procedure.reselect import Reselection
from rsn2.procedure.resume import Checkpoint
from rsn2.procedure.run import Run, Settings
from rsn2.procedure.score import LossFunction

OptimizerFactory = Callable[[list[nn.Parameter]], Optimizer]
Metrics = Mapping[str, Any]


def default_optimizer(params: list[nn.Parameter]) -> Optimizer:
    """Adam as the paper's experiments have it (Keras' defaults).

    Not torch's fused one, which would take 7 % off an epoch of small steps: on the CPU (torch 2.13) it ignores strides,
    so that Parameters whose layout differs from their state's get other weights' moments, and it leaves version
    counters alone, so that a graph recorded before a step could be differentiated after it.
    """
    return torch.optim.Adam(params, lr=1e-3, eps=1e-7)


_DEFAULT_STOPPING = EarlyStopping()


def fit(net: MultitaskNetwork, tasks: str | Sequence[str], train: Any, validation: Any,
        loss_fn: LossFunction | Mapping[str, LossFunction], *, optimizer: OptimizerFactory = default_optimizer,
        max_epochs: int = 100, early_stopping: EarlyStopping | None = _DEFAULT_STOPPING, metrics: Metrics | None = None,
        checkpoint: str | PathLike[str] | None = None, checkpoint_every: int | None = None, progress: bool = True,
        seed: int = 0, thaw: bool = False, reselect: Reselection | None = None,
        epoch_of: str | None = None) -> History:  # fmt: skip
    """Train one task, or several together, and finish them: they are frozen afterwards.

    A joint step takes one batch of every task, runs all rows in one pass, and steps once on the sum of the losses. An
    epoch has as many steps as the longest loader has batches, or that of ``epoch_of``; a shorter one starts anew when
    it ends, and all go on in the next epoch where they were. Tasks that do not train now are left out of the gradient
    entirely, so that an optimizer over ``net.parameters()``, with weight decay too, leaves them alone. (A task that
    could train but has no rows in a batch gets zero gradients.)

    Args:
        net: the network.
        tasks: a name, or several that train together.
        train: batches ``(x, y)`` that can be iterated again and have a length, such as
            :class:`rsn2.data.TensorBatches`; by task when there are several.
        validation: likewise, for early stopping and metrics; None only with ``early_stopping=None``.
        loss_fn: ``loss_fn(outputs, y)``, the mean over the rows; one for all tasks or by task.
        optimizer: makes the optimizer from the Parameters of the tasks, ``net.parameters_of(task)``.
        max_epochs: at most so many epochs.
        early_stopping: see :class:`~rsn2.procedure.history.EarlyStopping`; None trains all epochs.
        metrics: ``{name: function(outputs, y)}`` on the whole validation data, for all tasks or by task.
        checkpoint: a file that keeps the complete state. When it is there, training goes on from it: a run that was
            killed at any moment ends with the same bits as one that was not.
        checkpoint_every: steps between two states in the file, besides one after every epoch.
        progress: show a bar (with rich, on a terminal) or a line per epoch.
        seed: of everything random while training (dropout, loaders that use torch's generator).
        thaw: train finished tasks again.
        reselect: let the tasks' weights move among the free ones while they train, see
            :class:`~rsn2.procedure.reselect.Reselection`.
        epoch_of: the task of which an epoch is one pass; that with the most batches when None.

    Returns:
        What happened. The network has the weights of ``history.best_epoch``, unless ``restore_best`` is False.

    Raises:
        ValueError: a task is finished or owns no weights, a loader is empty, labels lie outside of the head, a loss is
            not a finite scalar, the checkpoint belongs to another run or cannot be kept.
        KeyError: an unknown task.
    """
    names = [tasks] if isinstance(tasks, str) else list(tasks)
    if not names or len(set(names)) != len(names):
        raise ValueError(f"fit: tasks must be a name or different names, got {names}")
    names = [net.tasks[net.task_number(name)] for name in names]
    settings = Settings(
        train=by_task("fit", "train", train, names),
        validation={} if validation is None else by_task("fit", "validation", validation, names),
        loss_fn=losses_by_task("fit", loss_fn, names),
        metrics=_metrics_by_task(metrics or {}, names),
        max_epochs=max_epochs,
        early_stopping=early_stopping,
        checkpoint_every=checkpoint_every,
        seed=seed,
        reselect=reselect,
        epoch_of=epoch_of,
    )
    _check(net, settings, thaw)
    keeper = None if checkpoint is None else Checkpoint(checkpoint, _bytes_of_state(net, names))
    for name in names:
        net.thaw(name)
    params = list(dict.fromkeys(p for name in names for p in net.parameters_of(name)))
    run = Run(net, settings, optimizer(params))
    history = run.train(keeper, progress)
    for name in names:
        net.freeze(name)
    return history


def _check(net: MultitaskNetwork, settings: Settings, thaw: bool) -> None:
    for argument, value in (("max_epochs", settings.max_epochs), ("checkpoint_every", settings.checkpoint_every)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"fit: {argument} must be an int of at least 1, got {value!r}")
    if settings.early_stopping is not None and not settings.validation:
        raise ValueError("fit: early stopping needs validation; pass it, or early_stopping=None")
    if settings.epoch_of is not None and settings.epoch_of not in settings.train:
        raise ValueError(f"fit: epoch_of must be one of {', '.join(settings.train)}, got {settings.epoch_of!r}")
    _check_reselect(settings)
    for task in settings.train:
        if net.is_finished(task) and not thaw:
            raise ValueError(f"fit: task {task!r} is finished; thaw=True trains it again")
        empty = [name for name, (layer, slot) in net.task_layers(task).items() if layer.values[slot].numel() == 0]
        if empty:
            raise ValueError(f"fit: task {task!r} owns no weights in layer {', '.join(empty)}; claim some first")
        check_loader("fit", "train", task, settings.train[task])
        if task in settings.validation:
            check_loader("fit", "validation", task, settings.validation[task])


def _check_reselect(settings: Settings) -> None:
    if settings.reselect is None:
        return
    num_steps = settings.num_steps()
    if settings.reselect.until > settings.max_epochs * num_steps:
        raise ValueError(
            f"fit: reselect must end within the {settings.max_epochs} epochs of {num_steps} steps, "
            f"but until is {settings.reselect.until}"
        )


def _metrics_by_task(metrics: Metrics, tasks: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    is_by_task = any(isinstance(value, Mapping) for value in metrics.values())
    return {task: metrics.get(task, {}) if is_by_task else metrics for task in tasks}


def _bytes_of_state(net: MultitaskNetwork, tasks: Sequence[str]) -> int:
    """Of the network, and of its tasks' weights three times more: two moments and the best epoch."""
    whole = sum(tensor.nbytes for tensor in net.state_dict().values())
    return whole + 3 * sum(p.nbytes for task in tasks for p in net.parameters_of(task))
