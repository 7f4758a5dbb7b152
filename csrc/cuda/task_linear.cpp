// task_linear on a GPU: tensors checked, a kernel chosen, results and workspace allocated, the kernels started.
#include <algorithm>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "task_linear_dense.h"

namespace rsn2 {
namespace {

constexpr const char* OP = "task_linear";

enum class Route { few, tiles, wide, dense };
struct Choice {
  Route route;
  int tile_rows, splits;
};

#ifdef RSN2_EMULATED
Choice forced_choice = {Route::few, 0, 0};  // no rows: none is forced
#endif

// The smallest width that takes all rows in one tile, else the largest.
template <size_t N>
int width_for(const int (&widths)[N], int64_t num_rows) {
  for (const int width : widths) {
    if (num_rows <= width) return width;
  }
  return widths[N - 1];
}

// Which kernel computes, in tiles of how many rows, in how many parts along the inputs. From shapes and types alone:
// what the slots are is known on the device only. Nor by the mean density of all slots, which a host could reckon: a
// finished task's results must keep their bits when another one claims.
//
// Up to 8 rows the weights' way from memory is the bound: work in proportion to them. Beyond, tensor cores where the
// type has them. In a mixed batch a slot has a fraction of the rows; a quarter is taken, and tiles with fewer rows cost
// less. Parts are made until every multiprocessor has two pieces of work, of no fewer than 4 spans each.
//
// Many rows of one slot are a dense product, see task_linear_dense.h; those of a mixed batch are not.
Choice choose(ScalarType dtype, const Tensor& slots, int64_t num_rows, int64_t num_outputs, int64_t num_inputs) {
#ifdef RSN2_EMULATED
  if (forced_choice.tile_rows) return forced_choice;
#endif
  const bool is_double = dtype == ScalarType::Double;
  if (is_dense_product(dtype, slots, num_rows, num_outputs, num_inputs)) return {Route::dense, 64, 1};
  const int64_t rows_of_slot = slots.dim() == 1 ? ceil_div<int64_t>(num_rows, 4) : num_rows;
  Choice choice = {Route::tiles, 0, 1};
  if (is_double) {
    choice = {Route::wide, 32, 1};
  } else if (num_rows <= 8) {
    choice = {Route::few, width_for(kLinearFewRows, num_rows), 1};
  } else if (dtype != ScalarType::Float) {
    choice.tile_rows = width_for(kLinearTilesRows, rows_of_slot);
  } else if (tf32_is_allowed()) {
    choice.tile_rows = width_for(kLinearTf32Rows, rows_of_slot);
  } else {
    choice = {Route::wide, width_for(kLinearWideRows, rows_of_slot), 1};
  }
  const int64_t pieces = ceil_div<int64_t>(num_rows, choice.tile_rows) * ceil_div<int64_t>(num_outputs, 64);
  const int64_t most_splits = std::max<int64_t>(1, ceil_div<int64_t>(num_inputs, kSpanColumns) / 4);
  choice.splits = int(std::clamp<int64_t>(2 * multiprocessors_of_device() / pieces, 1, most_splits));
  return choice;
}

ScalarType checked_dtypes(ScalarType x, ScalarType values) {
  const bool is_half = x == ScalarType::BFloat16 || x == ScalarType::Half;
  check_value(is_half || x == ScalarType::Float || x == ScalarType::Double, OP,
              ": x must be float32, float64, bfloat16 or float16, got ", torch::headeronly::toString(x));
  check_value(values == x || (is_half && values == ScalarType::Float), OP, ": values must have the dtype of x, ",
              torch::headeronly::toString(x), ", or be float32 beside 16 bits, got ",
              torch::headeronly::toString(values));
  return values;
}

template <typename V>
PackedStore<V> store_of(const OnDevice& device, const Tensor& values, const Tensor& index, const Tensor& positions,
                        ScalarType dtype, int64_t num_outputs, int64_t num_inputs) {
  check_flat(OP, device, "values", values, dtype);
  return {static_cast<const V*>(values.const_data_ptr()),
          gather_index_of(OP, device, index, positions, num_outputs, num_inputs)};
}

struct Arguments {
  const OnDevice& device;
  const Tensor &x, &values, &positions, &index, &slots;
  const Tensor* bias;  // contiguous, or null
  const std::vector<Tensor>& frozen;
  bool relu;
  Tensor& y;
};

template <typename E, typename V>
void compute(const Arguments& a, ScalarType value_dtype) {
  const int64_t num_rows = a.x.size(0), num_inputs = a.x.size(1), num_outputs = a.y.size(1);
  PackedStore<V> weight = store_of<V>(a.device, a.values, a.index, a.positions, value_dtype, num_outputs, num_inputs);
  PackedStore<V> frozen = {nullptr, {nullptr, 0, 0, 0}};
  if (!a.frozen.empty()) {
    frozen = store_of<V>(a.device, a.frozen[0], a.frozen[2], a.frozen[1], value_dtype, num_outputs, num_inputs);
    weight.index.beside_words = frozen.index.words;
  }

  const bool is_mixed = a.slots.dim() == 1;
  const Choice choice = choose(a.x.scalar_type(), a.slots, num_rows, num_outputs, num_inputs);
  const PlannedRows rows = plan_rows(OP, a.device, a.slots, num_rows, weight.index, choice.tile_rows);
  if constexpr (!std::is_same_v<E, double>) {
    if (choice.route == Route::dense) {
      const DenseSlot dense = unpack_slot<E>(a.device, a.x, weight, frozen, a.slots, a.bias, num_outputs, num_inputs);
      return multiply_dense(a.device, a.x, dense, a.relu, a.y);
    }
  }
  const E* x = static_cast<const E*>(a.x.const_data_ptr());
  const bool x_aligned = reinterpret_cast<uintptr_t>(x) % 16 == 0 && a.x.stride(0) * sizeof(E) % 16 == 0;
  TaskLinear<E, V> linear = {x,       a.x.stride(0), x_aligned,  weight,      frozen,        rows.groups, nullptr,
                             nullptr, nullptr,       num_inputs, num_outputs, choice.splits, a.relu};
  if (a.bias) linear.bias = static_cast<const V*>(a.bias->const_data_ptr());
  if (a.bias) linear.bias_slots = int(std::min<int64_t>(a.bias->size(0), INT32_MAX));
  linear.y = static_cast<E*>(a.y.mutable_data_ptr());
  std::vector<Tensor> workspace;
  if (choice.splits > 1) {
    const ScalarType sum_dtype = std::is_same_v<E, double> ? ScalarType::Double : ScalarType::Float;
    workspace.push_back(new_tensor(a.x, {choice.splits, num_rows, num_outputs}, sum_dtype));
    linear.partial = static_cast<typename TaskLinear<E, V>::Sum*>(workspace[0].mutable_data_ptr());
  }
  void* const stream = a.device.launch(1).stream;
  if constexpr (std::is_same_v<E, double>) {
    launch_linear_wide(stream, rows.most_tiles, linear);
  } else if (choice.route == Route::few) {
    launch_linear_few(stream, rows.most_tiles, linear);
  } else if (choice.route == Route::tiles) {
    launch_linear_tiles(stream, rows.most_tiles, linear);
  } else if constexpr (std::is_same_v<E, float>) {
    launch_linear_wide(stream, rows.most_tiles, linear);
  }
  if (choice.splits > 1) launch_linear_finish<E, V>(stream, {linear, is_mixed ? a.slots.stride(0) : 0});
}

void compute_typed(const Arguments& a) {
  const ScalarType value_dtype = checked_dtypes(a.x.scalar_type(), a.values.scalar_type());
  const bool is_wide = value_dtype == ScalarType::Float;
  switch (a.x.scalar_type()) {
    case ScalarType::Float: return compute<float, float>(a, value_dtype);
    case ScalarType::Double: return compute<double, double>(a, value_dtype);
    case ScalarType::BFloat16:
      return is_wide ? compute<BFloat16, float>(a, value_dtype) : compute<BFloat16, BFloat16>(a, value_dtype);
    default: return is_wide ? compute<Float16, float>(a, value_dtype) : compute<Float16, Float16>(a, value_dtype);
  }
}

Tensor task_linear(const Tensor& x,             // [B, I], any strides
                   const Tensor& values,        // [sum of N], all slots
                   const Tensor& positions,     // [words] int64
                   const Tensor& index,         // [words] int32, gather_index(positions)
                   const Tensor& slots,         // [] or [B] int64
                   std::optional<Tensor> bias,  // [T, O]
                   std::vector<Tensor> frozen,  // [] or [values, positions, index]
                   std::string activation,      // "none" or "relu"
                   int64_t out_features,        // O
                   std::vector<Tensor>,         // weight_params and the three after it carry autograd only
                   std::vector<int64_t>, std::vector<Tensor>, std::vector<int64_t>) {
  const OnDevice device(OP, "x", x);
  check_value(x.dim() == 2, OP, ": x must have shape [B, I], got ", x.dim(), " dimensions");
  check_value(out_features >= 0, OP, ": out_features must not be negative, got ", out_features);
  check_value(activation == "none" || activation == "relu", OP, ": activation must be 'none' or 'relu', got '",
              activation, "'");
  check_value(frozen.empty() || frozen.size() == 3, OP, ": frozen must be [] or [values, positions, index], got ",
              frozen.size(), " tensors");
  if (triton_serves(x, index, frozen, x.size(1))) {
    return served_by_triton(OP, x, values, positions, index, slots, bias, frozen, activation, out_features,
                            std::vector<Tensor>(), std::vector<int64_t>(), std::vector<Tensor>(),
                            std::vector<int64_t>());
  }
  check_flat(OP, device, "positions", positions, ScalarType::Long);
  if (bias) {
    device.check("bias", *bias);
    check_value(bias->dim() == 2 && bias->size(1) == out_features && bias->scalar_type() == values.scalar_type(), OP,
                ": bias must be [T, ", out_features, "] with the dtype of values");
    bias = torch::stable::contiguous(*bias);
  }
  Tensor y = new_tensor(x, {x.size(0), out_features}, x.scalar_type());
  const Tensor rows = x.stride(1) == 1 || x.size(1) <= 1 ? x : torch::stable::contiguous(x);
  if (y.numel() == 0) {
    checked_dtypes(x.scalar_type(), values.scalar_type());
    return y;
  }
  compute_typed(
      {device, rows, values, positions, index, slots, bias ? &*bias : nullptr, frozen, activation == "relu", y});
  return y;
}

#ifdef RSN2_EMULATED
// For tests: this kernel from now on, for every call; no rows: the table's choice again.
void force_route(std::string kernel, int64_t tile_rows, int64_t splits) {
  const Route route = kernel == "few" ? Route::few : kernel == "tiles" ? Route::tiles : Route::wide;
  forced_choice = {route, int(tile_rows), int(splits)};
}
#endif

}  // namespace
}  // namespace rsn2

RSN2_CUDA_OPS(m) { m.impl("task_linear", TORCH_BOX(&rsn2::task_linear)); }

#ifdef RSN2_EMULATED
STABLE_TORCH_LIBRARY_IMPL(rsn2_emulated, CompositeExplicitAutograd, m) {
  m.impl("task_linear_route", TORCH_BOX(&rsn2::force_route));
}
#endif
