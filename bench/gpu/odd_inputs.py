"""Checks of inputs that are odd but allowed, and of slot ids that are not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rsn2_kernels import reference
from rsn2_kernels.testing import assert_as_accurate

from .problems import RESULTS, Problem
from .values import Check, Setting, checks, large, linear

DTYPES = (torch.float32, torch.bfloat16)


def odd_inputs(setting: Setting) -> Iterator[Check]:
    """Empty slots and batches, slots that no row has, any strides and addresses, ids out of range."""
    for dtype in DTYPES:

        def changed(name: str, dtype: torch.dtype = dtype, change: Any = None) -> Problem:
            return change(linear(setting, name, (40, 517, 97, 5), dtype))

        changes: dict[str, Callable[[Problem], Problem]] = {
            "slots without rows": lambda p: replace(p, slots=p.slots.clamp(min=2)),
            "rows of any stride": lambda p: replace(p, x=torch.cat([p.x, p.x], 1)[:, : p.x.shape[1]],
                                                    grad_y=torch.cat([p.grad_y] * 3, 1)[:, : p.grad_y.shape[1]]),
            "columns first": lambda p: replace(p, x=p.x.T.contiguous().T, grad_y=p.grad_y.T.contiguous().T),
            "misaligned": lambda p: replace(p, x=_misaligned(p.x), grad_y=_misaligned(p.grad_y),
                                            slots=_misaligned(p.slots)),
            "misaligned values": lambda p: replace(p, weight=p.weight._replace(values=_misaligned(p.weight.values))),
            "one gradient for all": lambda p: replace(p, grad_y=p.grad_y[:1, :1].expand_as(p.grad_y)),
            "slots of any stride": lambda p: replace(p, slots=p.slots.repeat_interleave(3)[::3]),
            "no rows": lambda p: p.rows(torch.zeros(0, dtype=torch.int64, device=p.x.device)),
        }  # fmt: skip
        for title, change in changes.items():

            def make(name: str, changed: Any = changed, change: Any = change) -> Problem:
                return changed(name, change=change)

            yield from checks(setting, f"linear {title} {dtype}", make)

        def empty(name: str, dtype: torch.dtype = dtype) -> Problem:
            return large(setting, name, (33, 300, 70, 9), 1 / 4, dtype)  # slots 4 and above own nothing

        yield from checks(setting, f"linear empty slots {dtype}", empty)
        for result in RESULTS:
            yield f"linear ids out of range {dtype} {result}", lambda r=result, d=dtype: out_of_range(setting, r, d)


def _misaligned(tensor: Tensor) -> Tensor:
    """The same numbers, one element behind an aligned address."""
    room = tensor.new_empty(tensor.numel() + 1)
    copy = room[1:].view(tensor.shape)
    copy.copy_(tensor)
    return copy


def out_of_range(setting: Setting, result: str, dtype: torch.dtype) -> dict[str, Any]:
    """Rows with an impossible slot are NaN, or do not count; the others are as without them."""
    problem = linear(setting, "ids out of range", (40, 300, 70, 3), dtype)
    bad = torch.zeros(40, dtype=torch.bool, device=problem.x.device)
    bad[::7] = True
    wrong = torch.tensor([-1, 3, 1 << 40, -(1 << 62), 4, 100], device=problem.x.device)
    slots = problem.slots.clone()
    slots[bad] = wrong[: int(bad.sum())]
    damaged = replace(problem, slots=slots)
    if not setting.device.is_gpu:  # where looking costs nothing, it is an error
        try:
            damaged.get(result)
        except IndexError:
            return {}
        assert result == "grad_bias", "IndexError expected"  # which does not know how many slots there are
        return {}
    ours = damaged.get(result)
    wanted = problem.rows(~bad).get(result, reference)
    if result in ("forward", "grad_input"):
        assert bool(ours[bad].isnan().all()), "rows with an impossible slot are not NaN"
        ours = ours[~bad]
    exact = problem.rows(~bad).double().get(result, reference)
    assert_as_accurate(ours, wanted, exact, 3)
    return {}
