"""How the paper's authors chose masks in their published code, for comparison: it lets several tasks have one weight.

Task after task, the gradients of weights that exactly one task has are set to zero, and every weight whose gradient is
at least the percentile of all of them is taken, those set to zero included. Where tasks before have as much as the
percentile leaves, the percentile is zero, and everything is taken (mask_model of TensorFlow BeyondML 0.1.7 and mann
0.1.0, method "gradients"). Networks of this package cannot hold such masks; what is here counts them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from rsn2.network import MultitaskNetwork
from rsn2.procedure.claim import by_task, scores_of_task
from rsn2.procedure.plan import Keep, make_plan
from rsn2.procedure.score import SCORES, Batches, LossFunction


def authors_masks(scores: Sequence[Tensor], prune: float) -> list[Tensor]:
    """The masks of tasks that choose one after another.

    Args:
        scores: of each task, ``[n]``, not negative.
        prune: the share that is to be removed, in 0..1.

    Returns:
        A bool ``[n]`` for each task.
    """
    used = torch.zeros(len(scores[0]), dtype=torch.int64, device=scores[0].device) if scores else None
    masks = []
    for given in scores:
        assert used is not None
        left = given.masked_fill(used == 1, 0)  # not "at least 1": what two tasks have is free again
        threshold = float(np.percentile(left.cpu().numpy(), 100 * prune))
        masks.append(left >= threshold)
        used = used + masks[-1]
    return masks


def count_authors_selection(net: MultitaskNetwork, tasks: Sequence[str], batches: Mapping[str, Batches],
                            loss_fn: Mapping[str, LossFunction], keep: Keep, *, start: str = "per_task",
                            seed: int = 0) -> dict[str, dict[str, int]]:  # fmt: skip
    """What each task would get, and how many weights would belong to several; nothing is claimed.

    Args:
        net, tasks, batches, loss_fn, keep, start, seed: as for :func:`rsn2.claim` with ``mode="preallocate"``.

    Returns:
        ``{layer: {task: weights, "of several tasks": weights, "of none": weights, "all": weights}}``; slots that tasks
        share count for the first of them.
    """
    plan = make_plan(net, tasks, keep)
    data, losses = by_task("authors_selection", "batches", batches, tasks), dict(loss_fn)
    scores: dict[str, dict[str, Tensor]] = {}
    prune: dict[str, float] = {}
    for task in tasks:
        found = scores_of_task(net, task, data, losses, plan, SCORES["gradient"], True, "preallocate", start, seed)
        for (layer, slot), values in found.items():
            if plan.users[layer, slot][0] == task:
                scores.setdefault(plan.names[layer], {})[task] = values.cpu()
                prune[plan.names[layer]] = 1 - plan.num_kept[layer, slot] / layer.numel
    counts = {}
    for name, by_name in scores.items():
        masks = dict(zip(by_name, authors_masks(list(by_name.values()), prune[name]), strict=True))
        owners = torch.stack([mask.long() for mask in masks.values()]).sum(0)
        counts[name] = {task: int(mask.sum()) for task, mask in masks.items()} | {
            "of several tasks": int((owners > 1).sum()), "of none": int((owners == 0).sum()), "all": len(owners),
        }  # fmt: skip
    return counts
