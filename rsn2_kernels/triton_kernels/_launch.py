"""How the operators start the kernels: linear and convolution alike, as the geometry says."""

from __future__ import annotations

import functools
import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from rsn2_kernels.formats import shape_of
from rsn2_kernels.triton_kernels import _forward, _grad_input, _grad_values
from rsn2_kernels.triton_kernels._device import assert_slots
from rsn2_kernels.triton_kernels._plan import plan, rows_of
from rsn2_kernels.triton_kernels._table import Choice, choose, precision_of

WAVES = 8
"""Programs started for each multiprocessor, at most; they walk over the work, whose amount only the device knows."""

INTERPRETED_PROGRAMS = 3

MOST_REGISTERS = 255
"""Of a thread. Without this the assembler spills some to make room for one program more."""

MOST_NARROW_PIXELS = (1 << 31) - 4096
"""Pixels from which on their numbers, of the last item's empty places too, do not fit 32 bits."""

if triton.knobs.runtime.interpret:
    from rsn2_kernels.triton_kernels import _interpreter

    _interpreter.mend()


class Geometry(NamedTuple):
    """Sizes of a product; a linear layer is a convolution of one tap over images of one pixel."""

    O: int  # noqa: E741
    K: int
    C: int
    H: int = 1
    W: int = 1
    OH: int = 1
    OW: int = 1
    P: int = 1
    Q: int = 1
    stride_h: int = 1
    stride_w: int = 1
    pad_h: int = 0
    pad_w: int = 0
    dil_h: int = 1
    dil_w: int = 1

    def arguments(self) -> dict[str, int]:
        return {name: size for name, size in self._asdict().items() if name != "P"}


def strides_of(tensor: Tensor, letter: str) -> dict[str, int]:
    """Strides of ``[B, C]`` or ``[B, C, H, W]`` under the names the kernels have for them."""
    names = [letter + axis for axis in ("bchw" if letter == "x" else "bohw")]
    strides = [*tensor.stride(), 0, 0][:4]
    return dict(zip(names, strides, strict=True))


@functools.cache
def _num_programs(device: torch.device) -> int:
    if device.type != "cuda":
        return INTERPRETED_PROGRAMS
    return WAVES * int(torch.cuda.get_device_properties(device).multi_processor_count)


def on_device(tensor: Tensor) -> AbstractContextManager[Any]:
    """Kernels start on the current device, which is to be the tensor's."""
    return torch.cuda.device(tensor.device) if tensor.device.type == "cuda" else nullcontext()


def check(op: str, positions: Tensor, index: Tensor, slots: Tensor, frozen: list[Tensor], *sizes: int) -> None:
    """What kernels must be able to rely on. Contents are looked at where that does not wait for a device.

    Raises:
        ValueError: an index is none, or, on the CPU, the positions are of a weight of other sizes.
        IndexError: a slot is out of range, on the CPU. Kernels make such rows NaN.
    """
    for words in (index, *frozen[2:]):
        if words.dtype != torch.int32 or words.dim() != 1 or words.numel() < 12:
            name = op.split("_grad")[0] + "_index"
            raise ValueError(f"{op}: index must be {name} of the positions, got {words.dtype} {list(words.shape)}")
    if index.device.type != "cpu":
        return
    num_slots, *shape = shape_of(positions)
    if shape != list(sizes) or index[:4].tolist() != [1, num_slots, *shape]:
        raise ValueError(f"{op}: the weight must be {list(sizes)}, but its positions say {shape}")
    wrong = slots[(slots < 0) | (slots >= num_slots)].reshape(-1)
    if len(wrong):
        raise IndexError(f"{op}: slots must be in 0..{num_slots - 1}, got {int(wrong[0])}")


