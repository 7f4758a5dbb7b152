#include "task_linear_store.h"

#include "task_conv2d_numbers.h"

namespace rsn2 {

// With more rows in a group, values not in the transpose's order are first copied into it: each tile of rows reads them
// again, and finding them through their places costs it about a sixth more.
constexpr int64_t MOST_ROWS_THROUGH_PLACES = 192;

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
    for (int64_t i = first; i < last; ++i) to[i] = as_sum(from[places[i]]);
  } else {
    for (int64_t i = first; i < last; ++i) to[i] = as_sum(from[i]);
  }
}

}  // namespace

void convert_to_sums(TaskLinearType type, const void* in, const int32_t* places, int64_t first, int64_t last,
                     void* out) {
  switch (type) {
    case TASK_LINEAR_FLOAT: return convert<float, float>(in, places, first, last, out);
    case TASK_LINEAR_DOUBLE: return convert<double, double>(in, places, first, last, out);
    case TASK_LINEAR_BFLOAT16: return convert<ConvBFloat16, float>(in, places, first, last, out);
    case TASK_LINEAR_FLOAT16: return convert<ConvFloat16, float>(in, places, first, last, out);
  }
}

TaskLinearStore::TaskLinearStore(const char* op, const TaskLinearPacked& packed, const RowGroups& rows, bool transposed)
    : type_(packed.type) {
  const Positions& positions = packed.positions;
  num_slots_ = positions.T;
  num_rows_ = transposed ? positions.K : positions.O;
  num_columns_ = transposed ? positions.O : positions.K;
  const TaskLinearIndex view(op, packed.index, packed.num_index_words, positions);
  const char* data = static_cast<const char*>(packed.values);

  struct Copy {
    size_t group;
    int64_t start;
  };
  std::vector<Copy> copies;
  int64_t num_copied = 0;
  for (const RowGroup& group : rows.groups) {
    check_value(group.slot < positions.T, op, ": the store has ", positions.T, " slots, slot ", group.slot,
                " is none of them");
    check_slot(op, positions, group.slot, packed.num_values);
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
  parallel_for(num_copied, 32768, [&](int64_t first, int64_t last) {
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
