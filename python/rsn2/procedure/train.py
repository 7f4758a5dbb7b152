"""Algorithm 1, line 7: train the network as usual, altering only what the tasks own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from rsn2.network import MultitaskNetwork
from rsn2.procedure.claim import by_task, losses_by_task, names_of
from rsn2.procedure.history import EarlyStopping, History
from rsn2.procedure.loaders import check_loader
from rsn2.procedure.parts import tensors_of
from rsn2.procedure.reselect import Reselection
from rsn2.procedure.resume import Checkpoint
from rsn2.procedure.run import Run, Settings
from rsn2.procedure.score import LossFunction
from rsn2_kernels.nn._optimizers import forget

OptimizerFactory = Callable[[list[nn.Parameter]], Optimizer]
SchedulerFactory = Callable[[Optimizer], LRScheduler]
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
        epoch_of: str | None = None, scheduler: SchedulerFactory | None = None, schedule_by: str = "epoch",
        max_grad_norm: float | None = None) -> History:  # fmt: skip
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
        checkpoint: a file that keeps the complete state of the training and of these tasks; nothing of other tasks.
            When it is there, training goes on from it: a run that was killed at any moment ends with the same bits as
            one that was not. Its loaders must be random by torch alone: by its own generator, or one that the loader
            or its samplers have; a loader with persistent workers cannot be brought back to where it was.
        checkpoint_every: steps between two states in the file, besides one after every epoch.
        progress: show a bar (with rich, on a terminal) or a line per epoch.
        seed: of everything random while training (dropout, loaders that use torch's generator).
        thaw: train finished tasks again.
        reselect: let the tasks' weights move among the free ones while they train, see
            :class:`~rsn2.procedure.reselect.Reselection`.
        epoch_of: the task of which an epoch is one pass; that with the most batches when None.
        scheduler: makes a learning-rate scheduler of the optimizer; ``ReduceLROnPlateau`` follows the sum of the
            validation losses.
        schedule_by: ``"epoch"`` or ``"step"``, after which the scheduler steps.
        max_grad_norm: gradients are scaled down to this norm, over all that trains, where theirs is larger.

    Returns:
        What happened. The network has the weights of ``history.best_epoch``, unless ``restore_best`` is False.

    Raises:
        ValueError: a task is finished or owns no weights, a loader is empty, labels lie outside of the head, a loss is
            not a finite scalar, the checkpoint belongs to another run or cannot be kept. What is refused before the
            first step changes nothing; a task whose training fails later is left as it is then, and unfinished.
        KeyError: an unknown task.
    """
    names = names_of(net, "fit", tasks)
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
        max_grad_norm=max_grad_norm,
        schedule_by=schedule_by,
    )
    _check(net, settings, thaw)
    keeper = None if checkpoint is None else Checkpoint(checkpoint, _bytes_of_state(net, names))
    if keeper is not None and any(getattr(loader, "persistent_workers", False) for loader in settings.train.values()):
        warnings.warn(
            "fit: a loader with persistent workers cannot go on from a checkpoint with the same bits", stacklevel=2
        )
    finished = [name for name in names if net.is_finished(name)]
    made, run = None, None
    try:
        for name in finished:
            net.thaw(name)
        made = optimizer(list(dict.fromkeys(p for name in names for p in net.parameters_of(name))))
        run = Run(net, settings, made, _scheduler_of(made, scheduler, settings))
        history = run.train(keeper, progress)
    except BaseException:
        if run is None or not run.has_begun:
            for name in finished:
                net.freeze(name)
        raise
    finally:
        if made is not None:
            forget(made)  # should it live on somewhere, its state is not of weights that trained on
    for name in names:
        net.freeze(name)
    return history


def _scheduler_of(optimizer: Optimizer, make: SchedulerFactory | None, settings: Settings) -> LRScheduler | None:
    if make is None:
        return None
    scheduler = make(optimizer)
    if isinstance(scheduler, ReduceLROnPlateau) and (settings.schedule_by == "step" or not settings.validation):
        raise ValueError("fit: ReduceLROnPlateau needs validation, and schedule_by='epoch'")
    return scheduler


def _check(net: MultitaskNetwork, settings: Settings, thaw: bool) -> None:
    for argument, value in (("max_epochs", settings.max_epochs), ("checkpoint_every", settings.checkpoint_every)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"fit: {argument} must be an int of at least 1, got {value!r}")
    if settings.early_stopping is not None and not settings.validation:
        raise ValueError("fit: early stopping needs validation; pass it, or early_stopping=None")
    if settings.epoch_of is not None and settings.epoch_of not in settings.train:
        raise ValueError(f"fit: epoch_of must be one of {', '.join(settings.train)}, got {settings.epoch_of!r}")
    if settings.schedule_by not in ("epoch", "step"):
        raise ValueError(f"fit: schedule_by must be 'epoch' or 'step', got {settings.schedule_by!r}")
    if settings.max_grad_norm is not None and not settings.max_grad_norm > 0:
        raise ValueError(f"fit: max_grad_norm must be above 0, got {settings.max_grad_norm!r}")
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
    if is_by_task and not set(metrics) <= set(tasks):
        raise ValueError(f"fit: metrics must have keys of {list(tasks)}, got {list(metrics)}")
    return {task: metrics.get(task, {}) if is_by_task else metrics for task in tasks}


def _bytes_of_state(net: MultitaskNetwork, tasks: Sequence[str]) -> int:
    """Of the tasks' weights, and three times more: two moments and the best epoch."""
    return 4 * sum(tensor.nbytes for tensor in tensors_of(net, tasks))
