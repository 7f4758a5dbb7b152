"""The operators' arguments as one object, so that a test can ask the same of every operator and its gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from rsn2_kernels import reference
from rsn2_kernels.formats import PackedWeight, encode_slot, join, value_starts
from rsn2_kernels.ops import task_conv2d_index, task_linear_index
from rsn2_kernels.testing import CONV_SHAPES, LINEAR_SHAPES, assert_as_accurate, conv_sample, linear_sample, seeded

OPERATORS = torch.ops.rsn2_kernels
RESULTS = ("forward", "grad_input", "grad_values", "grad_bias")


@dataclass(frozen=True)
class Problem:
    """Arguments of a forward operator and of its gradients. ``where`` computes: the operators or their references."""

    op: str
    x: Tensor
    weight: PackedWeight
    slots: Tensor
    bias: Tensor | None
    grad_y: Tensor
    window: tuple[list[int], ...] = ()  # kernel_size, stride, padding, dilation of a convolution
    frozen: PackedWeight | None = None
    activation: str = "none"
    _rounded: Problem | None = field(default=None, init=False, repr=False)
    _answers: dict[tuple[str, bool], Tensor] = field(default_factory=dict, init=False, repr=False)

    @property
    def packed(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.weight.values, self.weight.positions, self.weight.index, self.slots

    @property
    def frozen_tensors(self) -> list[Tensor]:
        return [] if self.frozen is None else [self.frozen.values, self.frozen.positions, self.frozen.index]

    @cached_property
    def num_owned(self) -> list[int]:
        return [last - first for first, last in pairwise(value_starts(self.weight.positions))]

    def forward(self, where: Any = OPERATORS) -> Tensor:
        return getattr(where, self.op)(
            self.x, *self.packed, self.bias, self.frozen_tensors, self.activation, self.weight.shape[1], *self.window,
            [], [], [], [],
        )  # fmt: skip

    def grad_input(self, where: Any = OPERATORS) -> Tensor:
        size = list(self.x.shape[1:]) if self.window else self.x.shape[1]
        grad = getattr(where, f"{self.op}_grad_input")
        return grad(self.grad_y, *self.packed, self.frozen_tensors, size, *self.window)

    def grad_values(self, where: Any = OPERATORS, wanted: list[int] | None = None) -> Tensor:
        wanted = list(range(self.weight.shape[0])) if wanted is None else wanted
        grad = getattr(where, f"{self.op}_grad_values")
        num_owned = [self.num_owned[slot] for slot in wanted]
        return grad(self.x, self.grad_y, *self.packed, wanted, num_owned, *self.window)

    def grad_bias(self, where: Any = OPERATORS, wanted: list[int] | None = None) -> Tensor:
        wanted = list(range(self.weight.shape[0])) if wanted is None else wanted
        return where.task_grad_bias(self.grad_y, self.slots, wanted)

    def get(self, result: str, where: Any = OPERATORS) -> Tensor:
        return getattr(self, result)(where)

    def with_values(self, values: Tensor) -> Problem:
        return replace(self, weight=self.weight._replace(values=values))

    def double(self) -> Problem:
        """The same in float64, from which the exact answer is computed."""
        return replace(
            self,
            x=self.x.double(),
            grad_y=self.grad_y.double(),
            bias=None if self.bias is None else self.bias.double(),
            weight=self.weight._replace(values=self.weight.values.double()),
            frozen=None if self.frozen is None else self.frozen._replace(values=self.frozen.values.double()),
        )

    def to(self, device: torch.device | str) -> Problem:
        """The same on another device; its index stays what the kernels of this one read."""

        def moved(weight: PackedWeight | None) -> PackedWeight | None:
            if weight is None:
                return None
            return weight._replace(
                values=weight.values.to(device), positions=weight.positions.to(device), index=weight.index.to(device)
            )

        return replace(
            self,
            x=self.x.to(device),
            weight=moved(self.weight),
            slots=self.slots.to(device),
            bias=None if self.bias is None else self.bias.to(device),
            grad_y=self.grad_y.to(device),
            frozen=moved(self.frozen),
        )

    def plain(self, result: str) -> Tensor:
        """What plain PyTorch computes in the same dtype; computed once."""
        return self._answer(result, False)

    def exact(self, result: str) -> Tensor:
        """The answer in float64, from the CPU; computed once."""
        return self._answer(result, True)

    def _answer(self, result: str, is_exact: bool) -> Tensor:
        if (result, is_exact) not in self._answers:
            threads = torch.get_num_threads()
            torch.set_num_threads(1)  # many small products, for which threads would mostly wait
            problem = self.double().to("cpu") if is_exact else self
            with torch.device("cpu" if is_exact else self.x.device):
                self._answers[result, is_exact] = problem.get(result, reference).to(self.x.device)
            torch.set_num_threads(threads)
        return self._answers[result, is_exact]

    def check(self, *results: str) -> None:
        """The operators are about as accurate as plain PyTorch; in float64, which is the yardstick, they are exact."""
        if self.x.dtype == torch.float64:
            problem = self.with_exact_sums()
            for result in results or RESULTS:
                torch.testing.assert_close(problem.get(result), problem.exact(result), rtol=0, atol=0)
            return
        for result in results or RESULTS:
            ours = self.get(result)
            # Both kernels sum up to 32 products in one chain, then those sums, BLAS in 16 chains or more: convolution
            # came to 2.14 times plain PyTorch's error at most over 60 seeds. 16-bit results owe theirs to the last
            # rounding.
            factor = 3 if ours.dtype == torch.float32 and result != "grad_bias" else 2
            assert_as_accurate(ours, self.plain(result), self.exact(result), factor)

    def with_exact_sums(self) -> Problem:
        """The same with numbers of 20 bits, so that every float64 sum of their products is exact in any order."""
        if self._rounded is None:

            def rounded(tensor: Tensor) -> Tensor:
                return (tensor * 2**16).round() / 2**16

            problem = replace(
                self,
                x=rounded(self.x),
                grad_y=rounded(self.grad_y),
                bias=None if self.bias is None else rounded(self.bias),
                frozen=None if self.frozen is None else self.frozen._replace(values=rounded(self.frozen.values)),
            )
            object.__setattr__(self, "_rounded", problem.with_values(rounded(self.weight.values)))
        return self._rounded

    def rows(self, rows: Tensor) -> Problem:
        """The same layer with only some rows of the batch."""
        return replace(self, x=self.x[rows], grad_y=self.grad_y[rows], slots=self.slots[rows])

    def of_one_slot(self, slot: int) -> Problem:
        """The rows of one slot alone, as a batch of that slot."""
        return replace(self.rows(self.slots == slot), slots=torch.tensor(slot))


def frozen_store(problem: Problem, density: float = 0.15) -> PackedWeight:
    """A second store of the same shape, whose slots may read the same weights: a frozen weight has many readers."""
    num_slots, num_rows, num_columns = problem.weight.shape
    generator = seeded(11)
    masks = torch.rand(num_slots, num_rows, num_columns, generator=generator) < density
    flats = [mask.flatten().nonzero().squeeze(1) for mask in masks]
    segments = [encode_slot(flat, num_rows, num_columns)[0] for flat in flats]
    positions = join(segments, [len(flat) for flat in flats], num_rows, num_columns)
    values = torch.randn(sum(map(len, flats)), generator=generator).to(problem.weight.values.dtype)
    return PackedWeight(values, positions, build_index(problem, positions), problem.weight.shape)


def build_index(problem: Problem, positions: Tensor) -> Tensor:
    """What the kernels of the problem's operator derive from ``positions``."""
    return task_conv2d_index(positions, problem.window[0]) if problem.window else task_linear_index(positions)


