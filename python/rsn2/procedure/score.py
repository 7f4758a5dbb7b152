"""How important each weight of a layer is for a task (Algorithm 1, lines 3-5), and which ones are taken."""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rsn2.procedure.labels import explained
from rsn2.procedure.loaders import move, num_rows, pair
from rsn2_kernels.nn import TaskLayer

if TYPE_CHECKING:
    from rsn2.network import MultitaskNetwork

Batches = Iterable[tuple[Any, Tensor]]
LossFunction = Callable[[Any, Any], Tensor]


@dataclass(frozen=True)
class Scored:
    """What a score function is given.

    Attributes:
        layer_name: name of the layer, as in ``net.task_layers``.
        weight: the dense weight that stood in for the slot's, zero where weights were deactivated.
        gradient: of the loss over all batches with respect to ``weight``, summed over the tasks that share the slot.
        generator: for scores that are drawn.
    """

    layer_name: str
    weight: Tensor
    gradient: Tensor
    generator: torch.Generator


ScoreFunction = Callable[[Scored], Tensor]
"""Gives a tensor of the weight's shape; larger is more important."""

SCORES: dict[str, ScoreFunction] = {
    "gradient": lambda scored: scored.gradient.abs(),
    "magnitude": lambda scored: scored.weight.abs(),
    "gradient_x_weight": lambda scored: (scored.gradient * scored.weight).abs(),
    "random": lambda scored: torch.rand(
        scored.weight.shape, generator=scored.generator, device=scored.generator.device
    ).to(scored.weight.device),
}
"""``gradient`` is the paper's; the last two of the others are those of SNIP and of a random choice."""


def largest(scores: Tensor, k: int, allowed: Tensor) -> Tensor:
    """The ``k`` places with the largest scores among those allowed; ties go to the lower place.

    Exactly ``k``, however many scores are equal: a threshold alone (``>= percentile``) would take all that tie with it.

    Args:
        scores: ``[n]``, any float dtype, no NaN.
        k: at most the number of allowed places.
        allowed: bool ``[n]``.

    Returns:
        Ascending int64 ``[k]``.
    """
    num_allowed = int(allowed.count_nonzero())
    if not 0 <= k <= num_allowed:
        raise ValueError(f"largest: k must be in 0..{num_allowed}, got {k}")
    if k == 0:
        return torch.zeros(0, dtype=torch.int64, device=scores.device)
    allowed = allowed.cpu()
    given = scores.detach().cpu()
    given = given.to(torch.float64 if scores.dtype == torch.float64 else torch.float32)
    candidates = given.masked_fill(~allowed, -math.inf).numpy()
    place = len(candidates) - k
    candidates.partition(place)  # several times faster than torch.kthvalue
    smallest = float(candidates[place])
    above, equal = (given > smallest).logical_and_(allowed), (given == smallest).logical_and_(allowed)
    num_equal = k - int(above.count_nonzero())
    above[equal.nonzero().squeeze(1)[:num_equal]] = True
    return above.nonzero().squeeze(1).to(scores.device)


def largest_by_row(scores: Tensor, k: int, allowed: Tensor, num_rows: int) -> Tensor:
    """Indices of ``k`` scores of which every row has as many, the largest it has, ties to the lower index.

    Each of the ``num_rows`` rows gives ``k // num_rows``, or all that are allowed where it has fewer; what is then
    missing are the largest of the rest.

    Args:
        scores: ``[n]``, rows one after another.
        k: at most the number of allowed places.
        allowed: bool ``[n]``.

    Returns:
        Ascending int64 ``[k]``.
    """
    share = k // num_rows
    masked = scores.detach().masked_fill(~allowed, -math.inf).reshape(num_rows, -1)
    order = masked.sort(dim=1, descending=True, stable=True).indices[:, :share]
    chosen = torch.zeros_like(masked, dtype=torch.bool).scatter_(1, order, True).flatten() & allowed
    rest = largest(scores, k - int(chosen.sum()), allowed & ~chosen)
    chosen[rest] = True
    return chosen.nonzero().squeeze(1)


