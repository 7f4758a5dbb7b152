#include "tensors.h"

namespace rsn2 {

void check_flat(const char* op, const char* name, const Tensor& tensor, ScalarType dtype) {
  check_value(tensor.is_cpu(), op, ": ", name, " must be on the CPU");
  check_value(tensor.scalar_type() == dtype, op, ": ", name, " must be ", torch::headeronly::toString(dtype), ", got ",
              torch::headeronly::toString(tensor.scalar_type()));
  check_value(tensor.dim() == 1, op, ": ", name, " must have 1 dimension, got ", tensor.dim());
  check_value(tensor.is_contiguous(), op, ": ", name, " must be contiguous");
}

Positions parse_positions(const char* op, const Tensor& positions) {
  check_flat(op, "positions", positions, ScalarType::Long);
  return parse_positions(op, positions.const_data_ptr<int64_t>(), positions.numel());
}

RowGroups group_rows(const char* op, const Tensor& slots, int64_t num_rows, int64_t num_slots) {
  check_value(slots.is_cpu(), op, ": slots must be on the CPU");
  check_value(slots.scalar_type() == ScalarType::Long, op, ": slots must be int64, got ",
              torch::headeronly::toString(slots.scalar_type()));
  const bool is_one = slots.dim() == 0;
  check_value(is_one || (slots.dim() == 1 && slots.size(0) == num_rows), op, ": slots must have shape [] or [",
              num_rows, "]");
  return group_rows(op, {slots.const_data_ptr<int64_t>(), is_one ? 0 : slots.stride(0), is_one}, num_rows, num_slots);
}

}  // namespace rsn2
