"""The list of operators. The compiled library defines them; where it is absent, they are defined here.

The reference is registered as the default implementation of each: it serves every device without a kernel of its own.
"""

from __future__ import annotations

import torch

from rsn2_kernels import _cuda, formats, reference
from rsn2_kernels._build import load_native

NAMESPACE = "rsn2_kernels"

_LINEAR = "Tensor values, Tensor positions, Tensor index, Tensor slots"
_PARAMETERS = "Tensor[] weight_params, int[] weight_slots, Tensor[] bias_params, int[] bias_slots"
_WINDOW = "int[] kernel_size, int[] stride, int[] padding, int[] dilation"

SCHEMAS = {
    "task_linear": f"(Tensor x, {_LINEAR}, Tensor? bias, Tensor[] frozen, str activation, int out_features, "
    f"{_PARAMETERS}) -> Tensor",
    "task_linear_grad_input": f"(Tensor grad_y, {_LINEAR}, Tensor[] frozen, int in_features) -> Tensor",
    "task_linear_grad_values": f"(Tensor x, Tensor grad_y, {_LINEAR}, int[] wanted, int[] num_owned) -> Tensor",
    "task_linear_index": "(Tensor positions) -> Tensor",
    "task_conv2d": f"(Tensor x, {_LINEAR}, Tensor? bias, Tensor[] frozen, str activation, int out_channels, "
    f"{_WINDOW}, {_PARAMETERS}) -> Tensor",
    "task_conv2d_grad_input": f"(Tensor grad_y, {_LINEAR}, Tensor[] frozen, int[] input_size, {_WINDOW}) -> Tensor",
    "task_conv2d_grad_values": f"(Tensor x, Tensor grad_y, {_LINEAR}, int[] wanted, int[] num_owned, "
    f"{_WINDOW}) -> Tensor",
    "task_conv2d_index": "(Tensor positions, int[] kernel_size) -> Tensor",
    "task_grad_bias": "(Tensor grad_y, Tensor slots, int[] wanted) -> Tensor",
}

HAS_NATIVE = load_native()
LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")
for _name, _signature in SCHEMAS.items():
    if not HAS_NATIVE:
        LIBRARY.define(_name + _signature)
    LIBRARY.impl(_name, getattr(reference, _name), "CompositeExplicitAutograd")
if _cuda.is_loaded():
    # The library registers every other kernel itself. A convolution's weights are a matrix like any other.
    LIBRARY.impl("task_linear_index", formats.gather_index, "CUDA")
    LIBRARY.impl("task_conv2d_index", lambda positions, kernel_size: formats.gather_index(positions), "CUDA")


def operator(name: str) -> torch._ops.OpOverload:
    """The operator of that name, as ``torch.ops`` has it."""
    return getattr(torch.ops.rsn2_kernels, name).default