def _stop_out_of_range(slots: Tensor, index: Tensor) -> None:
    """Under ``RSN2_DEBUG=1`` an id out of range stops the device, which makes its rows NaN else."""
    if os.environ.get("RSN2_DEBUG") == "1":
        size = 1024
        assert_slots[(-(-slots.numel() // size),)](slots, index, slots.numel(), SIZE=size, debug=True)


def conv_kind(x: Tensor, y: Tensor) -> int:
    """0 for a linear layer, 1 for a convolution, 2 for one whose pixels need numbers of 64 bits."""
    if x.dim() == 2:
        return 0
    most = max(tensor.shape[0] * tensor.shape[2] * tensor.shape[3] for tensor in (x, y))
    return 2 if most >= MOST_NARROW_PIXELS else 1


def _acc(x: Tensor) -> Any:
    return tl.float64 if x.dtype == torch.float64 else tl.float32


def _start(kernel: Any, slots: Tensor, pixels: int, num_pixels: int, choice: Choice, pieces: int,
           **arguments: Any) -> None:  # fmt: skip
    """Start a kernel whose programs walk over work items, ``pieces`` programs side by side over each."""
    _stop_out_of_range(slots, arguments["index"])
    size = choice.sizes["BM"]
    is_mixed = slots.dim() == 1
    if is_mixed:
        items, num_used, order = plan(slots, pixels, size)
    else:  # one slot, whose pixels stand as they came
        items = num_used = order = slots
    num_items = items.shape[1] if is_mixed else -(-num_pixels // size)
    rounds = min(num_items, -(-_num_programs(slots.device) // pieces), 65535)
    kernel[(pieces, rounds)](
        slots=slots, items=items, num_used=num_used, order=order, num_items=num_items, num_pixels=num_pixels,
        MIXED=is_mixed, num_warps=choice.num_warps, maxnreg=MOST_REGISTERS, **choice.sizes, **arguments,
    )  # fmt: skip


def forward(x: Tensor, values: Tensor, index: Tensor, slots: Tensor, bias: Tensor | None, frozen: list[Tensor],
            activation: str, y: Tensor, geometry: Geometry) -> Tensor:  # fmt: skip
    """Fill ``y`` ``[B, O]`` or ``[B, O, H', W']``."""
    if y.numel() == 0:
        return y
    is_conv = conv_kind(x, y)
    pixels = geometry.OH * geometry.OW
    num_pixels = x.shape[0] * pixels
    precision = precision_of(x, is_conv > 0)
    choice = choose("forward", x, index, frozen, num_pixels, geometry.C, precision, is_conv > 0)
    if choice.form == "lists" and not is_conv and num_pixels > 4:
        x = x.t().contiguous().t()  # neighbouring lanes are neighbouring rows of the batch
    frozen_values, _, frozen_index = frozen or [values, index, index]
    form: dict[str, Any] = dict(BLOCK=choice.block, PRECISION=precision) if choice.form == "tiles" else {}
    kernel = _forward.forward_tiles if choice.form == "tiles" else _forward.forward_lists
    with on_device(x):
        _start(
            kernel, slots.contiguous(), pixels, num_pixels, choice, -(-geometry.O // choice.sizes.get("BO", 16)),
            x=x, values=values.contiguous(), index=index, frozen_values=frozen_values.contiguous(),
            frozen_index=frozen_index, bias=values if bias is None else bias.contiguous(),
            bias_slots=0 if bias is None else len(bias), y=y,
            **geometry.arguments(), **strides_of(x, "x"), **strides_of(y, "y"), **form, ACC=_acc(x), IS_CONV=is_conv,
            HAS_BIAS=bias is not None, HAS_FROZEN=bool(frozen), RELU=activation == "relu",
        )  # fmt: skip
    return y


def grad_input(grad_y: Tensor, values: Tensor, index: Tensor, slots: Tensor, frozen: list[Tensor], grad_x: Tensor,
               geometry: Geometry) -> Tensor:  # fmt: skip
    """Fill ``grad_x`` ``[B, I]`` or ``[B, C, H, W]``."""
    if grad_x.numel() == 0:
        return grad_x
    is_conv = conv_kind(grad_x, grad_y)
    pixels = geometry.H * geometry.W
    num_pixels = grad_y.shape[0] * pixels
    precision = precision_of(grad_y, is_conv > 0)
    choice = choose("grad_input", grad_y, index, frozen, num_pixels, geometry.C, precision, is_conv > 0)
    frozen_values, _, frozen_index = frozen or [values, index, index]
    with on_device(grad_y):
        _start(
            _grad_input.grad_input, slots.contiguous(), pixels, num_pixels, choice,
            -(-geometry.C // choice.sizes["BC"]),
            grad_y=grad_y, values=values.contiguous(), index=index, frozen_values=frozen_values.contiguous(),
            frozen_index=frozen_index, grad_x=grad_x, **geometry._asdict(),
            **strides_of(grad_x, "x"), **strides_of(grad_y, "y"), BLOCK=choice.block, PRECISION=precision,
            ACC=_acc(grad_y), IS_CONV=is_conv, HAS_FROZEN=bool(frozen),
        )  # fmt: skip
    return grad_x


def grad_values(x: Tensor, grad_y: Tensor, values: Tensor, index: Tensor, slots: Tensor, wanted: list[int],
                num_owned: list[int], geometry: Geometry) -> Tensor:  # fmt: skip
    """The gradient of the values of every wanted slot, ``[sum of num_owned]``; one kernel for each."""
    for slot in wanted:  # as many slots at most as the index has words: what they own, the device knows
        if not 0 <= slot < len(index):
            raise ValueError(f"wanted slots must be in 0..{len(index) - 1}, got {slot}")
    grads = values.new_empty(sum(num_owned))
    if grads.numel() == 0:
        return grads
    if grad_y.numel() == 0:
        return grads.zero_()
    is_conv = conv_kind(x, grad_y)
    num_pixels = x.shape[0] * geometry.OH * geometry.OW
    precision = precision_of(x, is_conv > 0)
    choice = choose("grad_values", x, index, [], num_pixels, geometry.C, precision, is_conv > 0)
    spans = -(-geometry.K // 256)
    width = min(geometry.K, 256)
    form: dict[str, Any] = {}
    if choice.form == "tiles":
        kernel: Any = _grad_values.grad_values_tiles
        form = dict(BLOCK=choice.block, PRECISION=precision)
        grid = (-(-geometry.O // choice.sizes["BO"]) * spans, -(-width // choice.sizes["BC"]))
    else:
        kernel = _grad_values.grad_values_lists
        grid = (-(-geometry.O // 16) * spans, -(-width // choice.sizes["J"]))
    slots = slots.contiguous()
    with on_device(x):
        _stop_out_of_range(slots, index)
        starts = order = slots
        lowest = min(wanted)
        if slots.dim() == 1:
            starts, order = rows_of(slots, lowest, max(wanted))
        for slot, grad in zip(wanted, grads.split(num_owned), strict=True):
            if grad.numel() == 0:
                continue
            kernel[grid](
                x=x, grad_y=grad_y, index=index, slots=slots, starts=starts, order=order, grad=grad, slot=slot,
                lowest=lowest, num_owned=grad.numel(), num_pixels=num_pixels, **geometry.arguments(),
                **strides_of(x, "x"), **strides_of(grad_y, "y"), **choice.sizes, **form, ACC=_acc(x),
                MIXED=slots.dim() == 1, IS_CONV=is_conv, num_warps=choice.num_warps, maxnreg=MOST_REGISTERS,
            )  # fmt: skip
    return grads
