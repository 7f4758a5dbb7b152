"""Re-selection: which weights a task has is decided anew, again and again, while it trains."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from rsn2.network import MultitaskNetwork
from rsn2.procedure.score import LossFunction, gradients, largest, seed_of
from rsn2_kernels.nn import TaskLayer

_REGROW = ("gradient", "random")
_Target = tuple[TaskLayer, int]


@dataclass(frozen=True)
class Reselection:
    """Let a task's weights move among the free ones while it trains; what the paper leaves to future work.

    After every ``every``-th optimizer step ``t < until``, in each layer, of the ``N`` weights that the task owns the

        k = floor(N * fraction / 2 * (1 + cos(pi * t / until)))

    smallest by magnitude are given back, and of the weights that nobody owned the ``k`` with the largest gradient by
    magnitude are claimed instead. They start at zero, so that the network's outputs change by the dropped weights
    alone. Where fewer than ``k`` are free, so many move. The gradient is the dense one of the batch of that step, at
    the values after it. This is RigL (Evci et al., "Rigging the Lottery", 2020, section 3: the cosine, the drop and
    the growth criterion) within one slot, with two differences: weights of other tasks are out of reach, and what was
    just given back cannot be claimed at once, so that exactly ``k`` weights move. ``regrow="random"`` draws the new
    weights instead, as SET does (Mocanu et al., 2018).

    What the task owns is the same number of weights at any moment, and no weight has two owners. Optimizer state
    follows the kept weights, and is zero for new ones. The result depends on the seed and the data alone, and a run
    that was killed ends with the same bits. Weights move singly; blocks that were claimed whole do not stay whole.

    Attributes:
        until: the optimizer step at which ownership is final; about three quarters of the training in RigL. Epochs that
            end before it do not count for early stopping, because their weights stand elsewhere.
        every: steps between two changes.
        fraction: share that moves at first, in (0, 1).
        regrow: ``"gradient"`` or ``"random"``.
    """

    until: int
    every: int = 100
    fraction: float = 0.3
    regrow: str = "gradient"

    def __post_init__(self) -> None:
        for name, value in (("until", self.until), ("every", self.every)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"Reselection: {name} must be an int of at least 1, got {value!r}")
        if not 0 < self.fraction < 1:
            raise ValueError(f"Reselection: fraction must be in (0, 1), got {self.fraction!r}")
        if self.regrow not in _REGROW:
            raise ValueError(f"Reselection: regrow must be one of {', '.join(_REGROW)}, got {self.regrow!r}")

    def is_due(self, step: int) -> bool:
        """Whether weights move after this optimizer step, counted from 1."""
        return step < self.until and step % self.every == 0

    def share(self, step: int) -> float:
        """Which share of a slot's weights moves after this step."""
        return self.fraction / 2 * (1 + math.cos(math.pi * step / self.until))


def move_weights(net: MultitaskNetwork, batches: Mapping[str, tuple[Any, Tensor]],
                 loss_fn: Mapping[str, LossFunction], share: float, *, regrow: str = "gradient",
                 optimizer: Optimizer | None = None, seed: int = 0) -> dict[str, dict[str, int]]:  # fmt: skip
    """One change of :class:`Reselection`, for all weights of these tasks that want a gradient now.

    Args:
        net: the network.
        batches: one batch ``(x, y)`` for each task. A slot that several of them share goes by the sum of their
            gradients.
        loss_fn: ``loss_fn(outputs, y)``, the mean over the rows, by task.
        share: of each slot's weights, rounded down.
        regrow: ``"gradient"`` or ``"random"``.
        optimizer: the live optimizer of these weights, if there is one.
        seed: for ``regrow="random"``.

    Returns:
        How many weights moved, by task and layer. A shared slot is reported with the first task that uses it.

    Raises:
        ValueError: a loss is not finite.
        RuntimeError: a live optimizer with state was not passed.
    """
    first_user: dict[_Target, tuple[str, str]] = {}
    sums: dict[_Target, Tensor] = {}
    for task, batch in batches.items():
        own = {name: t for name, t in net.task_layers(task).items() if t[0].values[t[1]].requires_grad}
        if regrow == "gradient":
            weights = {name: layer.dense_weight(slot) for name, (layer, slot) in own.items()}
            found = gradients(net, task, [batch], loss_fn[task], weights, what="fit")
            for name, target in own.items():
                sums[target] = sums[target] + found[name] if target in sums else found[name]
        for name, target in own.items():
            first_user.setdefault(target, (task, name))
    moved: dict[str, dict[str, int]] = {task: {} for task in batches}
    for (layer, slot), (task, name) in first_user.items():
        if regrow == "gradient":
            scores = sums[layer, slot].abs().flatten()
        else:
            generator = torch.Generator().manual_seed(seed_of(seed, task, name, "regrow"))
            scores = torch.rand(layer.numel, generator=generator, device="cpu").to(layer.positions.device)
        moved[task][name] = _move(layer, slot, share, scores, optimizer)
    return moved


def _move(layer: TaskLayer, slot: int, share: float, scores: Tensor, optimizer: Optimizer | None) -> int:
    places, values, free = layer.owned(slot), layer.values[slot].detach(), layer.free().flatten()
    k = min(math.floor(share * len(places)), int(free.count_nonzero()))
    if k == 0:
        return 0
    gone = places[largest(-values.abs(), k, torch.ones_like(values, dtype=torch.bool))]
    new = largest(scores, k, free)
    mask = torch.zeros(layer.numel, dtype=torch.bool, device=layer.positions.device)
    mask[gone] = True
    layer.release(slot, mask.reshape(layer.weight_shape), optimizer=optimizer)
    layer.claim_places({slot: (new, values.new_zeros(k))}, optimizer=optimizer)
    return k