def gradients(net: MultitaskNetwork, task: str, batches: Batches, loss_fn: LossFunction,
              weights: Mapping[str, Tensor], *, what: str = "claim") -> dict[str, Tensor]:  # fmt: skip
    """The gradient of a task's loss with respect to dense weights that stand in for its slots.

    The network computes without dropout, while normalisation layers use the statistics of each batch and keep theirs
    unchanged. Every batch counts by its rows, so that the result is the gradient of the sum over all rows where
    ``loss_fn`` gives the mean over a batch.

    Args:
        weights: by layer name, shape of the layer's weight. Layers that are not named compute with what the slot owns.
        what: who asks, for messages.

    Returns:
        A tensor for each of ``weights``; zeros for a layer that the task does not use.

    Raises:
        ValueError: there is no batch, labels lie outside of the head, or the loss is not a finite scalar.
    """
    layers = net.task_layers(task)
    probes = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
    sums: dict[str, Tensor] = {}
    num_batches, name_of_task = 0, net.tasks[net.task_number(task)]
    device = next(iter(net.parameters())).device
    with (
        _scoring_mode(net),
        _standing_in({layers[name][0]: probe for name, probe in probes.items()}),
        torch.enable_grad(),
        _uncompiled(),
    ):
        for batch in batches:
            x, y = (move(part, device) for part in pair(task, batch, what))
            output, where = net({task: x})[name_of_task], f"task {task!r}, batch {num_batches}"
            with explained(what, loss_fn, output, y, where):
                loss = loss_fn(output, y)
            check_loss(what, loss, where)
            found = torch.autograd.grad(loss * num_rows(y), list(probes.values()), allow_unused=True)
            for name, gradient in zip(probes, found, strict=True):
                if gradient is not None:
                    sums[name] = sums[name].add_(gradient) if name in sums else gradient.contiguous()
            num_batches += 1
    if num_batches == 0:
        raise ValueError(f"{what}: the batches of task {task!r} are empty")
    return {name: sums[name] if name in sums else torch.zeros_like(weight) for name, weight in weights.items()}


def add_reads(weight: Tensor, layer: TaskLayer, slot: int) -> Tensor:
    """``weight`` (changed in place, shape of the layer's weight) with the values of other slots that ``slot`` reads."""
    flat = weight.view(-1)
    for owner in layer.reads(slot):
        flat[layer.owned(owner)] = layer.values[owner].detach()
    return weight


def seed_of(*parts: object) -> int:
    """A seed of 64 bits for what these parts name."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


def check_loss(what: str, loss: Any, where: str) -> None:
    """A loss must be a finite scalar."""
    if not isinstance(loss, Tensor) or loss.numel() != 1 or loss.dim() > 1 or loss.is_complex():
        got = f"{loss.dtype} {list(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"{what}: the loss must be a scalar tensor, got {got} ({where})")
    if not bool(loss.isfinite().all()):
        raise ValueError(f"{what}: the loss must be finite, got {loss.item()} ({where})")


def _uncompiled() -> AbstractContextManager[Any]:
    """Compiled parts compute as they are written: compiling would take longer than the few batches of a choice."""
    # Nothing is compiled yet where nobody has imported the compiler, which takes a second.
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


@contextmanager
def _standing_in(probes: Mapping[TaskLayer, Tensor]) -> Iterator[None]:
    try:
        for layer, probe in probes.items():
            layer.probe = probe
        yield
    finally:
        for layer in probes:
            layer.probe = None


@contextmanager
def _scoring_mode(net: nn.Module) -> Iterator[None]:
    """Evaluation mode but for normalisation by the batch, whose running statistics are put back afterwards."""
    modes = {module: module.training for module in net.modules()}
    net.train()
    tracking = [module for module in modes if hasattr(module, "running_mean") and module.training]
    before = [(buffer, buffer.clone()) for module in tracking for buffer in module.buffers(recurse=False)]
    try:
        net.eval()
        for module in tracking:
            module.train()
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)
