"""Checks of results against float64: every operator, dtype and kind of batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rsn2_kernels import reference
from rsn2_kernels.testing import CONV_SHAPES, DTYPES, LINEAR_SHAPES, conv_sample, linear_sample

from .device import StandIn
from .problems import RESULTS, Problem, Window, answers, generator_for, judge, pack_owners, random_owners

Check = tuple[str, Callable[[], dict[str, Any]]]
HALVES = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Setting:
    """On what the checks run.

    Attributes:
        seed: of all random inputs.
        dry: large shapes shrink.
        tiny: few and small checks, whose oracle is the CPU's: for tools that slow every kernel down.
    """

    device: StandIn
    seed: int
    dry: bool = False
    tiny: bool = False

    def size(self, number: int, small: int) -> int:
        return small if self.dry else number

    @property
    def dtypes(self) -> tuple[torch.dtype, ...]:
        if self.tiny:
            return (torch.float32, torch.bfloat16)
        return (torch.float64, torch.bfloat16) if self.dry else DTYPES


def linear(setting: Setting, name: str, shape: tuple[int, int, int, int], dtype: torch.dtype = torch.float32,
           **options: Any) -> Problem:  # fmt: skip
    """A small problem ``(B, I, O, T)`` on the device."""
    seed = generator_for(setting.seed, name).initial_seed()
    return _finished("task_linear", linear_sample(*shape, dtype=dtype, seed=seed, **options), (), setting)


def conv(setting: Setting, name: str, shape: Sequence[Any], dtype: torch.dtype = torch.float32,
         **options: Any) -> Problem:  # fmt: skip
    """A small problem of a shape as ``CONV_SHAPES`` has them, on the device."""
    seed = generator_for(setting.seed, name).initial_seed()
    batch, channels, num_outputs, num_slots, size, *window = shape
    sample = conv_sample(batch, channels, num_outputs, num_slots, size, window[0], dtype=dtype, seed=seed, **options)
    return _finished("task_conv2d", sample, tuple(map(list, window)), setting)


def _finished(op: str, sample: Any, window: Window, setting: Setting) -> Problem:
    problem = Problem(op, *sample, sample.x, window)
    size = problem.forward(reference).shape if window else (len(sample.x), sample.weight.shape[1])
    generator = torch.Generator().manual_seed(len(sample.x) + 7)
    problem = replace(problem, grad_y=torch.randn(size, generator=generator).to(sample.x.dtype))
    if sample.x.dtype == torch.float64:
        problem = problem.with_exact_sums()
    return problem.to(setting.device.torch_device)


def large(setting: Setting, name: str, shape: tuple[int, int, int, int], density: float, dtype: torch.dtype,
          block: int = 1, window: Window = (), image: tuple[int, int] = (0, 0)) -> Problem:  # fmt: skip
    """A large problem ``(B, I, O, T)``, made on the device; ``I`` counts channels where there is a window."""
    batch, num_inputs, num_outputs, num_slots = shape
    device = setting.device.torch_device
    generator = generator_for(setting.seed, name, device)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, device=device).to(dtype)

    num_columns = num_inputs * (window[0][0] * window[0][1] if window else 1)
    owner = random_owners(num_slots, num_outputs, num_columns, density, generator, (block, block))
    weight = pack_owners(draw(num_outputs, num_columns), owner, num_slots, window[0] if window else None)
    slots = torch.randint(0, num_slots, (batch,), generator=generator, device=device)
    x, bias = draw(batch, num_inputs, *(image if window else ())), draw(num_slots, num_outputs)
    if not window:
        return Problem("task_linear", x, weight, slots, bias, draw(batch, num_outputs))
    size = [(length + 2 * window[2][0] - window[0][0]) // window[1][0] + 1 for length in image]
    channels_last = x.contiguous(memory_format=torch.channels_last)
    grad_y = draw(batch, num_outputs, *size).contiguous(memory_format=torch.channels_last)
    return Problem("task_conv2d", channels_last, weight, slots, bias, grad_y, window)


def check(setting: Setting, problem: Problem, result: str, *, oracle: str = "cpu", poison: bool = True) -> dict:
    """Compare one result with float64 on ``oracle`` (``"cpu"`` or ``"device"``), with poisoned memory behind it."""
    device = setting.device
    if setting.tiny:
        plain, exact = answers(problem.to("cpu", index=False), result, torch.device("cpu"))
    else:
        plain, exact = answers(problem, result, torch.device("cpu") if oracle == "cpu" else device.torch_device)
    if poison:
        size = plain.numel() * plain.element_size()
        device.poison([size, problem.x.numel() * problem.x.element_size()])
    ours = problem.get(result)
    return judge(result, ours, plain, exact) | {"oracle": oracle}


def checks(setting: Setting, name: str, make: Callable[[str], Problem], results: Sequence[str] = RESULTS,
           **options: Any) -> Iterator[Check]:  # fmt: skip
    """One check for each result of a problem, which is made once, when the first of them runs."""
    made: list[Problem] = []

    def work(result: str) -> Callable[[], dict[str, Any]]:
        def run() -> dict[str, Any]:
            if not made:
                made.append(make(name))
            return check(setting, made[0], result, **options)

        return run

    for result in results:
        yield f"{name} {result}", work(result)


def one_slot(problem: Problem) -> Problem:
    """All rows of the last slot, by a slot of shape []."""
    return replace(problem, slots=torch.tensor(problem.weight.shape[0] - 1, device=problem.x.device))


def channels_last(problem: Problem) -> Problem:
    form = torch.channels_last
    return replace(problem, x=problem.x.contiguous(memory_format=form),
                   grad_y=problem.grad_y.contiguous(memory_format=form))  # fmt: skip


def shapes(setting: Setting) -> Iterator[Check]:
    """All named shapes of the linear product, in every dtype, mixed and of one slot."""
    for shape in ("divides_nothing",) if setting.tiny else LINEAR_SHAPES:
        for dtype in setting.dtypes:
            for kind, change in (("mixed", lambda p: p), ("one slot", one_slot)):

                def make(name: str, shape: str = shape, dtype: torch.dtype = dtype, change: Any = change) -> Problem:
                    return change(linear(setting, name, LINEAR_SHAPES[shape], dtype))

                yield from checks(setting, f"linear {shape} {dtype} {kind}", make)


def conv_shapes(setting: Setting) -> Iterator[Check]:
    """All named shapes of the convolution, in every dtype, both memory formats, mixed and of one slot."""
    for shape in ("three_by_three",) if setting.tiny else CONV_SHAPES:
        for dtype in setting.dtypes:
            for kind, change in (("mixed", lambda p: p), ("mixed channels_last", channels_last),
                                 ("one slot", one_slot)):  # fmt: skip

                def make(name: str, shape: str = shape, dtype: torch.dtype = dtype, change: Any = change) -> Problem:
                    return change(conv(setting, name, CONV_SHAPES[shape], dtype))

                yield from checks(setting, f"conv {shape} {dtype} {kind}", make, RESULTS[:3])


def options(setting: Setting) -> Iterator[Check]:
    """float32 values beside 16-bit inputs, no bias, ReLU, a frozen store beside the weight."""

    def changed(problem: Problem, what: str) -> Problem:
        if what == "frozen":
            other = linear(setting, "frozen store", (1, 613, 97, 4), problem.x.dtype, density=0.1)
            return replace(problem, frozen=other.weight)
        return replace(problem, activation="relu") if what == "relu" else replace(problem, bias=None)

    for dtype in (torch.float32, *HALVES):
        for what in ("relu", "no bias", "frozen"):

            def make(name: str, dtype: torch.dtype = dtype, what: str = what) -> Problem:
                return changed(linear(setting, name, LINEAR_SHAPES["several_tiles"], dtype), what)

            yield from checks(setting, f"linear {what} {dtype}", make, RESULTS[:2])
    for dtype in HALVES:

        def wide_linear(name: str, dtype: torch.dtype = dtype) -> Problem:
            return linear(setting, name, LINEAR_SHAPES["several_tiles"], dtype, value_dtype=torch.float32)

        def wide_conv(name: str, dtype: torch.dtype = dtype) -> Problem:
            return conv(setting, name, CONV_SHAPES["many_channels"], dtype, value_dtype=torch.float32)

        yield from checks(setting, f"linear float32 values {dtype}", wide_linear)
        yield from checks(setting, f"conv float32 values {dtype}", wide_conv, RESULTS[:3])


def many(setting: Setting) -> Iterator[Check]:
    """Large layers, many rows, many slots, blocks: made on the device, with float64 there, too."""
    size = setting.size
    of_shape = {  # B, I, O, T, density, block
        "one row": (1, size(4096, 320), size(14336, 64), 4, 0.1, 1),
        "four rows": (4, size(4096, 320), size(4096, 64), 2, 0.25, 1),
        "sixteen rows": (16, size(4096, 320), size(4096, 64), 4, 0.05, 1),
        "rows by the hundred": (size(500, 20), size(4096, 320), size(4096, 64), 4, 0.1, 1),
        "rows by the thousand": (size(4096, 40), size(1024, 300), size(2048, 64), 8, 0.1, 1),
        "100000 rows": (size(100_000, 90), size(512, 64), size(320, 32), 3, 0.2, 1),
        "1024 slots": (size(3000, 200), size(512, 64), size(256, 64), size(1024, 128), 1 / size(1024, 128), 1),
        "128 slots": (size(1000, 100), size(1000, 64), size(777, 40), size(128, 16), 1 / size(128, 16), 1),
        "dense": (size(300, 10), size(1000, 64), size(1000, 40), 1, 1.0, 1),
        "blocks of 64": (size(1500, 30), size(2048, 256), size(2048, 128), 4, 0.1, 64),
        "blocks of 32": (size(1500, 30), size(2048, 256), size(2048, 128), 4, 0.1, 32),
        "blocks of 16": (size(1500, 30), size(2048, 256), size(2048, 128), 4, 0.1, 16),
    }
    for title, (*shape, density, block) in of_shape.items():
        for dtype in HALVES[:1] if setting.dry else (torch.float32, *HALVES):

            def make(name: str, shape: Any = tuple(shape), density: float = density, dtype: torch.dtype = dtype,
                     block: int = block) -> Problem:  # fmt: skip
                return large(setting, name, shape, density, dtype, block)

            yield from checks(setting, f"linear {title} {dtype}", make, oracle="device")


def many_conv(setting: Setting) -> Iterator[Check]:
    """Convolutions as large as in ResNet."""
    size = setting.size
    of_shape = {  # B, C, O, T, density, block, image, stride
        "28x28x128": (size(64, 4), size(128, 16), size(128, 16), 8, 0.1, 1, size(28, 6), 1),
        "14x14x256": (size(64, 4), size(256, 16), size(256, 16), 8, 0.1, 1, size(14, 6), 1),
        "7x7x512": (size(64, 4), size(512, 16), size(512, 16), 8, 0.1, 1, size(7, 5), 1),
        "56x56x64 stride 2": (size(32, 4), size(64, 16), size(128, 16), 4, 0.2, 1, size(56, 8), 2),
        "blocks of 32": (size(32, 4), size(128, 32), size(128, 32), 4, 0.1, 32, size(14, 6), 1),
    }
    for title, (batch, channels, outputs, slots, density, block, image, stride) in of_shape.items():
        for dtype in HALVES[:1] if setting.dry else (torch.float32, *HALVES):

            def make(name: str, shape: Any = (batch, channels, outputs, slots), density: float = density,
                     dtype: torch.dtype = dtype, block: int = block, image: int = image,
                     stride: int = stride) -> Problem:  # fmt: skip
                window = ([3, 3], [stride, stride], [1, 1, 1, 1], [1, 1])
                return large(setting, name, shape, density, dtype, block, window, (image, image))

            yield from checks(setting, f"conv {title} {dtype}", make, RESULTS[:3], oracle="device")
