"""How right a network is: accuracy, F1 per class, mean squared error."""

from __future__ import annotations

import torch
from torch import Tensor


def predicted_labels(outputs: Tensor) -> Tensor:
    """Labels from a head's outputs, int64 `[B]`.

    Of `[B, classes]` the largest, of one logit per row (`[B]`, `[B, 1]`) its sign; integers are labels already.

    Raises:
        ValueError: the shape is another one, or the outputs are booleans or complex.
    """
    if outputs.dtype == torch.bool or outputs.is_complex():
        raise ValueError(f"predicted_labels: outputs must be logits or integer labels, got {outputs.dtype}")
    if not outputs.is_floating_point():
        if outputs.ndim != 1:
            raise ValueError(f"predicted_labels: integer labels must have shape [B], got {list(outputs.shape)}")
        return outputs
    if outputs.ndim == 2 and outputs.shape[1] > 1:
        return outputs.argmax(dim=1)
    if outputs.ndim == 1 or (outputs.ndim == 2 and outputs.shape[1] == 1):
        return (outputs.flatten() > 0).long()
    raise ValueError(
        f"predicted_labels: outputs must have shape [B, classes], [B, 1] or [B], got {list(outputs.shape)}"
    )


def _predicted_and_target(function: str, outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    predicted, target = predicted_labels(outputs), target.flatten()
    if len(predicted) != len(target):
        raise ValueError(f"{function}: outputs and target must have one length, got {len(predicted)} and {len(target)}")
    if len(target) == 0:
        raise ValueError(f"{function}: there is no row")
    return predicted, target


def accuracy(outputs: Tensor, target: Tensor) -> float:
    """The share of rows whose predicted label is the target, 0..1.

    Args:
        outputs: logits or labels, see `predicted_labels`.
        target: labels, `[B]` or `[B, 1]`, any dtype.

    Raises:
        ValueError: lengths differ, or there is no row.
    """
    predicted, target = _predicted_and_target("accuracy", outputs, target)
    return (predicted == target).double().mean().item()


def f1_per_class(outputs: Tensor, target: Tensor, num_classes: int) -> list[float]:
    """F1 of each class: 2 TP / (2 TP + FP + FN), 0 for a class that neither occurs nor is predicted.

    Args:
        outputs: logits or labels, see `predicted_labels`.
        target: labels 0..num_classes-1, `[B]` or `[B, 1]`.
        num_classes: how many classes there are.

    Raises:
        ValueError: lengths differ, there is no row, or a label is outside 0..num_classes-1.
    """
    predicted, target = _predicted_and_target("f1_per_class", outputs, target)
    target = target.long()
    for name, labels in (("target", target), ("outputs", predicted)):
        low, high = labels.min().item(), labels.max().item()
        if low < 0 or high >= num_classes:
            raise ValueError(f"f1_per_class: labels of {name} must be in 0..{num_classes - 1}, got {low}..{high}")
    hits = torch.bincount(target[predicted == target], minlength=num_classes).double()
    both = torch.bincount(target, minlength=num_classes) + torch.bincount(predicted, minlength=num_classes)
    return (2 * hits / both.clamp(min=1)).tolist()


def mean_squared_error(outputs: Tensor, target: Tensor) -> float:
    """The mean of (outputs - target)**2 over all elements, in float64.

    Raises:
        ValueError: the shapes differ (`[B]` against `[B, 1]` would compare all pairs), or there is no element.
    """
    if outputs.shape != target.shape:
        raise ValueError(
            f"mean_squared_error: outputs and target must have one shape, "
            f"got {list(outputs.shape)} and {list(target.shape)}"
        )
    if outputs.numel() == 0:
        raise ValueError("mean_squared_error: there is no row")
    return (outputs.double() - target.double()).square().mean().item()
