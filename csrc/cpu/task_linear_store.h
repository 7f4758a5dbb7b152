// A packed store as task_linear's kernels read it: the matrices of the slots that occur in a batch.
#pragma once

#include <atomic>
#include <optional>

#include "task_linear_index.h"
#include "threads.h"

namespace rsn2 {

constexpr int64_t bytes_of(TaskLinearType type) {
  return type == TASK_LINEAR_DOUBLE ? 8 : type == TASK_LINEAR_FLOAT ? 4 : 2;
}
constexpr int64_t sum_bytes_of(TaskLinearType type) { return type == TASK_LINEAR_DOUBLE ? 8 : 4; }

// Rows begin .. end of the grouped order.
TaskLinearRows rows_of_group(TaskLinearRows rows, const RowGroups& groups, int64_t begin, int64_t end);

// Rows have the dtype of the values, or 16 bits beside float32 values.
void check_dtypes(const char* op, const char* name, TaskLinearType type, TaskLinearType values_type);

// Numbers first .. last of `in` converted to the type of the sums, gathered through places when they are given.
void convert_to_sums(TaskLinearType type, const void* in, const int32_t* places, int64_t first, int64_t last,
                     void* out);

// A packed weight in memory.
struct TaskLinearPacked {
  const void* values;  // [num_values] of `type`, all slots
  int64_t num_values;
  TaskLinearType type;
  Positions positions;
  const int32_t* index;  // [num_index_words]
  int64_t num_index_words;
};

class TaskLinearStore {
 public:
  // One matrix for each group of rows. Values that many rows read in the transpose's order are copied into it: memory
  // for the weights of the slots that occur. Throws ValueError for what does not fit.
  TaskLinearStore(const char* op, const TaskLinearPacked& packed, const RowGroups& rows, bool transposed);

  TaskLinearType type() const { return type_; }
  int64_t num_rows() const { return num_rows_; }        // O, or K when transposed
  int64_t num_columns() const { return num_columns_; }  // K, or O when transposed
  int64_t num_slots() const { return num_slots_; }
  int64_t num_weights() const { return num_weights_; }  // of all groups
  const TaskLinearMatrix& matrix(int64_t group) const { return matrices_[group]; }

 private:
  TaskLinearType type_;
  int64_t num_rows_, num_columns_, num_slots_, num_weights_ = 0;
  std::vector<TaskLinearMatrix> matrices_;
  std::optional<Scratch<char>> copies_;
};

constexpr int64_t UNITS_PER_THREAD = 4;  // so that the last unit to end does not keep the other threads waiting long

// Calls work(unit, scratch) for 0 .. num_units - 1 on all threads, each taking the next unit when it is free.
template <class Work>
void share_out(int64_t num_units, int64_t scratch_bytes, const Work& work) {
  const int64_t threads = std::min(num_units, num_threads());
  std::atomic<int64_t> next{0};
  const auto loop = [&](int64_t, int64_t) {
    Scratch<char> scratch(scratch_bytes);
    for (int64_t unit; (unit = next.fetch_add(1, std::memory_order_relaxed)) < num_units;) work(unit, scratch.data());
  };
  if (threads == 1) {
    loop(0, 1);
  } else if (threads > 1) {
    parallel_for(threads, 1, loop);
  }
}

}  // namespace rsn2
