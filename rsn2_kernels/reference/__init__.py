"""What every operator means, in plain PyTorch; also the implementation wherever there is no kernel."""

from rsn2_kernels.reference.task_conv2d import (
    task_conv2d,
    task_conv2d_grad_input,
    task_conv2d_grad_values,
    task_conv2d_index,
)
from rsn2_kernels.reference.task_grad_bias import task_grad_bias
from rsn2_kernels.reference.task_linear import (
    task_linear,
    task_linear_grad_input,
    task_linear_grad_values,
    task_linear_index,
)

__all__ = [
    "task_conv2d",
    "task_conv2d_grad_input",
    "task_conv2d_grad_values",
    "task_conv2d_index",
    "task_grad_bias",
    "task_linear",
    "task_linear_grad_input",
    "task_linear_grad_values",
    "task_linear_index",
]
