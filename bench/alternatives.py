"""The alternatives to a forward product, by name, each made when its turn comes and compared with the exact results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from . import baselines, peers, proof
from .registry import Alternative, Maker

DENSE_LINEAR = ("F.linear", "oneDNN", "torch.compile frozen", "onnxruntime")
DENSE_CONV = ("F.conv2d", "F.conv2d channels_last", "oneDNN", "torch.compile frozen", "onnxruntime")


def maker(make: Callable[[], Any], exact: Sequence[Tensor],
          pick: Callable[[Any], Any] = lambda returned: returned) -> Maker:  # fmt: skip
    """``make`` returns a call, or a text that says why there is none."""

    def made() -> Alternative | str:
        call = make()
        return call if isinstance(call, str) else proof.other(call, exact, pick)

    return made


def forward(models: Sequence[nn.Module], parts: Sequence[Tensor], exact: Sequence[Tensor]) -> dict[str, Maker]:
    """What a user can have instead, dense and sparse, for models whose zeros are the tasks' masks.

    Args:
        models: one for each task.
        parts: each model's rows.
        exact: the results in float64.
    """
    is_conv = isinstance(models[0], nn.Conv2d)
    found: dict[str, Callable[[], Any]] = {
        "F.conv2d" if is_conv else "F.linear": lambda: baselines.plain(models, parts),
        "oneDNN": lambda: baselines.onednn(models, parts),
        "torch.compile frozen": lambda: baselines.frozen_compile(models, parts),
        "onnxruntime": lambda: (
            baselines.onnxruntime_together(models, parts)
            if len(models) > 1
            else baselines.onnxruntime(models[0], parts)
        ),
        "masked dense": lambda: baselines.masked(models, [_mask(model) for model in models], parts),
    }
    if is_conv:
        found["F.conv2d channels_last"] = lambda: baselines.channels_last(models, parts)
    if len(models) == 1:
        if not is_conv:
            found["torch CSR"] = lambda: baselines.csr(models[0], parts[0])
        found["SparseProp"] = lambda: peers.sparseprop_forward(models[0], parts[0])
        found["DeepSparse"] = lambda: peers.deepsparse(models[0], parts[0])
    if models[0].weight.dtype != torch.float32:  # what of these knows other types
        names = ("F.linear", "F.conv2d", "F.conv2d channels_last", "oneDNN", "torch.compile frozen", "masked dense")
        found = {name: found[name] for name in names if name in found}
    return {name: maker(make, exact) for name, make in found.items()}


def _mask(model: nn.Module) -> Tensor:
    return (model.weight.detach() != 0).to(model.weight.dtype)
