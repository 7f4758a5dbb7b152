// The operators' schemas. Their CPU kernels are registered beside their host sides in csrc/cpu/.
//
// rsn2_kernels/_schema.py holds the same list for installations without this library; a test compares the two.
#include <torch/csrc/stable/library.h>

#include "build_id.h"

const char* rsn2::library_build_id() { return RSN2_BUILD_ID; }

STABLE_TORCH_LIBRARY(rsn2_kernels, m) {
  m.def(
      "task_linear(Tensor x, Tensor values, Tensor positions, Tensor index, Tensor slots, Tensor? bias, "
      "Tensor[] frozen, str activation, int out_features, Tensor[] weight_params, int[] weight_slots, "
      "Tensor[] bias_params, int[] bias_slots) -> Tensor");
  m.def(
      "task_linear_grad_input(Tensor grad_y, Tensor values, Tensor positions, Tensor index, Tensor slots, "
      "Tensor[] frozen, int in_features) -> Tensor");
  m.def(
      "task_linear_grad_values(Tensor x, Tensor grad_y, Tensor values, Tensor positions, Tensor index, Tensor slots, "
      "int[] wanted, int[] num_owned) -> Tensor");
  m.def("task_linear_index(Tensor positions) -> Tensor");
  m.def(
      "task_conv2d(Tensor x, Tensor values, Tensor positions, Tensor index, Tensor slots, Tensor? bias, "
      "Tensor[] frozen, str activation, int out_channels, int[] kernel_size, int[] stride, int[] padding, "
      "int[] dilation, Tensor[] weight_params, int[] weight_slots, Tensor[] bias_params, int[] bias_slots) -> Tensor");
  m.def(
      "task_conv2d_grad_input(Tensor grad_y, Tensor values, Tensor positions, Tensor index, Tensor slots, "
      "Tensor[] frozen, int[] input_size, int[] kernel_size, int[] stride, int[] padding, int[] dilation) -> Tensor");
  m.def(
      "task_conv2d_grad_values(Tensor x, Tensor grad_y, Tensor values, Tensor positions, Tensor index, Tensor slots, "
      "int[] wanted, int[] num_owned, int[] kernel_size, int[] stride, int[] padding, int[] dilation) -> Tensor");
  m.def("task_conv2d_index(Tensor positions, int[] kernel_size) -> Tensor");
  m.def("task_grad_bias(Tensor grad_y, Tensor slots, int[] wanted) -> Tensor");
}
