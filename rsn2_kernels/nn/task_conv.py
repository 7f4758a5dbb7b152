"""Convolutions that several tasks share, each with weights of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rsn2_kernels import ops
from rsn2_kernels.formats import SeededBase, StoredBase, draw_seed
from rsn2_kernels.nn._arguments import check_padding, check_values, number, numbers
from rsn2_kernels.nn._store import TaskLayer

_PADDING_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate", "circular": "circular"}


class _TaskConv(TaskLayer):
    """What the one- and two-dimensional layers share. One dimension is two with a height of one."""

    dims: ClassVar[int]
    dense_class: ClassVar[Any]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | str | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        num_slots: int | Sequence[str],
        base: SeededBase | StoredBase | None = None,
        base_bias: Tensor | None = None,
        activation: str = "none",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        kind = type(self).__name__
        if padding_mode not in _PADDING_MODES:
            raise ValueError(f"{kind}: padding_mode must be one of {sorted(_PADDING_MODES)}, got {padding_mode!r}")
        self.in_channels = in_channels = number(kind, "in_channels", in_channels)
        self.out_channels = out_channels = number(kind, "out_channels", out_channels)
        self.groups = groups = number(kind, "groups", groups)
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"{kind}: groups must divide in_channels {in_channels} and out_channels {out_channels}, got {groups}"
            )
        self.kernel_size = numbers(kind, "kernel_size", kernel_size, self.dims)
        self.stride = numbers(kind, "stride", stride, self.dims)
        self.dilation = numbers(kind, "dilation", dilation, self.dims)
        if isinstance(padding, str):
            check_padding(kind, padding, self.stride)
        self.padding = padding if isinstance(padding, str) else numbers(kind, "padding", padding, self.dims, least=0)
        self.padding_mode, self.activation = padding_mode, activation
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        check_values(kind, shape, base, base_bias, activation, dtype)
        base = base or SeededBase(draw_seed(), "uniform", math.prod(shape[1:]) ** -0.5)
        super().__init__(shape, num_slots, bias, base, base_bias, device, dtype or torch.get_default_dtype())

    @classmethod
    def from_dense(cls, conv: Any, *, num_slots: int | Sequence[str], activation: str = "none") -> Any:
        """A task layer whose base weights, and every slot's starting bias, are those of ``conv``."""
        return cls(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation,
                   conv.groups, conv.bias is not None, conv.padding_mode, num_slots=num_slots,
                   base=StoredBase(conv.weight), base_bias=conv.bias, activation=activation,
                   device=conv.weight.device, dtype=conv.weight.dtype)  # fmt: skip

    def to_dense(self, slot: int | str) -> Any:
        """The ``torch.nn`` convolution like ``slot``, with its :meth:`dense_weight` and bias, without activation."""
        number = self.slot_index(slot)
        dense = self.dense_class(self.in_channels, self.out_channels, self.kernel_size, self.stride, self.padding,
                                 self.dilation, self.groups, self.bias is not None, self.padding_mode,
                                 device=self.flat_values.device, dtype=self.flat_values.dtype)  # fmt: skip
        with torch.no_grad():
            dense.weight.copy_(self.dense_weight(number))
            if self.bias is not None:
                dense.bias.copy_(self.bias[number])
        return dense

    def _window(self) -> tuple[list[int], list[int], list[int], list[int]]:
        """Kernel size, stride, padding and dilation in two dimensions."""
        lift = [1] * (2 - self.dims)
        kernel, stride, dilation = [*lift, *self.kernel_size], [*lift, *self.stride], [*lift, *self.dilation]
        padding = self.padding if isinstance(self.padding, str) else [*[0] * (2 - self.dims), *self.padding]
        return kernel, stride, ops.resolve_padding(padding, kernel, stride, dilation), dilation

    def forward(self, x: Tensor, slots: Tensor | int | str | None = None) -> Tensor:
        """``x`` is ``[B, C, (H,) W]`` (or without ``B``, with one slot), ``slots`` an int, a name, int64 ``[]`` or
        ``[B]``.

        Without ``slots`` those of the enclosing ``with active(slots):`` are used.

        Returns:
            ``[B, O, (H',) W']``.
        """
        return self._run(x, slots, self.activation)

    def _run(self, x: Tensor, slots: Tensor | int | str | None, activation: str) -> Tensor:
        slots = self.resolve_slots(slots, x)
        if x.dim() == self.dims + 1:
            return self._run(x[None], slots, activation)[0]
        if x.dim() != self.dims + 2:
            raise ValueError(f"{type(self).__name__}: x must have {self.dims + 2} dimensions, got {list(x.shape)}")
        kernel, stride, (top, bottom, left, right), dilation = self._window()
        if self.dims == 1:
            x = x.unsqueeze(2)
        if self.probe is not None or self.padding_mode != "zeros":
            sides = (
                (left, right, top, bottom) if self.dims == 2 or self.padding_mode == "zeros" else (left, right, 0, 0)
            )
            x = F.pad(x, sides, _PADDING_MODES[self.padding_mode])
            top = bottom = left = right = 0
        if self.probe is not None:
            y = self._probed(x, slots, stride, dilation, activation)
        else:
            bias, bias_params, bias_slots = self.packed_bias()
            y = ops.task_conv2d(x, self.packed(), slots, bias, kernel_size=kernel, stride=stride,
                                padding=(top, bottom, left, right), dilation=dilation, frozen=self.packed_frozen(),
                                activation=activation, bias_params=bias_params, bias_slots=bias_slots)  # fmt: skip
        return y.squeeze(2) if self.dims == 1 else y

    def _probed(self, x: Tensor, slots: Tensor, stride: list[int], dilation: list[int], activation: str) -> Tensor:
        assert self.probe is not None
        self._check_probe(x, slots)
        kernel = self.probe if self.dims == 2 else self.probe.unsqueeze(2)
        y = F.conv2d(x, kernel, None, stride, 0, dilation, self.groups)
        if self.flat_bias is not None:
            y = y + self.flat_bias[slots].reshape(-1, self.out_channels, 1, 1)
        return y.relu() if activation == "relu" else y

    # A packed row is an output channel, a packed column (kernel position, input channel). A grouped convolution is a
    # convolution whose rows never own columns of other groups' channels: the kernels need not know of groups.

    def _num_columns(self) -> int:
        return math.prod(self.kernel_size) * self.in_channels

    def _to_packed(self, flat: Tensor) -> Tensor:
        places, channels = math.prod(self.kernel_size), self.in_channels // self.groups
        row, rest = flat // (channels * places), flat % (channels * places)
        channel = rest // places + row // (self.out_channels // self.groups) * channels
        return row * self._num_columns() + rest % places * self.in_channels + channel

    def _from_packed(self, rows: Tensor, columns: Tensor) -> Tensor:
        places, channels = math.prod(self.kernel_size), self.in_channels // self.groups
        channel = columns % self.in_channels - rows // (self.out_channels // self.groups) * channels
        return (rows * channels + channel) * places + columns // self.in_channels

    def _derive_index(self, positions: Tensor) -> Tensor:
        return ops.task_conv2d_index(positions, [*[1] * (2 - self.dims), *self.kernel_size])

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}, bias={self.bias is not None}, "
            f"num_slots={self.num_slots}"
        )


class TaskConv2d(_TaskConv):
    """``torch.nn.Conv2d`` whose weights belong to slots (the paper's t x s1 x s2 x c x f kernels under Eq. 3).

    Takes the arguments of ``torch.nn.Conv2d``, and ``num_slots``, ``base`` and ``activation`` as
    :class:`~rsn2_kernels.nn.TaskLinear` does. ``groups > 1`` costs what the owned weights cost, as everything else.
    """

    dims = 2
    dense_class = nn.Conv2d


class TaskConv1d(_TaskConv):
    """``torch.nn.Conv1d`` whose weights belong to slots; see :class:`TaskConv2d`."""

    dims = 1
    dense_class = nn.Conv1d
