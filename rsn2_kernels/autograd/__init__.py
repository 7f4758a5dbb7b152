"""Gradients, registered on the operators, so that every caller has them."""

from rsn2_kernels.autograd import task_conv2d, task_linear  # noqa: F401  (registers the formulas)
