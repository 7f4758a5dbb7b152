"""The demo itself: train, prove, compare, print, write the page."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rsn2.data.errors import require
from rsn2.demo.measuring import Proof, Sizes, Speed, sizes, speed
from rsn2.demo.tasks import STAGES, ForgetfulNetwork, Protocol, Task, dedicated, head, load_tasks, stem, trunk
from rsn2.experiments import environment
from rsn2.experiments.training import DenseNetworks, outputs_of
from rsn2.network import MultitaskNetwork
from rsn2.procedure import EarlyStopping, claim, fit

QUICK = {"max_epochs": 2}
ROWS_PER_TASK = (128, 1)


@dataclass(frozen=True)
class TestResult:
    """A task's result on its test part."""

    loss: float
    score: float


@dataclass
class DemoResult:
    """Everything that the page and the tables show.

    Attributes:
        after_stage: per stage, each finished task's test result in the shared network.
        ordinary_after_stage: the same for an ordinary network that is trained in the same order.
        dedicated: each task's test result in a network of its own.
    """

    protocol: Protocol
    tasks: dict[str, Task]
    net: MultitaskNetwork
    networks: DenseNetworks
    after_stage: list[dict[str, TestResult]]
    ordinary_after_stage: list[dict[str, TestResult]]
    dedicated: dict[str, TestResult]
    proof: Proof
    sizes: Sizes
    speeds: list[Speed]
    environment: dict[str, Any]
    seconds: float
    quick: bool

    @property
    def final(self) -> dict[str, TestResult]:
        """Each task's result in the shared network at the end."""
        return self.after_stage[-1]


def test_result(net: nn.Module, task: Task) -> TestResult:
    split = task.data.test
    outputs, target = outputs_of(net, task.name, [(split.x, split.y)])
    return TestResult(task.loss(outputs, target).item(), task.score(outputs, target))


def _train(net: Any, tasks: Sequence[Task], protocol: Protocol) -> None:
    fit(
        net,
        [task.name for task in tasks],
        {task.name: task.batches("train", protocol) for task in tasks},
        {task.name: task.batches("validation", protocol) for task in tasks},
        {task.name: task.loss for task in tasks},
        optimizer=functools.partial(torch.optim.AdamW, lr=protocol.learning_rate, weight_decay=protocol.weight_decay),
        max_epochs=protocol.max_epochs,
        early_stopping=EarlyStopping(patience=protocol.patience, min_delta=protocol.min_delta),
        progress=False,
        seed=protocol.seed,
    )


def train_in_stages(
    tasks: dict[str, Task], protocol: Protocol
) -> tuple[MultitaskNetwork, list[dict[str, TestResult]], Proof]:
    """One network, its tasks stage after stage; after each, all finished tasks are tested and compared bit by bit."""
    torch.manual_seed(protocol.seed)
    net = MultitaskNetwork(trunk())
    proof, after_stage = Proof(), []
    finished: dict[str, Task] = {}
    for names in STAGES:
        new = [tasks[name] for name in names]
        for task in new:
            net.add_task(task.name, stem=stem(task), head=head(task))
        scoring = {task.name: task.batches("train", replace(protocol, batch_size=256)) for task in new}
        losses = {task.name: task.loss for task in new}
        claim(net, list(names), scoring, losses, protocol.keep, mode="sequential", seed=protocol.seed)
        _train(net, new, protocol)
        finished |= {task.name: task for task in new}
        proof.check(net, finished)
        after_stage.append({name: test_result(net, task) for name, task in finished.items()})
    return net, after_stage, proof


def train_ordinary(tasks: dict[str, Task], protocol: Protocol) -> list[dict[str, TestResult]]:
    """The same stages with a trunk of ordinary layers, to show what forgetting is."""
    torch.manual_seed(protocol.seed)
    net = ForgetfulNetwork(tasks)
    after_stage: list[dict[str, TestResult]] = []
    finished: dict[str, Task] = {}
    for names in STAGES:
        new = [tasks[name] for name in names]
        _train(net, new, protocol)
        finished |= {task.name: task for task in new}
        after_stage.append({name: test_result(net, task) for name, task in finished.items()})
    return after_stage


def train_dedicated(tasks: dict[str, Task], protocol: Protocol) -> tuple[DenseNetworks, dict[str, TestResult]]:
    """An ordinary network for each task."""
    networks = {}
    for task in tasks.values():
        torch.manual_seed(protocol.seed)
        networks[task.name] = dedicated(task)
        _train(DenseNetworks({task.name: networks[task.name]}), [task], protocol)
    together = DenseNetworks(networks)
    return together, {name: test_result(together, task) for name, task in tasks.items()}


@contextmanager
def _one_thread() -> Iterator[None]:
    """The batches are small: more threads gain little, and on a busy machine they wait for each other."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def compute(*, quick: bool = False, seed: int = 0, status: Any = None) -> DemoResult:
    """Train and measure everything.

    Args:
        quick: two epochs and few repeats.
        seed: of starting values and of the order of the data.
        status: called with a sentence on what is being done.
    """
    say = status or (lambda words: None)
    start = time.perf_counter()
    protocol = replace(Protocol(seed=seed), **QUICK) if quick else Protocol(seed=seed)
    tasks = load_tasks()
    with _one_thread():
        say("one network: two tasks together, then one after another")
        net, after_stage, proof = train_in_stages(tasks, protocol)
        say("a dedicated network for each task")
        networks, alone = train_dedicated(tasks, protocol)
        say("an ordinary network, trained in the same order")
        ordinary = train_ordinary(tasks, protocol)
    say("bytes and milliseconds")
    speeds = [speed(net, networks, tasks, rows, repeats=5 if quick else 40) for rows in ROWS_PER_TASK]
    proof.check(net, tasks)  # once more, after everything
    return DemoResult(protocol, tasks, net, networks, after_stage, ordinary, alone, proof, sizes(net, networks), speeds,
                      environment.facts(torch.device("cpu")), time.perf_counter() - start, quick)  # fmt: skip


def run_demo(out: Path, *, quick: bool = False, seed: int = 0) -> DemoResult:
    """Run the demo, print its tables, and write its page to ``out``.

    Raises:
        AssertionError: a finished task has changed, or a mixed batch is less accurate than it should be.
        OSError: ``out`` cannot be written.
    """
    require("sklearn", "rsn2 demo")
    console = require("rich.console", "rsn2 demo").Console(highlight=False)
    from rsn2.demo.page import write_page
    from rsn2.demo.printing import print_tables

    if not out.parent.is_dir():
        raise FileNotFoundError(f"rsn2 demo: --out must be in a folder that exists, got {out}")
    if out.is_dir():
        raise IsADirectoryError(f"rsn2 demo: --out must be the page's file, got the folder {out}")
    console.print("Four real tasks of different kinds, one network, no weight shared. Nothing is downloaded.")
    with console.status("starting") as shown:
        result = compute(quick=quick, seed=seed, status=lambda words: shown.update(f"{words} ..."))
    print_tables(console, result)
    write_page(out, result)
    console.print(f"\n{result.seconds:.0f} seconds. The page with pictures: [bold]{out}[/bold]", soft_wrap=True)
    return result
