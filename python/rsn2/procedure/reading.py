"""A task may read what earlier tasks have learned, and cannot change it."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from rsn2.network import MultitaskNetwork
from rsn2_kernels.nn import TaskLayer


def read_weights(net: MultitaskNetwork, task: str | int, of: str | Sequence[str], *,
                 layers: str | Sequence[str] = "*") -> None:  # fmt: skip
    """Let a task compute with the weights of finished tasks besides its own; what the paper leaves to future work.

    In each layer the task's output becomes ``(W_own + sum of W_other) x + b_own``. No gradient flows to what is read,
    so that the other tasks' outputs keep every bit; and no weight changes its owner. Call it before :func:`rsn2.claim`,
    which then takes the gradient of the network as the task will compute it. Weights that are read so must stay as they
    are: a finished task that is read cannot be trained again.

    Args:
        net: the network.
        task: the one that reads, not finished.
        of: finished tasks, a name or several; an empty list ends the reading.
        layers: patterns (``fnmatch``) of the trunk's layers; the others are read by nobody through this call.

    Raises:
        KeyError: an unknown task.
        ValueError: the task is finished, one of the others is not, or a pattern matches no layer. Nothing is changed
            then.
    """
    patterns = [layers] if isinstance(layers, str) else list(layers)
    others = [net.task_number(other) for other in ([of] if isinstance(of, str) else of)]
    reader = net.tasks[net.task_number(task)]
    if net.is_finished(task):
        raise ValueError(f"read_weights: task {reader!r} is finished, so that what it reads cannot change")
    trunk = {name: layer for name, layer in net.trunk_layers().items() if isinstance(layer, TaskLayer)}
    for other in others:
        if not net.is_finished(other):
            raise ValueError(f"read_weights: task {net.tasks[other]!r} must be finished to be read")
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in trunk):
            raise ValueError(f"read_weights: pattern {pattern!r} matches no layer; there are {', '.join(trunk)}")
    for name, layer in trunk.items():
        slot = net.slot_of(task, name)
        # A slot that the task shares with a finished one is frozen, and is its own already.
        if not layer.is_frozen(slot) and any(fnmatchcase(name, pattern) for pattern in patterns):
            layer.read(slot, [other for other in {net.slot_of(number, name) for number in others} if other != slot])
