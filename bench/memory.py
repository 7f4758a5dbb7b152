"""Bytes of training one task of a layer that holds several; counted, not timed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from rsn2.metrics import bytes_of_gradients, bytes_of_optimizer, bytes_of_tensors
from rsn2_kernels import formats

from .ops.task_linear import Linear
from .registry import Count, Goal

DENSE_BYTES = 16  # for each weight of masked dense training: value, gradient and Adam's two moments in float32


def count(spec: Linear) -> dict[str, Any]:
    """Bytes after one step of Adam on slot 0, part by part, and what is there for the slots that do not train.

    Positions, index and the flat buffers belong to all slots together; a slot's part of the index is what the layer's
    index has less without the slot. Biases are counted on neither side.
    """
    layer = spec.layer()
    for slot in range(1, spec.num_slots):
        layer.freeze(slot)
    alone = spec._replace(num_slots=1).layer()
    optimizer = torch.optim.Adam([layer.values[0]])
    x = torch.randn(8, spec.I)
    layer(x, torch.tensor(0)).square().mean().backward()
    optimizer.step()
    values, gradients = layer.values[0].nbytes, layer.values[0].grad.nbytes
    steps = sum(state["step"].nbytes for state in optimizer.state.values())
    positions = formats.segment(layer.positions, 0).nbytes
    index = bytes_of_tensors([alone.index])
    adam = bytes_of_optimizer(optimizer) - steps
    own = values + gradients + adam + positions + index
    whole = bytes_of_tensors([layer.flat_values, layer.positions, layer.index])
    bias_gradients = layer.bias[0].grad.nbytes
    if bytes_of_gradients(layer) != gradients + bias_gradients:
        raise AssertionError("a slot that does not train has gradients")
    dense = DENSE_BYTES * layer.numel
    return {
        "values_bytes": values,
        "gradients_bytes": gradients,
        "adam_bytes": adam,
        "positions_bytes": positions,
        "index_bytes": index,
        "trained_task_bytes": own,
        "masked_dense_bytes": dense,
        "other_tasks_resident_bytes": whole - values - positions - index,
        "base_resident_bytes": bytes_of_tensors(part for part in layer.base if isinstance(part, torch.Tensor)),
        "figure": own / dense,
    }


def points() -> Iterator[Count]:
    for size in (1000, 4096):
        for num_slots in (4, 10):
            spec = Linear(size, size, 8, 0.10, num_slots)
            goal = Goal("masked dense bytes", spec.density + 0.05, spec.density + 0.02, at_most=True)
            settings = {"shape": f"{size}x{size}", "density": spec.density, "slots": num_slots}
            yield Count("task_linear", "bytes of training one task", settings, lambda s=spec: count(s), (goal,),
                        quick=size == 1000)  # fmt: skip
