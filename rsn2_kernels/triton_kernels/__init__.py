"""Triton kernels of every operator: portable ones for single weights, and those for weights claimed in blocks.

Importing this imports no Triton, which takes a second: the kernels come with the first call.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import torch

_MODULES = {
    "task_linear": ("task_linear", "task_linear_grad_input", "task_linear_grad_values", "task_linear_index"),
    "task_conv2d": ("task_conv2d", "task_conv2d_grad_input", "task_conv2d_grad_values", "task_conv2d_index"),
    "task_grad_bias": ("task_grad_bias",),
}


def register(library: torch.library.Library, key: str) -> None:
    """Make these kernels the operators' implementation for a dispatch key: ``"CUDA"``, or ``"CPU"`` for the
    interpreter.
    """
    for module, names in _MODULES.items():
        for name in names:
            library.impl(name, _on_first_call(module, name), key)


def _on_first_call(module: str, name: str) -> Callable[..., Any]:
    @functools.cache
    def kernel() -> Callable[..., Any]:
        function: Callable[..., Any] = getattr(importlib.import_module(f"{__name__}.{module}"), name)
        return function

    return lambda *args: kernel()(*args)
