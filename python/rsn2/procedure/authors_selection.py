"""How the paper's authors chose masks in their published code, for comparison: it lets several tasks have one weight.

By the gradient (mask_model of TensorFlow BeyondML 0.1.7 and mann 0.1.0, method "gradients"): task after task, the
gradients of weights that exactly one task has are set to zero, and every weight whose gradient is at least the
percentile of all of them is taken, those set to zero included. Where tasks before have as much as the percentile
leaves, the percentile is zero, and everything is taken.

By the size of the weights (Experiment 8): the percentile is that of all sizes, those of weights that tasks before have
included, so that each task gets its share of what is left.

Networks of this package cannot hold such masks; what is here counts them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from rsn2.network import MultitaskNetwork
from rsn2.procedure.claim import by_task, scores_of_task
from rsn2.procedure.plan import Keep, make_plan, share_of
from rsn2.procedure.score import SCORES, Batches, LossFunction

_RULES = ("gradient", "magnitude")


def authors_masks(scores: Sequence[Tensor], prune: float, rule: str = "gradient") -> list[Tensor]:
    """The masks of tasks that choose one after another.

    Args:
        scores: of each task, ``[n]``, not negative.
        prune: the share that is to be removed, in 0..1.
        rule: ``"gradient"`` or ``"magnitude"``, after what is scored.

    Returns:
        A bool ``[n]`` for each task.
    """
    used = torch.zeros(len(scores[0]), dtype=torch.int64, device=scores[0].device) if scores else None
    masks = []
    for given in scores:
        assert used is not None
        left = given.masked_fill(used == 1, 0)  # not "at least 1": what two tasks have is free again
        threshold = float(np.percentile((left if rule == "gradient" else given).cpu().numpy(), 100 * prune))
        masks.append(left >= threshold)
        used = used + masks[-1]
    return masks


def count_authors_selection(net: MultitaskNetwork, tasks: Sequence[str], batches: Mapping[str, Batches],
                            loss_fn: Mapping[str, LossFunction], keep: Keep, *, rule: str = "gradient",
                            start: str = "per_task", seed: int = 0) -> dict[str, dict[str, int]]:  # fmt: skip
    """What each task would get, and how many weights would belong to several; nothing is claimed.

    Args:
        net, tasks, batches, loss_fn, keep, start, seed: as for :func:`rsn2.claim` with ``mode="preallocate"``.
        rule: as for :func:`authors_masks`; ``"magnitude"`` scores the starting values.

    Returns:
        ``{layer: {task: weights, "of several tasks": weights, "of none": weights, "all": weights}}``; slots that tasks
        share count for the first of them.

    Raises:
        ValueError: an unknown rule, or what :func:`rsn2.claim` refuses.
    """
    if rule not in _RULES:
        raise ValueError(f"authors_selection: rule must be one of {', '.join(_RULES)}, got {rule!r}")
    plan = make_plan(net, tasks, keep)
    data, losses = by_task("authors_selection", "batches", batches, tasks), dict(loss_fn)
    scores: dict[str, dict[str, Tensor]] = {}
    prune: dict[str, float] = {}
    for task in tasks:
        found = scores_of_task(net, task, data, losses, plan, SCORES[rule], rule == "gradient", "preallocate",
                               start, seed)  # fmt: skip
        for (layer, slot), values in found.items():
            if plan.users[layer, slot][0] == task:
                name = plan.names[layer]
                scores.setdefault(name, {})[task] = values.cpu()
                prune[name] = float(1 - Fraction(share_of(keep, task, name, layer)))  # not the whole number of weights
    counts = {}
    for name, by_name in scores.items():
        masks = dict(zip(by_name, authors_masks(list(by_name.values()), prune[name], rule), strict=True))
        owners = torch.stack([mask.long() for mask in masks.values()]).sum(0)
        counts[name] = {task: int(mask.sum()) for task, mask in masks.items()} | {
            "of several tasks": int((owners > 1).sum()), "of none": int((owners == 0).sum()), "all": len(owners),
        }  # fmt: skip
    return counts
