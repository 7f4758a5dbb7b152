"""The task-gathered convolution: every image of a batch with the kernels that its own slot owns."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rsn2_kernels._schema import NAMESPACE, operator
from rsn2_kernels.formats import PackedWeight
from rsn2_kernels.ops._calling import call
from rsn2_kernels.ops._checks import check_frozen, check_inputs, check_slots
from rsn2_kernels.reference.task_conv2d import memory_format_of, output_size

_task_conv2d = operator("task_conv2d")


def resolve_padding(
    padding: int | str | Sequence[int], kernel_size: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> list[int]:
    """``[top, bottom, left, right]`` of what ``torch.nn.Conv2d`` accepts: a number, a pair, "valid" or "same".

    "same" puts the odd row or column at the bottom and right, as PyTorch does.
    """
    if isinstance(padding, str):
        if padding == "valid":
            return [0, 0, 0, 0]
        if padding != "same":
            raise ValueError(f'task_conv2d: padding must be "same", "valid" or numbers, got {padding!r}')
        if any(step != 1 for step in stride):
            raise ValueError(f'task_conv2d: padding "same" needs stride 1, got {list(stride)}')
        total = [d * (k - 1) for d, k in zip(dilation, kernel_size, strict=True)]
        return [total[0] // 2, total[0] - total[0] // 2, total[1] // 2, total[1] - total[1] // 2]
    height, width = (padding, padding) if isinstance(padding, int) else padding
    return [height, height, width, width]


def task_conv2d(
    x: Tensor,
    weight: PackedWeight,
    slots: Tensor,
    bias: Tensor | None = None,
    *,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int] = (1, 1),
    frozen: PackedWeight | None = None,
    activation: str = "none",
    bias_params: Sequence[Tensor] = (),
    bias_slots: Sequence[int] = (),
) -> Tensor:
    """Convolve each image of a batch with the kernels that its own slot owns.

    ``y[b, o]`` is ``activation(bias[s, o] + sum over c of conv(x[b, c], weight[s, o, c]))`` over the kernel entries
    that slot ``s = slots[b]`` owns (the paper's t x s1 x s2 x c x f kernels under the masks of Eq. 3).

    Args:
        x: images, ``[B, C, H, W]``; float32, float64, bfloat16 or float16; any strides, channels_last included.
        weight: values and positions of all slots, shape ``(T, O, P * Q * C)``, column ``(p * Q + q) * C + c``.
        slots: int64, ``[]`` or ``[B]``.
        bias: ``[T, O]``, dtype of the values.
        kernel_size: ``(P, Q)``.
        stride: rows and columns between windows.
        padding: zeros added at the top, bottom, left and right.
        dilation: rows and columns between the entries of the kernel.
        frozen: a second packed weight that the same images read too, without gradients.
        activation: ``"none"`` or ``"relu"``, applied after the bias.
        bias_params: the trainable Parameters that view rows of ``bias``, one per slot of ``bias_slots``.
        bias_slots: the slots of ``bias_params``.

    Returns:
        ``[B, O, H', W']``, dtype of ``x``, channels_last where ``x`` is. On a GPU Triton's kernels round float32
        products, and in the gradients too, to TF32 where ``torch.backends.cudnn.conv`` allows it; beside the CUDA
        kernels, which do not, they serve weights claimed in blocks.

    Raises:
        ValueError: a shape, dtype or device does not fit, or the kernel is larger than the padded image.
        IndexError: a slot id is out of range (on the CPU).

    Gradients and determinism are those of :func:`rsn2_kernels.ops.task_linear`. On the CPU in float32, images of a
    slot that reads nearly all of a kernel of 9 positions or more are given to PyTorch's own convolution; there an
    infinite pixel makes NaN of results that it reaches only through weights of others.
    """
    _, num_outputs, num_columns = weight.shape
    kernel_size, stride, padding, dilation = list(kernel_size), list(stride), list(padding), list(dilation)
    for name, pair in (("kernel_size", kernel_size), ("stride", stride), ("dilation", dilation)):
        if len(pair) != 2 or min(pair) < 1:
            raise ValueError(f"task_conv2d: {name} must be two positive numbers, got {pair}")
    if len(padding) != 4 or min(padding) < 0:
        raise ValueError(f"task_conv2d: padding must be [top, bottom, left, right], none negative, got {padding}")
    channels = num_columns // (kernel_size[0] * kernel_size[1])
    if channels * kernel_size[0] * kernel_size[1] != num_columns:
        raise ValueError(f"task_conv2d: kernel_size {kernel_size} must divide the weight's {num_columns} columns")
    if x.dim() != 4 or x.shape[1] != channels:
        raise ValueError(f"task_conv2d: x must have shape [B, {channels}, H, W], got {list(x.shape)}")
    check_inputs("task_conv2d", x, weight, slots, bias, activation)
    check_slots("task_conv2d", slots, x.shape[0])
    if min(output_size((x.shape[2], x.shape[3]), kernel_size, stride, padding, dilation)) < 1:
        raise ValueError(
            f"task_conv2d: x must be at least as large as the kernel, got {list(x.shape[2:])} with padding {padding} "
            f"for kernel_size {kernel_size}, dilation {dilation}"
        )
    return call(
        _task_conv2d,
        x,
        weight.values,
        weight.positions,
        weight.index,
        slots,
        bias,
        check_frozen("task_conv2d", weight, frozen),
        activation,
        num_outputs,
        kernel_size,
        stride,
        padding,
        dilation,
        list(weight.trainable),
        list(weight.trainable_slots),
        list(bias_params),
        list(bias_slots),
    )


def task_conv2d_index(positions: Tensor, kernel_size: Sequence[int]) -> Tensor:
    """What the kernels derive from ``positions``: an opaque int32 tensor, built once per mask."""
    return operator("task_conv2d_index")(positions, list(kernel_size))


@torch.library.register_fake(f"{NAMESPACE}::task_conv2d")
def _task_conv2d_fake(
    x: Tensor,
    values: Tensor,
    positions: Tensor,
    index: Tensor,
    slots: Tensor,
    bias: Tensor | None,
    frozen: list[Tensor],
    activation: str,
    out_channels: int,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    *_parameters: object,
) -> Tensor:
    size = output_size((x.shape[2], x.shape[3]), kernel_size, stride, padding, dilation)
    return torch.empty(
        (x.shape[0], out_channels, *size), dtype=x.dtype, device=x.device, memory_format=memory_format_of(x)
    )


@torch.library.register_fake(f"{NAMESPACE}::task_conv2d_grad_input")
def _task_conv2d_grad_input_fake(
    grad_y: Tensor,
    values: Tensor,
    positions: Tensor,
    index: Tensor,
    slots: Tensor,
    frozen: list[Tensor],
    input_size: list[int],
    *_window: object,
) -> Tensor:
    return torch.empty(
        (grad_y.shape[0], *input_size), dtype=grad_y.dtype, device=grad_y.device, memory_format=memory_format_of(grad_y)
    )
