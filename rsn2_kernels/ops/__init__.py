"""Public functions: the contract, the checks, the shapes."""

from rsn2_kernels import _answers, _cuda, triton_kernels
from rsn2_kernels._build import triton_key, triton_key_beside_cuda
from rsn2_kernels._schema import LIBRARY, SCHEMAS
from rsn2_kernels.ops import _grads  # noqa: F401  (registers the shapes of the gradients)
from rsn2_kernels.ops.task_conv2d import resolve_padding, task_conv2d, task_conv2d_index
from rsn2_kernels.ops.task_linear import task_linear, task_linear_index

__all__ = ["resolve_padding", "task_conv2d", "task_conv2d_index", "task_linear", "task_linear_index"]

_key = triton_key()
if _key is not None:
    triton_kernels.register(LIBRARY, _key)
if _cuda.is_loaded():
    _ANSWERS = _answers.register(SCHEMAS, triton_key_beside_cuda())
