"""One training run: its settings, its state, and its loop."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from rsn2.network import MultitaskNetwork
from rsn2.procedure.history import EarlyStopping, History, Patience
from rsn2.procedure.labels import explained
from rsn2.procedure.loaders import Cycle, check_loader, joined, move, num_rows, pair
from rsn2.procedure.parts import ownership, part_of, put_back, tensors_of
from rsn2.procedure.progress import Silent, shown
from rsn2.procedure.reselect import Reselection, move_weights
from rsn2.procedure.resume import Checkpoint
from rsn2.procedure.score import check_loss, seed_of


@dataclass(frozen=True)
class Settings:
    """What does not change while a run lasts. Everything given by task is a dict with the same tasks."""

    train: dict[str, Any]
    validation: dict[str, Any]
    loss_fn: dict[str, Any]
    metrics: dict[str, Mapping[str, Any]]
    max_epochs: int
    early_stopping: EarlyStopping | None
    checkpoint_every: int | None
    seed: int
    reselect: Reselection | None = None
    epoch_of: str | None = None
    max_grad_norm: float | None = None
    schedule_by: str = "epoch"

    def num_steps(self) -> int:
        """Of an epoch."""
        counts = {task: check_loader("fit", "train", task, loader) for task, loader in self.train.items()}
        return max(counts.values()) if self.epoch_of is None else counts[self.epoch_of]

    def fingerprint(self) -> dict[str, Any]:
        """What must be the same for a run to go on from a state."""
        return {
            "tasks": list(self.train),
            "batches": [len(loader) for loader in self.train.values()],
            "max_epochs": self.max_epochs,
            "early_stopping": None if self.early_stopping is None else asdict(self.early_stopping),
            "seed": self.seed,
            "reselect": None if self.reselect is None else asdict(self.reselect),
            "epoch_of": self.epoch_of,
            "max_grad_norm": self.max_grad_norm,
            "schedule_by": self.schedule_by,
        }


class Run:
    """Trains the tasks of a network together until they are done; see :func:`rsn2.fit`.

    Attributes:
        has_begun: whether the network is not as it was any more.
    """

    def __init__(self, net: MultitaskNetwork, settings: Settings, optimizer: Optimizer,
                 scheduler: LRScheduler | None = None) -> None:  # fmt: skip
        self.net, self.settings, self.optimizer, self.scheduler = net, settings, optimizer, scheduler
        self.tasks = list(settings.train)
        self.params = list(dict.fromkeys(p for task in self.tasks for p in net.parameters_of(task)))
        self.device = self.params[0].device
        self.cycles = {task: Cycle(task, loader) for task, loader in settings.train.items()}
        self.num_steps = settings.num_steps()
        self.history, self.patience = History(), Patience()
        self.best: list[Tensor] = []
        self.is_complete = self.has_begun = False
        self._begin_epoch(1)

    @functools.cached_property
    def fingerprint(self) -> dict[str, Any]:
        """Of the settings, and of what the tasks own; how much, where weights move while training."""
        owned = ownership(self.net, self.tasks, exact=self.settings.reselect is None)
        return self.settings.fingerprint() | {"owned weights (digest)": owned}

    def _begin_epoch(self, epoch: int) -> None:
        self.epoch, self.step, self.seconds = epoch, 0, 0.0
        self.loss_sums, self.num_rows = dict.fromkeys(self.tasks, 0.0), dict.fromkeys(self.tasks, 0)

    # The loop.

    def train(self, keeper: Checkpoint | None, progress: bool) -> History:
        """Run to the end, from the state that the keeper has, if any."""
        was_training = self.net.training
        devices = range(torch.cuda.device_count())
        try:
            with torch.random.fork_rng(devices), _others_at_rest(self.net, self.params), shown(progress) as display:
                torch.manual_seed(self.settings.seed)
                state = None if keeper is None else keeper.load()
                if keeper is not None and state is not None:
                    self.load_state_dict(state, str(keeper.path))
                while not self.is_complete:
                    self._train_epoch(keeper, display)
                    if keeper is not None:
                        keeper.save(self.state_dict())
        finally:
            self.net.train(was_training)
        return self.history

    def _train_epoch(self, keeper: Checkpoint | None, display: Silent) -> None:
        started = time.perf_counter() - self.seconds
        self.net.train()
        display.begin(self.epoch, self.settings.max_epochs, self.num_steps, self.step)
        every = self.settings.checkpoint_every
        while self.step < self.num_steps:
            self._train_step()
            self.step += 1
            display.step()
            if keeper is not None and every is not None and self.step % every == 0 and self.step < self.num_steps:
                self.seconds = time.perf_counter() - started
                keeper.save(self.state_dict())
        val_loss, val_metrics = self._validate()
        loss = {task: self.loss_sums[task] / self.num_rows[task] for task in self.tasks}
        seconds = time.perf_counter() - started
        record = {
            "epoch": self.epoch,
            "loss": loss,
            "val_loss": val_loss,
            "val_metrics": val_metrics,
            "seconds": seconds,
        }
        self.history.epochs.append(record)
        display.end(record)
        self._judge(val_loss)
        self._step_scheduler(val_loss)
        self._begin_epoch(self.epoch + 1)

    def _train_step(self) -> None:
        batches = {task: cycle.next() for task, cycle in self.cycles.items()}
        self.has_begun = True
        inputs = {task: move(x, self.device) for task, (x, _) in batches.items()}
        targets = {task: move(y, self.device) for task, (_, y) in batches.items()}
        first: dict[str, float] = {}

        def closure() -> Tensor:
            self.optimizer.zero_grad()
            outputs = self.net(inputs)
            losses = [self._loss(task, outputs[task], targets[task], self.step) for task in self.tasks]
            total = torch.stack(losses).sum() if len(losses) > 1 else losses[0]
            total.backward()
            if self.settings.max_grad_norm is not None:
                nn.utils.clip_grad_norm_(self.params, self.settings.max_grad_norm)
            if not first:
                first.update(zip(self.tasks, torch.stack(losses).tolist(), strict=True))
            return total

        self.optimizer.step(closure)  # type: ignore[arg-type]  # torch's stubs want a float, steps take a tensor
        if not first:
            raise ValueError(
                f"fit: optimizer must call the closure that step is given, {type(self.optimizer).__name__} does not"
            )
        if self.settings.schedule_by == "step" and self.scheduler is not None:
            self.scheduler.step()
        for task, y in targets.items():
            self.loss_sums[task] += first[task] * num_rows(y)
            self.num_rows[task] += num_rows(y)
        reselect, step = self.settings.reselect, (self.epoch - 1) * self.num_steps + self.step + 1
        if reselect is not None and reselect.is_due(step):
            pairs = {task: (inputs[task], targets[task]) for task in self.tasks}
            move_weights(self.net, pairs, self.settings.loss_fn, reselect.share(step), regrow=reselect.regrow,
                         optimizer=self.optimizer, seed=seed_of(self.settings.seed, step))  # fmt: skip

    def _loss(self, task: str, output: Any, y: Any, batch: int) -> Tensor:
        loss_fn = self.settings.loss_fn[task]
        where = f"task {task!r}, epoch {self.epoch}, batch {batch}"
        with explained("fit", loss_fn, output, y, where):
            loss = loss_fn(output, y)
        check_loss("fit", loss, where)
        return loss.reshape(())

    @torch.no_grad()
    def _validate(self) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
        self.net.eval()
        losses, metrics = {}, {}
        for task, loader in self.settings.validation.items():
            total, count = 0.0, 0
            outputs, targets = [], []
            for number, batch in enumerate(loader):
                x, y = pair(task, batch)
                y = move(y, self.device)
                output = self.net({task: move(x, self.device)})[task]
                total += self._loss(task, output, y, number).item() * num_rows(y)
                count += num_rows(y)
                if self.settings.metrics[task]:
                    outputs.append(output)
                    targets.append(y)
            if count == 0:
                raise ValueError(f"fit: validation of task {task!r} is empty")
            losses[task] = total / count
            functions = self.settings.metrics[task]
            metrics[task] = {name: float(fn(joined(outputs), joined(targets))) for name, fn in functions.items()}
        return losses, metrics

    def _judge(self, val_loss: dict[str, float]) -> None:
        """Early stopping: remember the best epoch, and end the run when it is time."""
        stopping, reselect = self.settings.early_stopping, self.settings.reselect
        is_moving = reselect is not None and self.epoch * self.num_steps < reselect.until
        # The values of an epoch could not be put back once their weights have moved.
        if stopping is None or not is_moving and self.patience.is_better(sum(val_loss.values()), stopping):
            self.history.best_epoch = self.epoch
            if stopping is not None and stopping.restore_best:
                self.best = [tensor.clone() for tensor in tensors_of(self.net, self.tasks)]
        self.history.stopped_early = stopping is not None and self.patience.waited >= stopping.patience
        self.is_complete = self.history.stopped_early or self.epoch == self.settings.max_epochs
        if self.is_complete and self.best:
            for tensor, value in zip(tensors_of(self.net, self.tasks), self.best, strict=True):
                tensor.copy_(value)

    def _step_scheduler(self, val_loss: dict[str, float]) -> None:
        if self.scheduler is None or self.settings.schedule_by == "step":
            return
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(sum(val_loss.values()))
        else:
            self.scheduler.step()

    # The state.

    def state_dict(self) -> dict[str, Any]:
        """Everything that a run needs to go on with the same bits."""
        return {
            "fingerprint": self.fingerprint,
            "part": part_of(self.net, self.tasks),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "loaders": {task: cycle.state_dict() for task, cycle in self.cycles.items()},
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "history": asdict(self.history),
            "patience": asdict(self.patience),
            "best": self.best,
            "epoch": self.epoch,
            "step": self.step,
            "seconds": self.seconds,
            "loss_sums": self.loss_sums,
            "num_rows": self.num_rows,
            "is_complete": self.is_complete,
        }

    def load_state_dict(self, state: dict[str, Any], path: str) -> None:
        """Go on from a state, which ``path`` held."""
        own = self.fingerprint
        differing = [key for key in own if state["fingerprint"].get(key) != own[key]]
        if differing:
            detail = ", ".join(f"{key} {state['fingerprint'].get(key)} instead of {own[key]}" for key in differing)
            raise ValueError(f"checkpoint: {path} belongs to another run: {detail}")
        if (state["scheduler"] is None) != (self.scheduler is None):
            raise ValueError(f"checkpoint: {path} belongs to another run: only one of the two has a scheduler")
        try:
            put_back(self.net, self.tasks, state["part"])
        except ValueError as error:
            raise ValueError(f"checkpoint: {path} belongs to another network: {error}") from error
        self.has_begun = True
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        for task, cycle in self.cycles.items():
            cycle.load_state_dict(state["loaders"][task])
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"]:
            torch.cuda.set_rng_state_all(state["cuda_rng"])
        self.history, self.patience = History(**state["history"]), Patience(**state["patience"])
        self.best = [tensor.to(self.device) for tensor in state["best"]]
        self.epoch, self.step, self.seconds = state["epoch"], state["step"], state["seconds"]
        self.loss_sums, self.num_rows, self.is_complete = state["loss_sums"], state["num_rows"], state["is_complete"]


@contextmanager
def _others_at_rest(net: nn.Module, params: list[nn.Parameter]) -> Iterator[None]:
    """Nothing but ``params`` wants a gradient. What else could train would get zero gradients, and shrink by weight
    decay.
    """
    trained = set(params)
    others = [p for p in net.parameters() if p.requires_grad and p not in trained]
    for parameter in others:
        parameter.requires_grad_(False)
        parameter.grad = None
    try:
        yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)
