#include "task_linear_store.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

namespace rsn2 {

// With more rows in a group, values not in the transpose's order are first copied into it: each tile of rows reads them
// again, and finding them through their places costs it about a sixth more.
constexpr int64_t MOST_ROWS_THROUGH_PLACES = 192;

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

TaskLinearType task_linear_type(const char* op, const char* name, const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return TASK_LINEAR_FLOAT;
    case ScalarType::Double: return TASK_LINEAR_DOUBLE;
    case ScalarType::BFloat16: return TASK_LINEAR_BFLOAT16;
    case ScalarType::Half: return TASK_LINEAR_FLOAT16;
    default:
      throw_value_error(op, ": ", name, " must be float32, float64, bfloat16 or float16, got ",
                        torch::headeronly::toString(tensor.scalar_type()));
  }
}

// A matrix [B, width] that a kernel reads or writes.
TaskLinearRows rows_of(const char* op, const char* name, const Tensor& tensor, int64_t width) {
  check_value(tensor.is_cpu(), op, ": ", name, " must be on the CPU");
  check_value(tensor.dim() == 2 && tensor.size(1) == width, op, ": ", name, " must have shape [B, ", width, "]");
  const TaskLinearType type = task_linear_type(op, name, tensor);
  return {tensor.data_ptr(), tensor.stride(0), tensor.stride(1), nullptr, 0, tensor.size(0), type};
}

TaskLinearRows rows_of_group(TaskLinearRows rows, const RowGroups& groups, int64_t begin, int64_t end) {
  rows.rows = groups.rows() ? groups.rows() + begin : nullptr;
  rows.first_row = begin;
  rows.num_rows = end - begin;
  return rows;
}

void check_dtypes(const char* op, const char* name, TaskLinearType type, TaskLinearType values_type) {
  const bool is_16_bit = type == TASK_LINEAR_BFLOAT16 || type == TASK_LINEAR_FLOAT16;
  check_value(type == values_type || (is_16_bit && values_type == TASK_LINEAR_FLOAT), op, ": ", name,
              " must have the dtype of values, or be bfloat16 or float16 beside float32 values");
}

namespace {

template <class In, class Out>
void convert(const void* in, const int32_t* places, int64_t first, int64_t last, void* out) {
  const In* from = static_cast<const In*>(in);
  Out* to = static_cast<Out*>(out);
  if (places) {
    for (int64_t i = first; i < last; ++i) to[i] = static_cast<Out>(from[places[i]]);
  } else {
    for (int64_t i = first; i < last; ++i) to[i] = static_cast<Out>(from[i]);
  }
}

}  // namespace

void convert_to_sums(TaskLinearType type, const void* in, const int32_t* places, int64_t first, int64_t last,
                     void* out) {
  switch (type) {
    case TASK_LINEAR_FLOAT: return convert<float, float>(in, places, first, last, out);
    case TASK_LINEAR_DOUBLE: return convert<double, double>(in, places, first, last, out);
    case TASK_LINEAR_BFLOAT16: return convert<BFloat16, float>(in, places, first, last, out);
    case TASK_LINEAR_FLOAT16: return convert<Half, float>(in, places, first, last, out);
  }
}

TaskLinearStore::TaskLinearStore(const char* op, const Tensor& values, const Tensor& positions_tensor,
                                 const Tensor& index, const RowGroups& rows, bool transposed)
    : type_(task_linear_type(op, "values", values)) {
  check_flat(op, "values", values, values.scalar_type());
  const Positions positions = parse_positions(op, positions_tensor);
  num_slots_ = positions.T;
  num_rows_ = transposed ? positions.K : positions.O;
  num_columns_ = transposed ? positions.O : positions.K;
  const TaskLinearIndex view(op, "index", index, positions);
  const char* data = static_cast<const char*>(values.const_data_ptr());

  struct Copy {
    size_t group;
    int64_t start;
  };
  std::vector<Copy> copies;
  int64_t num_copied = 0;
  for (const RowGroup& group : rows.groups) {
    check_value(group.slot < positions.T, op, ": the store has ", positions.T, " slots, slot ", group.slot,
                " is none of them");
    check_slot(op, positions, group.slot, values.numel());
    TaskLinearMatrix m = view.matrix(group.slot, transposed);
    m.values = data + positions.value_starts[group.slot] * bytes_of(type_);
    m.value_type = type_;
    num_weights_ += m.num_values;
    if (m.places && group.end - group.begin > MOST_ROWS_THROUGH_PLACES) {
      copies.push_back({matrices_.size(), num_copied});
      num_copied += m.num_values;
    }
    matrices_.push_back(m);
  }
  if (num_copied == 0) return;
  const int64_t sum_bytes = sum_bytes_of(type_);
  copies_.emplace(num_copied * sum_bytes);
  torch::stable::parallel_for(0, num_copied, 32768, [&](int64_t first, int64_t last) {
    for (const Copy& copy : copies) {
      const TaskLinearMatrix& m = matrices_[copy.group];
      const int64_t from = std::max<int64_t>(first - copy.start, 0), to = std::min(last - copy.start, m.num_values);
      if (from < to) {
        convert_to_sums(type_, m.values, m.places, from, to, copies_->data() + copy.start * sum_bytes);
      }
    }
  });
  for (const Copy& copy : copies) {
    TaskLinearMatrix& m = matrices_[copy.group];
    m.values = copies_->data() + copy.start * sum_bytes;
    m.value_type = type_ == TASK_LINEAR_DOUBLE ? TASK_LINEAR_DOUBLE : TASK_LINEAR_FLOAT;
    m.places = nullptr;
  }
}

}  // namespace rsn2
