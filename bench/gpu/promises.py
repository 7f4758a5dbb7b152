"""Checks of what the operators promise besides their results: bits, graphs, streams, no waiting, TF32."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rsn2_kernels import ops, reference
from rsn2_kernels.nn import TaskLinear
from rsn2_kernels.testing import CONV_SHAPES

from .problems import RESULTS, Problem, answers, judge
from .values import Check, Setting, conv, large, linear

DTYPES = (torch.float32, torch.bfloat16)


def assert_same_bits(ours: Tensor, wanted: Tensor) -> None:
    if not torch.equal(ours.isnan(), wanted.isnan()) or not torch.equal(ours.nan_to_num(), wanted.nan_to_num()):
        share = (ours != wanted).double().mean().item()
        raise AssertionError(f"{100 * share:.3g} % of the elements differ in their bits")


def both(setting: Setting, name: str, dtype: torch.dtype) -> Iterator[tuple[str, Callable[[], Problem]]]:
    """A linear problem and a convolution, mixed batches of 4 slots and of 3."""
    size = setting.size
    shape = (size(300, 20), size(1000, 300), size(500, 40), 4)
    yield f"linear {dtype}", lambda: linear(setting, name, shape, dtype)
    yield f"conv {dtype}", lambda: conv(setting, name, CONV_SHAPES["many_channels"], dtype)


def per_result(setting: Setting, work: Callable[[Problem, str], dict | None]) -> Iterator[Check]:
    """``work(problem, result)`` for both operators in two dtypes and for every result."""
    for dtype in DTYPES:
        for title, make in both(setting, work.__name__, dtype):
            for result in RESULTS[:3] if title.startswith("conv") else RESULTS:
                yield f"{title} {result}", lambda make=make, result=result: work(make(), result) or {}


def repeat(setting: Setting) -> Iterator[Check]:
    """Two runs give the same bits."""

    def same_bits(problem: Problem, result: str) -> None:
        first = problem.get(result).clone()
        for _ in range(5):
            setting.device.poison([first.numel() * first.element_size()])
            assert_same_bits(problem.get(result), first)

    return per_result(setting, same_bits)


def one_by_one(setting: Setting) -> Iterator[Check]:
    """A mixed batch equals its tasks one by one, to what plain PyTorch's roundings would differ."""

    def equals(problem: Problem, result: str) -> dict[str, Any]:
        plain, exact = answers(problem, result, setting.device.torch_device)
        alone = torch.zeros_like(plain)
        starts = [0]
        for number in problem.num_owned:
            starts.append(starts[-1] + number)
        for slot in range(problem.weight.shape[0]):
            rows = problem.slots == slot
            own = replace(problem.rows(rows), slots=torch.tensor(slot, device=rows.device))
            part = own.get(result)
            if result == "grad_values":
                alone[starts[slot] : starts[slot + 1]] = part[starts[slot] : starts[slot + 1]]
            elif result == "grad_bias":
                alone[slot] = part[slot]
            else:
                alone[rows] = part
        mixed = problem.get(result)
        judge(result, alone, plain, exact)
        return judge(result, mixed, plain, exact) | {"same_bits": bool(torch.equal(mixed, alone))}

    return per_result(setting, equals)


def others_are_nan(setting: Setting) -> Iterator[Check]:
    """With every other slot's values NaN, a slot's results have the same bits."""

    def unchanged(problem: Problem, result: str) -> None:
        slot = 1
        own = replace(problem, slots=torch.tensor(slot, device=problem.x.device))
        values = torch.full_like(problem.weight.values, float("nan"))
        first = sum(problem.num_owned[:slot])
        last = first + problem.num_owned[slot]
        values[first:last] = problem.weight.values[first:last]
        damaged = replace(own, weight=own.weight._replace(values=values))
        assert_same_bits(damaged.get(result), own.get(result))

    return per_result(setting, unchanged)


def graphs(setting: Setting) -> Iterator[Check]:
    """Captured once, replayed on other inputs: the same bits as a call on those."""

    def replayed(problem: Problem, result: str) -> None:
        number = problem.num_owned  # read from the device before the capture
        assert len(number) == problem.weight.shape[0]
        replay = setting.device.capture(lambda: problem.get(result))
        for step in range(3):
            generator = torch.Generator(problem.x.device).manual_seed(step)
            for tensor in (problem.x, problem.grad_y, problem.weight.values):
                tensor.copy_(torch.randn(tensor.shape, generator=generator, device=tensor.device))
            problem.slots.copy_(problem.slots.roll(1))
            replay()
            assert_same_bits(replay.result, problem.get(result))

    return per_result(setting, replayed)


def streams(setting: Setting) -> Iterator[Check]:
    """On another stream, behind the work that makes the input there."""

    def on_side_stream(problem: Problem, result: str) -> None:
        wanted = problem.get(result).clone()
        with setting.device.side_stream():
            delayed = problem.x
            for _ in range(20):
                delayed = delayed + 1 - 1
            late = replace(problem, x=torch.where(torch.isfinite(delayed), problem.x, delayed))
            ours = late.get(result)
        assert_same_bits(ours, wanted)

    return per_result(setting, on_side_stream)


def devices(setting: Setting) -> Iterator[Check]:
    """On a second GPU while the first is the current one."""

    def elsewhere(problem: Problem, result: str) -> dict[str, Any]:
        if setting.device.count() < 2:
            return {"status": "absent", "why": "one device"}
        there = problem.to("cuda:1")
        plain, exact = answers(there, result, torch.device("cuda", 1))
        ours = there.get(result)
        assert ours.device.index == 1
        return judge(result, ours, plain, exact)

    return per_result(setting, elsewhere)


