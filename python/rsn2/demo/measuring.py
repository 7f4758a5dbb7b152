"""What the demo measures of its networks besides their losses: the proof of no forgetting, bytes, milliseconds."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from rsn2.demo.tasks import Task, inputs_of, owned_tensors
from rsn2.experiments.training import DenseNetworks, bytes_of_network, digest, outputs_of
from rsn2.metrics import OtherWork, Timing, time_in_turns
from rsn2.network import MultitaskNetwork
from rsn2_kernels.testing import assert_as_accurate


@dataclass(frozen=True)
class Fingerprint:
    """SHA-256 of a task's test outputs, and of every byte that it owns."""

    outputs: str
    owned: str


def fingerprint(net: MultitaskNetwork, task: Task) -> Fingerprint:
    """Two fingerprints are equal only when every bit is."""
    split = task.data.test
    outputs, _ = outputs_of(net, task.name, [(split.x, split.y)])
    return Fingerprint(digest(outputs), digest(*owned_tensors(net, task.name)))


@dataclass
class Proof:
    """Fingerprints of finished tasks: ``first`` when a task was finished, ``last`` after everything else was
    trained."""

    first: dict[str, Fingerprint] = field(default_factory=dict)
    last: dict[str, Fingerprint] = field(default_factory=dict)

    def check(self, net: MultitaskNetwork, finished: Mapping[str, Task]) -> None:
        """Take the fingerprints of all finished tasks, and compare those taken before.

        Raises:
            AssertionError: an output or an owned byte of a finished task has changed.
        """
        for name, task in finished.items():
            self.last[name] = fingerprint(net, task)
            before = self.first.setdefault(name, self.last[name])
            if before != self.last[name]:
                what = "outputs" if before.outputs != self.last[name].outputs else "weights"
                raise AssertionError(f"the {what} of the finished task {name!r} have changed")


@dataclass(frozen=True)
class Sizes:
    """Bytes: ``ours`` part by part (see ``bytes_of_network``), and of the dedicated networks together."""

    ours: dict[str, int]
    ours_file: int
    dedicated: int
    dedicated_file: int

    @property
    def ours_stored(self) -> int:
        """What must be kept: everything but the index, which is derived."""
        return sum(size for part, size in self.ours.items() if part != "index")


def sizes(net: MultitaskNetwork, networks: DenseNetworks) -> Sizes:
    """Bytes in memory, and in files of the same format."""
    from safetensors.torch import save_file

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.safetensors"
        net.save(path, closed=True)
        ours_file = path.stat().st_size
        dedicated_file = 0
        for network in networks.networks.values():
            save_file(network.state_dict(), path)
            dedicated_file += path.stat().st_size
    return Sizes(bytes_of_network(net), ours_file, sum(bytes_of_network(networks).values()), dedicated_file)


@dataclass(frozen=True)
class Speed:
    """Forward passes over ``rows_per_task`` rows of every task: one call of the network, and one call of each dedicated
    one.

    Attributes:
        ours, dedicated: with all threads or with one, whichever has the smaller median.
        ours_threads, dedicated_threads: which that was.
        is_identical: whether the mixed batch gives the bits that the tasks give one by one.
    """

    rows_per_task: int
    ours: Timing
    dedicated: Timing
    ours_threads: int
    dedicated_threads: int
    is_identical: bool
    is_disturbed: bool = False
    """Whether other programs had cores that were timed."""

    @property
    def is_noisy(self) -> bool:
        """Whether other programs took cores, or measurements are so far apart that something else must have."""
        return self.is_disturbed or any(
            t.quantile_ms(0.8) > 2 * t.quantile_ms(0.2) for t in (self.ours, self.dedicated)
        )

    @property
    def ratio(self) -> float:
        """How many times faster ours is; below 1 it is slower."""
        return self.dedicated.median_ms() / self.ours.median_ms()


@torch.inference_mode()
def speed(
    net: MultitaskNetwork, networks: DenseNetworks, tasks: Mapping[str, Task], rows_per_task: int, repeats: int
) -> Speed:
    """Time a mixed batch, in turns with the dedicated networks on the same rows, after its results were checked.

    Raises:
        AssertionError: the mixed batch is less accurate than the same weights in dense layers.
    """
    net.eval()
    networks.eval()
    inputs = {name: inputs_of(task, rows_per_task) for name, task in tasks.items()}
    mixed = net(inputs)
    is_identical = all(torch.equal(mixed[name], net(x, task=name)) for name, x in inputs.items())
    for name, x in inputs.items():
        dense = net.to_dense(name)
        plain = dense(x)
        # Wider than for one operator: rounding runs through six layers, and there are few outputs to take the maximum
        # of.
        assert_as_accurate(mixed[name], plain=plain, exact=dense.double()(x.double()), factor=4)
    num_threads = torch.get_num_threads()
    models = {"ours": net, "dedicated": networks}
    functions = {
        f"{name} {threads}": functools.partial(_with_threads, threads, model, inputs)
        for threads in sorted({1, num_threads}, reverse=True)
        for name, model in models.items()
    }
    with OtherWork() as other:
        timings = time_in_turns(functions, repeats=repeats, rest_seconds=0.03)

    def best(name: str) -> int:
        return min({1, num_threads}, key=lambda threads: timings[f"{name} {threads}"].median_ms())

    ours, dedicated = best("ours"), best("dedicated")
    return Speed(rows_per_task, timings[f"ours {ours}"], timings[f"dedicated {dedicated}"], ours, dedicated,
                 is_identical, other.disturbs(num_threads))  # fmt: skip


def _with_threads(threads: int, model: nn.Module, inputs: Mapping[str, Tensor]) -> None:
    before = torch.get_num_threads()
    if threads == before:
        model(inputs)
        return
    torch.set_num_threads(threads)
    model(inputs)
    torch.set_num_threads(before)
