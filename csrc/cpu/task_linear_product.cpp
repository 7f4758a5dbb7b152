// The products of task_linear, in both directions: work cut into units and shared out, kernels called. Torch-free.
#include "levels.h"
#include "task_linear_run.h"

namespace rsn2 {
namespace {

// Rows of the matrix whose sums the tiles of a unit hold together: 512 KiB, half of a second-level cache. At low
// density one tile holds them all: the weights are read once for each tile, which costs less than to gather the input
// for each 512 rows. At high density four tiles share them.
constexpr int64_t MOST_SUM_ROWS = 2048;
constexpr int64_t MOST_SUM_ROWS_IF_DENSE = 512;
// Bytes of values and columns that no longer stay in the cache from one tile to the next.
constexpr int64_t LARGE_MATRIX = 1 << 20;
// Multiply-adds of whole vectors below which splitting the work further costs more than it saves.
constexpr int64_t SMALL_UNIT = 16384;

}  // namespace

void check_frozen(const char* op, const TaskLinearStore& frozen, const TaskLinearStore& store) {
  check_value(frozen.num_rows() == store.num_rows() && frozen.num_columns() == store.num_columns() &&
                  sum_bytes_of(frozen.type()) == sum_bytes_of(store.type()),
              op, ": frozen must be a store of the same matrix and dtype");
}

Scratch<char> bias_of_groups(const void* bias, const RowGroups& rows, const TaskLinearStore& store) {
  const int64_t O = store.num_rows(), sum_bytes = sum_bytes_of(store.type());
  Scratch<char> result(static_cast<int64_t>(rows.groups.size()) * O * sum_bytes);
  const char* data = static_cast<const char*>(bias);
  for (size_t g = 0; g < rows.groups.size(); ++g) {
    convert_to_sums(store.type(), data + rows.groups[g].slot * O * bytes_of(store.type()), nullptr, 0, O,
                    result.data() + static_cast<int64_t>(g) * O * sum_bytes);
  }
  return result;
}

void task_linear_product(const TaskLinearCall& call) {
  const TaskLinearKernels& kernels = cpu_kernels().linear;
  const int64_t sum_bytes = sum_bytes_of(call.store.type());
  const int64_t lanes = kernels.vector_bytes / sum_bytes;
  const int64_t threads = num_threads();

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
    const bool is_dense = is_large && num_values > m.num_rows * m.num_columns / 5;
    int64_t parts = ceil_div(m.num_rows, is_dense ? MOST_SUM_ROWS_IF_DENSE : MOST_SUM_ROWS);
    int64_t turns =
        is_large ? std::clamp<int64_t>(MOST_SUM_ROWS * parts / std::max<int64_t>(m.num_rows, 1), 1, tiles) : 1;
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

}  // namespace rsn2
