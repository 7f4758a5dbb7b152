// task_linear over a whole batch: from the batch's rows, grouped by slot, to calls of the kernels. Torch-free, so that
// a plain C++ program can drive the kernels.
#pragma once

#include "task_linear_store.h"

namespace rsn2 {

// A product of either direction: out = activation(in times the store's matrices + bias).
struct TaskLinearCall {
  const char* op;
  TaskLinearRows in, out;
  const RowGroups& groups;
  const TaskLinearStore& store;
  const TaskLinearStore* frozen;  // or nullptr
  const char* bias;               // bias_of_groups, or nullptr
  bool relu;
};

void task_linear_product(const TaskLinearCall& call);

// The second store must be of the same matrix, with values that are summed in the same type; throws ValueError.
void check_frozen(const char* op, const TaskLinearStore& frozen, const TaskLinearStore& store);

// The bias rows of the groups' slots, [groups, O] in the sums' type, from all rows [T, O] of the values' type.
Scratch<char> bias_of_groups(const void* bias, const RowGroups& rows, const TaskLinearStore& store);

// The gradient of the wanted slots' values, one slot after another; zeros for a slot without rows.
struct TaskLinearSampledCall {
  const char* op;
  TaskLinearRows x, grad_y;
  const RowGroups& groups;
  const Positions& positions;
  const TaskLinearIndex& index;
  TaskLinearType type;  // of the values
  const std::vector<int64_t>& wanted;
  void* grads;  // [count_wanted]
};

void task_linear_sampled(const TaskLinearSampledCall& call);

// Weights that the wanted slots own together. Throws IndexError for a slot there is not, ValueError where num_owned is
// not what the positions say.
int64_t count_wanted(const char* op, const Positions& positions, int64_t num_values, const std::vector<int64_t>& wanted,
                     const std::vector<int64_t>& num_owned);

}  // namespace rsn2
