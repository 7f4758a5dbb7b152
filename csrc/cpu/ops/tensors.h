// From tensors to what the core takes: the checks that read a tensor's own facts.
//
// Only csrc/cpu/ops/ knows libtorch, by its stable ABI: it checks tensors, allocates results and registers the ops.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "../host.h"

namespace rsn2 {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// A tensor that a kernel reads by pointer: on the CPU, of this dtype and number of dimensions, contiguous.
void check_flat(const char* op, const char* name, const Tensor& tensor, ScalarType dtype);

// As host.h has them. Throw ValueError for another shape or dtype as well.
Positions parse_positions(const char* op, const Tensor& positions);  // [words] int64
RowGroups group_rows(const char* op, const Tensor& slots,            // [] or [B] int64, any stride
                     int64_t num_rows, int64_t num_slots);

}  // namespace rsn2