def no_waiting(setting: Setting) -> Iterator[Check]:
    """No call waits for the device."""

    def does_not_wait(problem: Problem, result: str) -> None:
        problem.get(result)  # reads the number of owned weights from the device, once
        with setting.device.no_synchronisation():
            problem.get(result)

    yield from per_result(setting, does_not_wait)

    def layer() -> dict[str, Any]:
        layer, x, slots = task_layer(setting)
        layer(x, slots).sum().backward()
        with setting.device.no_synchronisation():
            layer(x, slots).sum().backward()
        return {}

    yield "TaskLinear forward and backward", layer


def task_layer(setting: Setting, dtype: torch.dtype = torch.float32) -> tuple[TaskLinear, Tensor, Tensor]:
    """A layer of 3 slots on the device, with an input and the slots of its rows."""
    device = setting.device.torch_device
    torch.manual_seed(setting.seed)
    size = setting.size(512, 48)
    layer = TaskLinear(size, size, num_slots=3, device=device, dtype=dtype)
    owner = torch.randint(0, 6, (size, size), device=device)
    for slot in range(3):
        layer.claim(slot, owner == slot)
    x = torch.randn(64, size, device=device, dtype=dtype, requires_grad=True)
    return layer, x, torch.randint(0, 3, (64,), device=device)


def autograd_of(layer: Any, x: Tensor, slots: Tensor) -> list[Tensor]:
    """The result and every gradient."""
    x.grad = None
    y = layer(x, slots)
    parameters = list(layer.parameters())
    grads = torch.autograd.grad(y.float().square().sum(), [x, *parameters])
    return [y.detach(), *grads]


def compiled(setting: Setting) -> Iterator[Check]:
    """torch.compile without a graph break, forward and backward; autocast."""

    def same() -> dict[str, Any]:
        layer, x, slots = task_layer(setting)
        wanted = autograd_of(layer, x, slots)
        torch._dynamo.reset()
        compiled = torch.compile(layer, fullgraph=True, backend="eager" if setting.dry else "inductor")
        for ours, want in zip(autograd_of(compiled, x, slots), wanted, strict=True):
            torch.testing.assert_close(ours, want)
        return {}

    def autocast(dtype: torch.dtype) -> Callable[[], dict[str, Any]]:
        def run() -> dict[str, Any]:
            layer, x, slots = task_layer(setting)
            with torch.autocast(setting.device.torch_device.type, dtype=dtype):
                y, *grads = autograd_of(layer, x, slots)
            assert y.dtype == dtype and all(grad.dtype == torch.float32 for grad in grads)
            half = ops.task_linear(x.detach().to(dtype), layer.packed(), slots, layer.packed_bias()[0])
            assert_same_bits(y, half)
            return {}

        return run

    yield "compile fullgraph", same
    yield "autocast bfloat16", autocast(torch.bfloat16)
    yield "autocast float16", autocast(torch.float16)


def tf32(setting: Setting) -> Iterator[Check]:
    """Where torch allows TF32, products err by the rounding of their factors to 10 bits at most; else they do not."""

    def within(problem: Problem, result: str) -> dict[str, Any]:
        if problem.x.dtype != torch.float32:
            return {"status": "absent", "why": "float32 only"}
        exact = problem.double().get(result, reference)
        largest = replace(problem, x=problem.x.abs(), grad_y=problem.grad_y.abs(), bias=None,
                          weight=problem.weight._replace(values=problem.weight.values.abs()))  # fmt: skip
        sums = largest.double().get(result, reference)  # the sum of all products' sizes
        try:
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
            ours = problem.get(result)
        finally:
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        # Two factors, each cut off after 10 bits, and float32's own roundings of bias and sums.
        bound = 2**-9 * sums + 2**-20 * (sums + exact.abs())
        assert bool(((ours.double() - exact).abs() <= bound).all()), "an error is larger than TF32's roundings allow"
        return {"error": (ours.double() - exact).abs().max().item(), "bound": bound.max().item()}

    return per_result(setting, within)


def far_offsets(setting: Setting) -> Iterator[Check]:
    """More than 2^31 elements in the input, or in the output: rows at both ends against float64."""
    size = setting.size
    of_shape = {  # B, I, O
        "input": (size(540_000, 90), size(4000, 40), 16),
        "output": (size(540_000, 90), 16, size(4000, 40)),
    }
    for title, (batch, inputs, outputs) in of_shape.items():

        def ends(batch: int = batch, inputs: int = inputs, outputs: int = outputs) -> dict[str, Any]:
            if setting.device.free_bytes() < 48 << 30:
                return {"status": "absent", "why": "wants 48 GiB of memory"}
            problem = large(setting, "far offsets", (batch, inputs, outputs, 2), 0.3, torch.bfloat16)
            picked = torch.cat([torch.arange(30), torch.arange(batch // 2, batch // 2 + 30),
                                torch.arange(batch - 30, batch)]).to(problem.x.device)  # fmt: skip
            few = problem.rows(picked)
            found: dict[str, Any] = {}
            for result in ("forward", "grad_input"):
                plain, exact = answers(few, result, setting.device.torch_device)
                found = judge(result, problem.get(result)[picked], plain, exact)
            return found

        yield f"linear {title} beyond 2^31 elements", ends
