"""Algorithm 1, lines 2-6: which weights a task gets."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from rsn2.network import MultitaskNetwork
from rsn2.procedure.granularity import SINGLE, Granularity, check_granularity, largest_blocks, size_for
from rsn2.procedure.plan import Keep, Plan, Target, check_capacity, check_patterns, make_plan
from rsn2.procedure.score import (
    SCORES,
    Batches,
    LossFunction,
    Scored,
    ScoreFunction,
    add_reads,
    gradients,
    largest,
    largest_by_row,
    seed_of,
)
from rsn2_kernels.formats import CapacityError, SeededBase, StoredBase
from rsn2_kernels.formats.base import random_words
from rsn2_kernels.nn import TaskLayer

_MODES, _SCOPES, _STARTS = ("sequential", "preallocate"), ("tensor", "row", "global"), ("base", "rescaled", "per_task")


def equal_share(num_tasks: int) -> Fraction:
    """The exact share of the weights that each of ``num_tasks`` tasks can keep, so that all of them have room."""
    if isinstance(num_tasks, bool) or not isinstance(num_tasks, int) or num_tasks < 1:
        raise ValueError(f"equal_share: num_tasks must be an int of at least 1, got {num_tasks!r}")
    return Fraction(1, num_tasks)


@dataclass(frozen=True)
class ClaimReport:
    """What a claim did.

    Attributes:
        claimed: ``{task: {layer: weights}}``, the weights that each task got. A slot that several tasks share is
            reported with the first of them.
        free: ``{layer: weights}``, what is left in these layers.
    """

    claimed: dict[str, dict[str, int]]
    free: dict[str, int]


def claim(net: MultitaskNetwork, tasks: str | Sequence[str], batches: Batches | Mapping[str, Batches],
          loss_fn: LossFunction | Mapping[str, LossFunction], keep: Keep, *, mode: str = "sequential",
          score: str | ScoreFunction = "gradient", scope: str | Mapping[str, str] = "tensor", start: str = "base",
          seed: int = 0, granularity: Granularity = SINGLE,
          optimizer: Optimizer | None = None) -> ClaimReport:  # fmt: skip
    """Give each task the weights that matter most to it (Algorithm 1, lines 2-6).

    For one task after another: the weights that other tasks own are deactivated, the free ones stand in with their base
    values, the gradient of the loss over ``batches`` is taken, and in every layer the ``k`` free weights with the
    largest score become the task's. ``k`` is the floor of ``keep`` times ALL weights of the layer; ties go to the lower
    index. A slot that several of the tasks share is scored by the sum over them. One that owns weights already, since a
    task that it is shared with claimed before, is left as it is.

    Args:
        net: the network.
        tasks: a name, or several, in the order in which they choose.
        batches: ``(x, y)`` pairs, a subset of the task's training data; by task when there are several tasks.
        loss_fn: ``loss_fn(outputs, y)``, the mean over the rows; one for all tasks or by task.
        keep: the share of each tensor's weights that a task gets, in (0, 1]: a number (``equal_share(n)`` is exact), a
            dict by task, a dict by pattern of layer names (``fnmatch``; the first that matches counts; also inside a
            dict by task), or ``keep(task, layer_name, layer)``.
        mode: ``"sequential"``, the paper's loop; ``"preallocate"`` scores every task with all weights active, as if it
            were the first. What is claimed is disjoint either way.
        score: ``"gradient"`` (the paper), ``"magnitude"``, ``"gradient_x_weight"``, ``"random"``, or a function of
            :class:`~rsn2.procedure.score.Scored`.
        scope: ``"tensor"``, the ``k`` largest scores of every layer (the paper); ``"row"``, as many for every output
            unit of a layer, so that none is left without inputs (of an output layer: no class that cannot be
            predicted), what does not divide evenly going to the largest scores; ``"global"``, as many in all layers
            together, wherever the scores are largest; or a dict by pattern of layer names with ``"tensor"`` and
            ``"row"``.
        start: the values that training begins with: ``"base"``, the layer's initial ones (Fig. 2 of the paper);
            ``"rescaled"``, those of each output unit times ``sqrt(its inputs / its kept inputs)``, so that the sum over
            the kept fan-in has the variance that the sum over all inputs had;
            ``"per_task"``, drawn anew for each task from the same distribution, and scored at these values.
        seed: for ``score="random"`` and ``start="per_task"``.
        granularity: rows and columns of the blocks that are claimed whole, by the sum of their scores: ``(1, 1)``,
            single weights (the paper); ``(1, v)``, vectors; ``(16, 16)``, ``(32, 32)`` or ``(64, 64)``, which GPUs
            multiply several times faster and which cost accuracy; or a dict by pattern of layer names, single weights
            where none matches. Columns are the inputs of a layer, for a convolution the input channels of one kernel
            position. ``k`` is rounded down to whole blocks.
        optimizer: a live optimizer that keeps state of the slots' values.

    Raises:
        CapacityError: fewer than ``k`` weights of a layer are free.
        ValueError: an argument does not fit, a task owns weights already or is finished, there is no batch, labels lie
            outside of the head, or a loss or score is not finite.
        KeyError: an unknown task. Nothing is changed in any of these cases.

    Warns:
        UserWarning: all scores of a layer are zero, so that the choice says nothing.
    """
    _check_arguments(net, mode, score, scope, start)
    check_granularity(granularity, scope)
    names = names_of(net, "claim", tasks)
    check_patterns(net, names, "scope", scope)
    check_patterns(net, names, "granularity", granularity)
    data = by_task("claim", "batches", batches, names)
    losses = losses_by_task("claim", loss_fn, names)
    plan = make_plan(net, names, keep, granularity)
    if scope != "global":
        check_capacity(plan)
    function = SCORES[score] if isinstance(score, str) else score
    needs_gradient = score not in ("magnitude", "random")
    for name in names:
        scores = scores_of_task(net, name, data, losses, plan, function, needs_gradient, mode, start, seed)
        _choose(plan, scores, scope, granularity)
    _commit(plan, start, seed, optimizer)
    report = ClaimReport(
        {name: {} for name in names}, {plan.names[x]: int(free.count_nonzero()) for x, free in plan.free.items()}
    )
    for (layer, slot), indices in plan.chosen.items():
        report.claimed[plan.users[layer, slot][0]][plan.names[layer]] = len(indices)
    return report


def names_of(net: MultitaskNetwork, what: str, tasks: str | int | Sequence[str]) -> list[str]:
    """One task or several, by name or number, as different names."""
    given = [tasks] if isinstance(tasks, (str, int)) else list(tasks)
    names = [net.tasks[net.task_number(task)] for task in given]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"{what}: tasks must be a name or different names, got {given}")
    return names


def _check_arguments(net: MultitaskNetwork, mode: str, score: Any, scope: str | Mapping[str, str], start: str) -> None:
    if net.closed:
        raise RuntimeError(f"claim: the network gives no more weights away: {net.closed}")
    if isinstance(scope, Mapping) and not set(scope.values()) <= {"tensor", "row"}:
        raise ValueError(f"claim: scope must give 'tensor' or 'row' for each pattern, got {dict(scope)}")
    whole = "tensor" if isinstance(scope, Mapping) else scope
    for name, value, known in (("mode", mode, _MODES), ("scope", whole, _SCOPES), ("start", start, _STARTS)):
        if value not in known:
            raise ValueError(f"claim: {name} must be one of {', '.join(known)}, got {value!r}")
    if not callable(score) and score not in SCORES:
        raise ValueError(f"claim: score must be a function or one of {', '.join(SCORES)}, got {score!r}")


def by_task(what: str, argument: str, given: Any, tasks: Sequence[str], shared: bool = False) -> dict[str, Any]:
    """An argument that is given by task, or, for one task or where ``shared``, once."""
    if isinstance(given, Mapping):
        if set(given) != set(tasks):
            raise ValueError(f"{what}: {argument} must have the keys {list(tasks)}, got {list(given)}")
        return {task: given[task] for task in tasks}
    if len(tasks) > 1 and not shared:
        raise ValueError(f"{what}: with several tasks {argument} must be a dict by task, got {type(given).__name__}")
    return dict.fromkeys(tasks, given)


def losses_by_task(what: str, given: Any, tasks: Sequence[str]) -> dict[str, LossFunction]:
    """A loss that is given once or by task."""
    losses = by_task(what, "loss_fn", given, tasks, shared=True)
    for task, loss_fn in losses.items():
        if not callable(loss_fn):
            raise TypeError(f"{what}: loss_fn of task {task!r} must be a function of outputs and y, got {loss_fn!r}")
    return losses


def _seed_of_values(plan: Plan, target: Target, seed: int) -> int:
    """Of the values that a slot starts from with ``start="per_task"``."""
    return seed_of(seed, plan.users[target][0], plan.names[target[0]])


def scores_of_task(net: MultitaskNetwork, task: str, data: Mapping[str, Batches], losses: Mapping[str, LossFunction],
                   plan: Plan, function: ScoreFunction, needs_gradient: bool, mode: str, start: str,
                   seed: int) -> dict[Target, Tensor]:  # fmt: skip
    """Scores of the slots that this task is the first to choose for, ``[numel]`` each."""
    targets = [t for t in net.task_layers(task).values() if t in plan.num_kept and t not in plan.chosen]
    weights: dict[Target, Tensor] = {}
    sums: dict[Target, Tensor] = {}
    for user in dict.fromkeys(user for target in targets for user in plan.users[target]) if targets else ():
        own = {name: target for name, target in net.task_layers(user).items() if target in plan.num_kept}
        probes = {name: _active_weight(plan, target, mode, start, seed) for name, target in own.items()}
        found = gradients(net, user, data[user], losses[user], probes) if needs_gradient else {}
        for name, target in own.items():
            if target in targets and user in plan.users[target]:
                weights[target] = probes[name]
                gradient = found.get(name, probes[name].new_zeros(()).expand_as(probes[name]))
                sums[target] = sums[target] + gradient if target in sums else gradient
        del probes, found, gradient  # dense, and needed no more
    generator = torch.Generator().manual_seed(seed_of(seed, task, "score"))
    scores = {}
    for target in targets:
        layer, name = target[0], plan.names[target[0]]
        result = function(Scored(name, weights.pop(target), sums.pop(target), generator)).detach()
        if tuple(result.shape) != layer.weight_shape or not result.is_floating_point():
            raise ValueError(
                f"claim: scores of layer {name} must be float {list(layer.weight_shape)}, "
                f"got {result.dtype} {list(result.shape)}"
            )
        scores[target] = result.reshape(-1)
        _check_scores(scores[target], plan.free[layer], f"layer {name} for task {task!r}")
    return scores


def _active_weight(plan: Plan, target: Target, mode: str, start: str, seed: int) -> Tensor:
    """The base weights, or with ``start="per_task"`` those drawn for the task, zero where another task's weights are:
    Algorithm 1, lines 2 and 3. Weights of others that the slot reads stand there as they are.
    """
    layer, slot = target
    if start == "per_task":
        places = torch.arange(layer.numel, device=layer.positions.device)
        weight = _drawn(layer, places, _seed_of_values(plan, target, seed))
    else:
        weight = layer.base.dense(layer.numel, layer.flat_values.dtype).to(layer.positions.device)
    if start != "per_task" and isinstance(layer.base, StoredBase):
        weight = weight.clone()  # a score function may write to what it gets
    if mode == "sequential":
        active = plan.free[layer].clone()
        if target in plan.chosen:
            active[plan.chosen[target]] = True
        weight = weight * active
    return add_reads(weight.reshape(layer.weight_shape), layer, slot)


def _check_scores(scores: Tensor, free: Tensor, where: str) -> None:
    smallest, largest_of_all = scores.aminmax() if len(scores) else (scores.new_zeros(()),) * 2  # NaN if there is one
    if not bool(smallest.isfinite() & largest_of_all.isfinite()):
        bad = int((~scores.isfinite()).sum())
        raise ValueError(f"claim: scores must be finite, but {bad} of {len(scores)} are not in {where}")
    if not bool(((scores != 0) & free).any()):
        warnings.warn(f"claim: all scores are zero in {where}; the weights taken are simply the first", stacklevel=4)


def _scope_of(layer_name: str, scope: str | Mapping[str, str]) -> str:
    if isinstance(scope, str):
        return scope
    return next((scope[pattern] for pattern in scope if fnmatchcase(layer_name, pattern)), "tensor")


def _choose(
    plan: Plan, scores: Mapping[Target, Tensor], scope: str | Mapping[str, str], granularity: Granularity
) -> None:
    if scope != "global":
        for target, values in scores.items():
            layer, _ = target
            size, k, free = size_for(granularity, plan.names[layer]), plan.num_kept[target], plan.free[layer]
            if size != SINGLE:
                plan.chosen[target] = largest_blocks(layer, plan.names[layer], values, k, free, size)
                continue
            by_row = _scope_of(plan.names[layer], scope) == "row"
            choose = functools.partial(largest_by_row, num_rows=layer.weight_shape[0]) if by_row else largest
            plan.chosen[target] = choose(values, k, free)
    elif scores:
        wanted = sum(plan.num_kept[target] for target in scores)
        allowed = torch.cat([plan.free[layer] for layer, _ in scores])
        if wanted > int(allowed.count_nonzero()):
            names = ", ".join(plan.names[layer] for layer, _ in scores)
            raise CapacityError(
                f"claim: {wanted} weights are wanted, but {int(allowed.count_nonzero())} are left in layers {names}"
            )
        places = largest(torch.cat(list(scores.values())), wanted, allowed)
        first = 0
        for target, values in scores.items():
            inside = places[(places >= first) & (places < first + len(values))] - first
            if len(inside) == 0:
                raise ValueError(
                    f"claim: scope 'global' leaves nothing to layer {plan.names[target[0]]}; keep more, or use 'tensor'"
                )
            plan.chosen[target] = inside
            first += len(values)
    for target in scores:
        plan.free[target[0]][plan.chosen[target]] = False


def _commit(plan: Plan, start: str, seed: int, optimizer: Optimizer | None) -> None:
    """Claim what was chosen, in all layers or in none."""
    by_layer: dict[TaskLayer, dict[int, tuple[Tensor, Tensor | None]]] = {}
    for (layer, slot), indices in plan.chosen.items():
        values = None
        if start == "rescaled":
            values = _rescaled(layer, indices)
        if start == "per_task":
            values = _drawn(layer, indices, _seed_of_values(plan, (layer, slot), seed))
        by_layer.setdefault(layer, {})[slot] = (indices, values)
    done: list[Target] = []
    try:
        for layer, claims in by_layer.items():
            layer.claim_places(claims, optimizer=optimizer)
            done += [(layer, slot) for slot in claims]
    except BaseException:
        for layer, slot in done:
            layer.release(slot, optimizer=optimizer)
        raise


def _rescaled(layer: TaskLayer, indices: Tensor) -> Tensor:
    """The base weights at ``indices``, each output unit's times ``sqrt(inputs / kept inputs)``."""
    num_inputs = layer.numel // layer.weight_shape[0]
    rows = indices // num_inputs
    kept = torch.bincount(rows, minlength=layer.weight_shape[0])
    gains = (num_inputs / kept[rows].double()).sqrt()
    return (layer.base.at(indices, torch.float64) * gains).to(layer.flat_values.dtype)


def _drawn(layer: TaskLayer, indices: Tensor, seed: int) -> Tensor:
    """Starting values drawn anew: from the base's own distribution, or, where that is a given weight, out of its
    values.
    """
    if isinstance(layer.base, SeededBase):
        return layer.base._replace(seed=seed).at(indices, layer.flat_values.dtype)
    return layer.base.at(random_words(seed, indices) % layer.numel, layer.flat_values.dtype)
