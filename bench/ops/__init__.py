"""One file per operator, as in rsn2_kernels/ops."""
