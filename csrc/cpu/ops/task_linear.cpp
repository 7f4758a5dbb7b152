// task_linear, its gradients and its index as operators: tensors checked, results allocated, the core called.
#include "../task_linear_run.h"

#include <optional>

#include "tensors.h"

namespace rsn2 {
namespace {

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

TaskLinearPacked packed_of(const char* op, const Tensor& values, const Tensor& positions, const Tensor& index) {
  const TaskLinearType type = task_linear_type(op, "values", values);
  check_flat(op, "values", values, values.scalar_type());
  const Positions parsed = parse_positions(op, positions);
  check_flat(op, "index", index, ScalarType::Int);
  return {values.const_data_ptr(), values.numel(), type, parsed, index.const_data_ptr<int32_t>(), index.numel()};
}

// The second store, when there is one.
std::optional<TaskLinearStore> frozen_store(const char* op, const std::vector<Tensor>& frozen, const RowGroups& rows,
                                            bool transposed, const TaskLinearStore& store) {
  check_value(frozen.empty() || frozen.size() == 3, op, ": frozen must be [] or [values, positions, index], got ",
              frozen.size(), " tensors");
  if (frozen.empty()) return std::nullopt;
  std::optional<TaskLinearStore> result(std::in_place, op, packed_of(op, frozen[0], frozen[1], frozen[2]), rows,
                                        transposed);
  check_frozen(op, *result, store);
  return result;
}

Scratch<char> checked_bias(const char* op, const Tensor& bias, const RowGroups& rows, const TaskLinearStore& store) {
  const int64_t T = store.num_slots(), O = store.num_rows();
  check_value(bias.is_cpu() && bias.dim() == 2 && bias.size(0) == T && bias.size(1) == O && bias.is_contiguous(), op,
              ": bias must be a contiguous [", T, ", ", O, "] on the CPU");
  check_value(task_linear_type(op, "bias", bias) == store.type(), op, ": bias must have the dtype of values");
  return bias_of_groups(bias.const_data_ptr(), rows, store);
}

Tensor task_linear(const Tensor& x,             // [B, I], any strides
                   const Tensor& values,        // [sum of N], all slots
                   const Tensor& positions,     // [words] int64
                   const Tensor& index,         // [words] int32, task_linear_index(positions)
                   const Tensor& slots,         // [] or [B] int64
                   std::optional<Tensor> bias,  // [T, O]
                   std::vector<Tensor> frozen,  // [] or [values, positions, index]
                   std::string activation,      // "none" or "relu"
                   int64_t out_features,        // O
                   std::vector<Tensor>,         // weight_params and the three after it carry autograd only
                   std::vector<int64_t>, std::vector<Tensor>, std::vector<int64_t>) {
  constexpr const char* OP = "task_linear";
  const Positions shape = parse_positions(OP, positions);
  check_value(out_features == shape.O, OP, ": out_features must be ", shape.O, ", got ", out_features);
  check_value(activation == "none" || activation == "relu", OP, ": activation must be 'none' or 'relu', got '",
              activation, "'");
  const TaskLinearRows in = rows_of(OP, "x", x, shape.K);
  const RowGroups groups = group_rows(OP, slots, in.num_rows, shape.T);
  const TaskLinearStore store(OP, packed_of(OP, values, positions, index), groups, false);
  check_dtypes(OP, "x", in.type, store.type());
  const std::optional<TaskLinearStore> second = frozen_store(OP, frozen, groups, false, store);
  std::optional<Scratch<char>> group_bias;
  if (bias) group_bias.emplace(checked_bias(OP, *bias, groups, store));

  const Tensor y = torch::stable::new_empty(x, {in.num_rows, shape.O});
  task_linear_product({OP, in, rows_of(OP, "y", y, shape.O), groups, store, second ? &*second : nullptr,
                       group_bias ? group_bias->data() : nullptr, activation == "relu"});
  return y;
}

Tensor task_linear_grad_input(const Tensor& grad_y,        // [B, O], any strides
                              const Tensor& values,        // [sum of N], all slots
                              const Tensor& positions,     // [words] int64
                              const Tensor& index,         // [words] int32, task_linear_index(positions)
                              const Tensor& slots,         // [] or [B] int64
                              std::vector<Tensor> frozen,  // [] or [values, positions, index]
                              int64_t in_features          // I
) {
  constexpr const char* OP = "task_linear_grad_input";
  const Positions shape = parse_positions(OP, positions);
  check_value(in_features == shape.K, OP, ": in_features must be ", shape.K, ", got ", in_features);
  const TaskLinearRows in = rows_of(OP, "grad_y", grad_y, shape.O);
  const RowGroups groups = group_rows(OP, slots, in.num_rows, shape.T);
  const TaskLinearStore store(OP, packed_of(OP, values, positions, index), groups, true);
  check_dtypes(OP, "grad_y", in.type, store.type());
  const std::optional<TaskLinearStore> second = frozen_store(OP, frozen, groups, true, store);

  const Tensor grad_x = torch::stable::new_empty(grad_y, {in.num_rows, shape.K});
  task_linear_product(
      {OP, in, rows_of(OP, "grad_x", grad_x, shape.K), groups, store, second ? &*second : nullptr, nullptr, false});
  return grad_x;
}

Tensor task_linear_grad_values(const Tensor& x,                // [B, I], any strides
                               const Tensor& grad_y,           // [B, O], any strides
                               const Tensor& values,           // [sum of N], all slots; only its dtype matters
                               const Tensor& positions,        // [words] int64
                               const Tensor& index,            // [words] int32, task_linear_index(positions)
                               const Tensor& slots,            // [] or [B] int64
                               std::vector<int64_t> wanted,    // slots whose values want a gradient
                               std::vector<int64_t> num_owned  // how many weights each of them owns
) {
  constexpr const char* OP = "task_linear_grad_values";
  const Positions shape = parse_positions(OP, positions);
  const TaskLinearRows x_rows = rows_of(OP, "x", x, shape.K), grad_rows = rows_of(OP, "grad_y", grad_y, shape.O);
  check_value(x_rows.num_rows == grad_rows.num_rows && x_rows.type == grad_rows.type, OP,
              ": x and grad_y must have the same rows and dtype");
  const TaskLinearType type = task_linear_type(OP, "values", values);
  check_dtypes(OP, "x", x_rows.type, type);
  const RowGroups groups = group_rows(OP, slots, x_rows.num_rows, shape.T);
  check_flat(OP, "index", index, ScalarType::Int);
  const TaskLinearIndex view(OP, index.const_data_ptr<int32_t>(), index.numel(), shape);
  const int64_t num_wanted = count_wanted(OP, shape, values.numel(), wanted, num_owned);
  const Tensor grads = torch::stable::new_empty(values, {num_wanted});
  task_linear_sampled({OP, x_rows, grad_rows, groups, shape, view, type, wanted, grads.mutable_data_ptr()});
  return grads;
}

Tensor task_linear_index(const Tensor& positions) {  // [words] int64
  const TaskLinearIndexBuilder builder(parse_positions("task_linear_index", positions));
  const Tensor index = torch::stable::new_empty(positions, {builder.num_words()}, ScalarType::Int);
  builder.write(index.mutable_data_ptr<int32_t>());
  return index;
}

}  // namespace
}  // namespace rsn2

STABLE_TORCH_LIBRARY_IMPL(rsn2_kernels, CPU, m) {
  m.impl("task_linear", TORCH_BOX(&rsn2::task_linear));
  m.impl("task_linear_grad_input", TORCH_BOX(&rsn2::task_linear_grad_input));
  m.impl("task_linear_grad_values", TORCH_BOX(&rsn2::task_linear_grad_values));
  m.impl("task_linear_index", TORCH_BOX(&rsn2::task_linear_index));
}
