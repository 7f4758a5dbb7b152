"""Kernel tests run in memory filled with NaN; a layer's tensors as a training loop holds them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from rsn2_kernels import ops
from rsn2_kernels.formats import PackedWeight, value_starts


@pytest.fixture(autouse=True)
def _nan_filled(nan_filled: None) -> None:
    """For every test of this folder."""


@pytest.fixture(autouse=True)
def _one_thread(set_num_threads: Callable[[int], None]) -> None:
    """Many small products, for which threads would mostly wait; the tests of the operators vary their number."""
    set_num_threads(1)


@dataclass(frozen=True)
class Layer:
    """Flat values and biases, and the Parameters of the trainable slots that view them."""

    weight: PackedWeight
    bias: Tensor
    weight_params: list[torch.nn.Parameter]
    bias_params: list[torch.nn.Parameter]
    trainable: tuple[int, ...]
    options: dict[str, Any]

    def __call__(self, x: Tensor, slots: Tensor, **options: Any) -> Tensor:
        op = ops.task_conv2d if self.options else ops.task_linear
        return op(x, self.weight, slots, self.bias, bias_params=self.bias_params, bias_slots=self.trainable,
                  **self.options, **options)  # fmt: skip


@pytest.fixture
def make_layer() -> Callable[..., Layer]:
    """The layer of a problem with these slots trainable."""

    def make(problem: Any, trainable: tuple[int, ...]) -> Layer:
        starts = value_starts(problem.weight.positions)
        values, bias = problem.weight.values.clone(), problem.bias.clone()
        weight_params = [torch.nn.Parameter(values[starts[slot] : starts[slot + 1]]) for slot in trainable]
        bias_params = [torch.nn.Parameter(bias[slot]) for slot in trainable]
        weight = problem.weight._replace(values=values, trainable=tuple(weight_params), trainable_slots=trainable)
        names = ("kernel_size", "stride", "padding", "dilation")
        options = dict(zip(names, problem.window, strict=False))
        return Layer(weight, bias, weight_params, bias_params, trainable, options)

    return make
