"""Sparse libraries of others, where they are installed: SparseProp and DeepSparse.

Neither is a dependency: DeepSparse 1.8 wants numpy below 2, so that both are installed, if at all, in an environment of
their own; the ``peers`` extra names them.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .baselines import onnx_bytes, without_grad


def deepsparse(model: nn.Module, x: Tensor) -> Callable[[], Any] | str:
    """DeepSparse's engine with as many threads as torch has; inference in float32 only."""
    library = _load("deepsparse")
    if isinstance(library, str):
        return library
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        path.write_bytes(onnx_bytes(model, [x]))
        engine = library.compile_model(str(path), batch_size=len(x), num_cores=torch.get_num_threads())
    array = [x.numpy()]
    return lambda: engine.run(array, val_inp=False)


def sparseprop(model: nn.Module, x: Tensor) -> nn.Module | str:
    """SparseProp's layer for a dense one whose zeros are the mask; for images the faster of its two, by its own trial.

    Its threads are those of the OpenMP that it shares with torch.
    """
    library = _load("sparseprop.modules")
    if isinstance(library, str):
        return library
    if isinstance(model, nn.Linear):
        if model.bias is None:
            return library.SparseLinear(model.weight.data)
        return library.SparseLinear.from_dense(model)
    with contextlib.redirect_stdout(io.StringIO()):
        return library.sparsify_conv2d_auto(model, tuple(x.shape))


def sparseprop_forward(model: nn.Module, x: Tensor) -> Callable[[], Any] | str:
    layer = sparseprop(model, x)
    return layer if isinstance(layer, str) else without_grad(lambda: layer(x))


def _load(name: str) -> Any:
    """The module, or why it is absent. One that is there and broken is an error."""
    if importlib.util.find_spec(name.split(".")[0]) is None:
        return f"{name.split('.')[0]} is not installed (see the extra 'peers')"
    os.environ.setdefault("NM_DISABLE_ANALYTICS", "1")  # DeepSparse would report its use over the network
    module = importlib.import_module(name)
    torch.set_flush_denormal(False)  # SparseProp is built with -ffast-math, which sets it for all when it is loaded
    return module


def sparseprop_order(numbered: nn.Conv2d) -> Tensor:
    """Which weight each of SparseProp's values is: of a layer whose weights are their flattened indices plus one."""
    values = _load("sparseprop.modules").SparseConv2d.from_dense(numbered).W_val
    return values.detach().long() - 1