@cache  # every CPU level is held against one answer
def linear_problem(shape: str | tuple[int, int, int, int], **options: Any) -> Problem:
    batch, num_inputs, num_outputs, num_slots = LINEAR_SHAPES[shape] if isinstance(shape, str) else shape
    sample = linear_sample(batch, num_inputs, num_outputs, num_slots, **options)
    grad_y = torch.randn(batch, num_outputs, generator=seeded(7)).to(sample.x.dtype)
    return Problem("task_linear", *sample, grad_y)


@cache
def conv_problem(shape: str | tuple[Any, ...], **options: Any) -> Problem:
    batch, channels, num_outputs, num_slots, size, *window = CONV_SHAPES[shape] if isinstance(shape, str) else shape
    sample = conv_sample(batch, channels, num_outputs, num_slots, size, window[0], **options)
    problem = Problem("task_conv2d", *sample, sample.x, tuple(map(list, window)))
    size_of_y = problem.forward(reference).shape
    grad_y = torch.randn(size_of_y, generator=seeded(7)).to(sample.x.dtype)
    return replace(problem, grad_y=grad_y)


@pytest.fixture
def make_linear() -> Callable[..., Problem]:
    """Arguments of ``task_linear``: the name of a shape, or B, I, O, T."""
    return linear_problem


@pytest.fixture
def make_conv() -> Callable[..., Problem]:
    """Arguments of ``task_conv2d``: the name of a shape, or what such a name stands for."""
    return conv_problem


@pytest.fixture(params=["task_linear", "task_conv2d"])
def make_problem(request: pytest.FixtureRequest) -> Callable[..., Problem]:
    """Arguments of every forward operator in turn, for a number of rows and slots."""

    def make(batch: int, num_slots: int, **options: Any) -> Problem:
        if request.param == "task_linear":
            return linear_problem((batch, 300, 41, num_slots), **options)
        return conv_problem(
            (batch, 9, 20, num_slots, (7, 11), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)), **options
        )  # fmt: skip

    return make


@pytest.fixture
def make_frozen() -> Callable[..., PackedWeight]:
    """A frozen store beside a problem's weight."""
    return frozen_store


@pytest.fixture
def make_index() -> Callable[..., Tensor]:
    """What the kernels of a problem's operator derive from positions."""
    return build_index


@pytest.fixture
def set_precision() -> Iterator[Callable[..., None]]:
    """How torch makes float32 products and convolutions on GPUs during a test: "ieee" at first, or "tf32"."""
    settings = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    before = [setting.fp32_precision for setting in settings]

    def set_to(precision: str, *of: Any) -> None:
        for setting in of or settings:
            setting.fp32_precision = precision

    set_to("ieee")
    yield set_to
    for setting, precision in zip(settings, before, strict=True):
        setting.fp32_precision = precision
