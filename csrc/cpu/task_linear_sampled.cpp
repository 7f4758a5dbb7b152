// The gradient of task_linear's values: the owned weights of the wanted slots shared out over the threads. Torch-free.
#include "levels.h"
#include "task_linear_run.h"

namespace rsn2 {
namespace {

constexpr int64_t MOST_SAMPLED = 65536;    // weights whose gradients one unit of work holds: in the second-level cache
constexpr int64_t MOST_PANEL_ROWS = 1024;  // and rows of grad_y that it holds a tile of, likewise

struct Unit {
  int64_t group, first_panel, last_panel, first_block, last_block;
};

int64_t scratch_bytes_of(const TaskLinearKernels& kernels, const TaskLinearMatrix& m, const Unit& unit,
                         int64_t sum_bytes) {
  int64_t num_values = 0, num_pieces = 0;
  for (int64_t block = unit.first_block; block < unit.last_block; ++block) {
    const TaskLinearStart* starts = m.starts + block * m.num_panels;
    num_values += starts[unit.last_panel].weight - starts[unit.first_panel].weight;
    num_pieces += starts[unit.last_panel].piece - starts[unit.first_panel].piece;
  }
  return task_linear_sampled_bytes(kernels, m.block_columns, (unit.last_panel - unit.first_panel) * m.panel_rows,
                                   num_values, num_pieces, sum_bytes);
}

// Cuts a slot's matrix into about `parts` units. Blocks are cut first: a unit gathers its blocks of x and its panels of
// grad_y itself, and only what is cut is gathered once.
void append_units(const TaskLinearMatrix& m, int64_t group, int64_t parts, std::vector<Unit>& units) {
  int64_t panel_parts = ceil_div(m.num_rows, MOST_PANEL_ROWS);
  int64_t block_parts = std::clamp<int64_t>(ceil_div(parts, panel_parts), 1, m.num_blocks);
  panel_parts = std::clamp<int64_t>(std::max(panel_parts, parts / block_parts), 1, m.num_panels);
  for (int64_t b = 0; b < block_parts; ++b) {
    for (int64_t p = 0; p < panel_parts; ++p) {
      units.push_back({group, m.num_panels * p / panel_parts, m.num_panels * (p + 1) / panel_parts,
                       m.num_blocks * b / block_parts, m.num_blocks * (b + 1) / block_parts});
    }
  }
}

}  // namespace

int64_t count_wanted(const char* op, const Positions& positions, int64_t num_values, const std::vector<int64_t>& wanted,
                     const std::vector<int64_t>& num_owned) {
  int64_t num_wanted = 0;
  check_value(wanted.size() == num_owned.size(), op, ": wanted and num_owned must have the same length, got ",
              wanted.size(), " and ", num_owned.size());
  for (size_t i = 0; i < wanted.size(); ++i) {
    const int64_t t = wanted[i];
    if (t < 0 || t >= positions.T)
      throw std::out_of_range(message(op, ": wanted must be in 0..", positions.T - 1, ", got ", t));
    check_slot(op, positions, t, num_values);
    check_value(num_owned[i] == positions.num_values(t), op, ": num_owned of slot ", t, " must be ",
                positions.num_values(t), ", got ", num_owned[i]);
    num_wanted += positions.num_values(t);
  }
  return num_wanted;
}

void task_linear_sampled(const TaskLinearSampledCall& call) {
  const Positions& positions = call.positions;
  const TaskLinearType type = call.type;
  char* next = static_cast<char*>(call.grads);

  struct Group {
    TaskLinearMatrix matrix;
    TaskLinearRows x, grad_y;
    char* grads;
  };
  std::vector<Group> parts;
  int64_t num_weights = 0;
  for (const int64_t t : call.wanted) {
    const int64_t num_bytes = positions.num_values(t) * bytes_of(type);
    const RowGroup* group = group_of(call.groups, t);
    if (group == nullptr) {
      std::fill(next, next + num_bytes, char{0});
    } else if (num_bytes > 0) {
      parts.push_back({call.index.matrix(t, false), rows_of_group(call.x, call.groups, group->begin, group->end),
                       rows_of_group(call.grad_y, call.groups, group->begin, group->end), next});
      num_weights += positions.num_values(t);
    }
    next += num_bytes;
  }

  const int64_t threads = num_threads();
  std::vector<Unit> units;
  for (size_t g = 0; g < parts.size(); ++g) {
    const int64_t most_parts =
        threads == 1 ? 1 : ceil_div(UNITS_PER_THREAD * threads, static_cast<int64_t>(parts.size()));
    const int64_t N = parts[g].matrix.num_values;
    append_units(parts[g].matrix, static_cast<int64_t>(g),
                 std::max(ceil_div(N, MOST_SAMPLED), std::min(most_parts, ceil_div(N, 4096))), units);
  }
  const TaskLinearKernels& kernels = cpu_kernels().linear;
  const int64_t sum_bytes = sum_bytes_of(type);
  int64_t scratch_bytes = 0;
  for (const Unit& unit : units) {
    scratch_bytes = std::max(scratch_bytes, scratch_bytes_of(kernels, parts[unit.group].matrix, unit, sum_bytes));
  }
  share_out(static_cast<int64_t>(units.size()), scratch_bytes, [&](int64_t i, char* scratch) {
    const Unit& unit = units[i];
    const Group& part = parts[unit.group];
    kernels.sampled({&part.matrix, part.x, part.grad_y, part.grads, type, unit.first_panel, unit.last_panel,
                     unit.first_block, unit.last_block, scratch});
  });
  count_weights_read(call.op, num_weights);
}

}  // namespace rsn2
