// task_linear and its gradients on the CPU: checks, rows grouped by slot, work shared out, kernels called.
#include "task_linear.h"

#include "task_linear_store.h"

namespace rsn2 {
namespace {

// Rows of the matrix whose sums a tile of batch rows holds: 256 KiB, in the second-level cache.
constexpr int64_t MOST_SUM_ROWS = 1024;
// Bytes of values and columns that no longer stay in the cache from one tile to the next.
constexpr int64_t LARGE_MATRIX = 1 << 20;
// Multiply-adds of whole vectors below which splitting the work further costs more than it saves.
constexpr int64_t SMALL_UNIT = 16384;

// Everything a product of either direction needs.
struct ProductCall {
  const char* op;
  TaskLinearRows in, out;
  const RowGroups& groups;
  const TaskLinearStore& store;
  const TaskLinearStore* frozen;
  const char* bias;  // [groups, rows of the matrix] in the sums' type, or null
  bool relu;
};

void run_product(const ProductCall& call) {
  const TaskLinearKernels& kernels = cpu_kernels().linear;
  const int64_t sum_bytes = sum_bytes_of(call.store.type());
  const int64_t lanes = kernels.vector_bytes / sum_bytes;
  const int64_t threads = torch::stable::get_num_threads();

  struct Unit {
    int64_t group, begin, end, first_panel, last_panel;
  };
  std::vector<Unit> units;
  int64_t num_all_tiles = 0, scratch_bytes = 0;
  const int64_t tile_rows = lanes * kernels.max_vectors;
  for (const RowGroup& group : call.groups.groups) num_all_tiles += ceil_div(group.end - group.begin, tile_rows);
  for (int64_t g = 0; g < static_cast<int64_t>(call.groups.groups.size()); ++g) {
    const RowGroup& group = call.groups.groups[g];
    const TaskLinearMatrix& m = call.store.matrix(g);
    const int64_t num_values = m.num_values + (call.frozen ? call.frozen->matrix(g).num_values : 0);
    const int64_t rows = group.end - group.begin, tiles = ceil_div(rows, tile_rows);
    const bool is_large = num_values * (sum_bytes + 1) > LARGE_MATRIX;
    // Panels of one unit, and tiles that take turns on them.
    int64_t parts = ceil_div(m.num_rows, is_large ? MOST_SUM_ROWS / 2 : MOST_SUM_ROWS);
    int64_t turns =
        is_large ? std::clamp<int64_t>(2 * MOST_SUM_ROWS * parts / std::max<int64_t>(m.num_rows, 1), 1, tiles) : 1;
    if (threads > 1) {
      turns = std::clamp<int64_t>(num_all_tiles * parts / (2 * threads), 1, turns);
      const int64_t work = (num_values + m.num_rows) * ceil_div(std::min(rows, tile_rows), lanes);
      parts = std::max(parts, std::min(ceil_div(UNITS_PER_THREAD * threads, num_all_tiles), work / SMALL_UNIT));
    }
    parts = std::clamp<int64_t>(parts, 1, std::max<int64_t>(m.num_panels, 1));
    const int64_t shares = ceil_div(tiles, turns);
    // Rows are cut at whole vectors, shared out evenly.
    const int64_t vectors = ceil_div(rows, lanes);
    for (int64_t share = 0; share < shares; ++share) {
      const int64_t begin = group.begin + vectors * share / shares * lanes;
      const int64_t end = std::min(group.end, group.begin + vectors * (share + 1) / shares * lanes);
      for (int64_t part = 0; part < parts; ++part) {
        units.push_back({g, begin, end, m.num_panels * part / parts, m.num_panels * (part + 1) / parts});
      }
      scratch_bytes = std::max(scratch_bytes, task_linear_product_bytes(kernels, m.block_columns,
                                                                        ceil_div(m.num_panels, parts) * m.panel_rows,
                                                                        ceil_div(end - begin, tile_rows)));
    }
  }
  share_out(static_cast<int64_t>(units.size()), scratch_bytes, [&](int64_t i, char* scratch) {
    const Unit& unit = units[i];
    const TaskLinearMatrix& m = call.store.matrix(unit.group);
    TaskLinearProduct task{};
    task.stores[0] = &m;
    task.stores[1] = call.frozen ? &call.frozen->matrix(unit.group) : nullptr;
    task.in = rows_of_group(call.in, call.groups, unit.begin, unit.end);
    task.out = rows_of_group(call.out, call.groups, unit.begin, unit.end);
    task.bias = call.bias ? call.bias + unit.group * m.num_rows * sum_bytes : nullptr;
    task.relu = call.relu;
    task.first_panel = unit.first_panel;
    task.last_panel = unit.last_panel;
    task.scratch = scratch;
    kernels.product(task);
  });
  count_weights_read(call.op, call.store.num_weights() + (call.frozen ? call.frozen->num_weights() : 0));
}

// The second store, when there is one: of the same matrix, with values that are summed in the same type.
std::optional<TaskLinearStore> frozen_store(const char* op, const std::vector<Tensor>& frozen, const RowGroups& rows,
                                            bool transposed, const TaskLinearStore& store) {
  check_value(frozen.empty() || frozen.size() == 3, op, ": frozen must be [] or [values, positions, index], got ",
              frozen.size(), " tensors");
  if (frozen.empty()) return std::nullopt;
  std::optional<TaskLinearStore> result(std::in_place, op, frozen[0], frozen[1], frozen[2], rows, transposed);
  check_value(result->num_rows() == store.num_rows() && result->num_columns() == store.num_columns() &&
                  sum_bytes_of(result->type()) == sum_bytes_of(store.type()),
              op, ": frozen must be a store of the same matrix and dtype");
  return result;
}

// The bias rows of the groups' slots, [groups, O] in the sums' type.
Scratch<char> bias_of_groups(const char* op, const Tensor& bias, const RowGroups& rows, const TaskLinearStore& store) {
  const int64_t T = store.num_slots(), O = store.num_rows(), sum_bytes = sum_bytes_of(store.type());
  check_value(bias.is_cpu() && bias.dim() == 2 && bias.size(0) == T && bias.size(1) == O && bias.is_contiguous(), op,
              ": bias must be a contiguous [", T, ", ", O, "] on the CPU");
  check_value(task_linear_type(op, "bias", bias) == store.type(), op, ": bias must have the dtype of values");
  Scratch<char> result(static_cast<int64_t>(rows.groups.size()) * O * sum_bytes);
  const char* data = static_cast<const char*>(bias.const_data_ptr());
  for (size_t g = 0; g < rows.groups.size(); ++g) {
    convert_to_sums(store.type(), data + rows.groups[g].slot * O * bytes_of(store.type()), nullptr, 0, O,
                    result.data() + static_cast<int64_t>(g) * O * sum_bytes);
  }
  return result;
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
  const TaskLinearStore store(OP, values, positions, index, groups, false);
  check_dtypes(OP, "x", in.type, store.type());
  const std::optional<TaskLinearStore> second = frozen_store(OP, frozen, groups, false, store);
  std::optional<Scratch<char>> group_bias;
  if (bias) group_bias.emplace(bias_of_groups(OP, *bias, groups, store));

  const Tensor y = torch::stable::new_empty(x, {in.num_rows, shape.O});
  run_product({OP, in, rows_of(OP, "y", y, shape.O), groups, store, second ? &*second : nullptr,
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
  const TaskLinearStore store(OP, values, positions, index, groups, true);
  check_dtypes(OP, "grad_y", in.type, store.type());
  const std::optional<TaskLinearStore> second = frozen_store(OP, frozen, groups, true, store);

  const Tensor grad_x = torch::stable::new_empty(grad_y, {in.num_rows, shape.K});
  run_product(
      {OP, in, rows_of(OP, "grad_x", grad_x, shape.K), groups, store, second ? &*second : nullptr, nullptr, false});
  return grad_x;
}

}  // namespace
}  // namespace rsn2

STABLE_TORCH_LIBRARY_IMPL(rsn2_kernels, CPU, m) {
  m.impl("task_linear", TORCH_BOX(&rsn2::task_linear));
  m.impl("task_linear_grad_input", TORCH_BOX(&rsn2::task_linear_grad_input));
}
