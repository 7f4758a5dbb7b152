// The gradient of the values: the product of grad_y and x sampled at the owned weights.
//
// Both tiles hold batch rows innermost. A weight's products over the V vectors of a tile are added in one accumulator;
// kLanes accumulators at a time are then summed over their lanes together. The sums of the first tile of rows are
// stored, those of the next ones added, so the bits depend on the slot's own rows alone.

// Sums over lanes of `count` whole groups of kLanes pending accumulators, into or onto `sums`.
template <typename A>
RSN2_INLINE void flush(const A* pending, int64_t groups, bool is_first_tile, A* sums) {
  constexpr int L = kLanes<A>;
  for (int64_t g = 0; g < groups; ++g) {
    Vec<A> square[L];
    RSN2_UNROLL
    for (int l = 0; l < L; ++l) square[l] = load<A>(pending + (g * L + l) * L);
    const Vec<A> sum = sum_each<A>(square);
    store<A>(sums + g * L, is_first_tile ? sum : load<A>(sums + g * L) + sum);
  }
}

// One tile of rows: accumulators are summed once enough of them are pending.
template <typename A, int V>
struct SampleTile {
  static void run(const TaskLinearSampled& task, const TaskLinearRows& x, const TaskLinearRows& grad_y,
                  bool is_first_tile, A* x_tile, A* grad_tile, A* pending, A* sums) {
    constexpr int L = kLanes<A>;
    constexpr int64_t width = V * L;
    const TaskLinearMatrix& m = *task.matrix;
    const int64_t first_row = task.first_panel * m.panel_rows;
    const int64_t last_row = task.last_panel == m.num_panels ? m.num_rows : task.last_panel * m.panel_rows;
    gather(grad_y, first_row, last_row - first_row, V, grad_tile);
    int64_t num_pending = 0;
    for (int64_t block = task.first_block; block < task.last_block; ++block) {
      const int32_t* starts = m.run_starts + block * m.num_panels;
      if (starts[task.first_panel] == starts[task.last_panel]) continue;
      const int64_t first_column = block * m.block_columns, columns_left = m.num_columns - first_column;
      gather(x, first_column, columns_left < m.block_columns ? columns_left : m.block_columns, V, x_tile);
      for (int64_t panel = task.first_panel; panel < task.last_panel; ++panel) {
        const A* grad_panel = grad_tile + (panel * m.panel_rows - first_row) * width;
        const TaskLinearRun* last = m.runs + starts[panel + 1];
        for (const TaskLinearRun* run = m.runs + starts[panel]; run != last; ++run) {
          Vec<A> grad[V];
          RSN2_UNROLL
          for (int v = 0; v < V; ++v) grad[v] = load<A>(grad_panel + int64_t(run->row) * width + v * L);
          const uint8_t* column = m.columns + run->first;
          A* to = pending + num_pending * L;
          int64_t left = run->count;
          for (; left >= 4; left -= 4, column += 4, to += 4 * L) {
            const uint32_t four = load_columns(column);
            Vec<A> sum[4] = {};
            RSN2_UNROLL
            for (int i = 0; i < 4; ++i) {
              const A* from = x_tile + column_of(four, i) * width;
              RSN2_UNROLL
              for (int v = 0; v < V; ++v) sum[i] += grad[v] * load<A>(from + v * L);
            }
            RSN2_UNROLL
            for (int i = 0; i < 4; ++i) store<A>(to + i * L, sum[i]);
          }
          for (int64_t i = 0; i < left; ++i) {
            const A* from = x_tile + int64_t(column[i]) * width;
            Vec<A> sum = {};
            RSN2_UNROLL
            for (int v = 0; v < V; ++v) sum += grad[v] * load<A>(from + v * L);
            store<A>(to + i * L, sum);
          }
          num_pending += run->count;
          if (num_pending >= TASK_LINEAR_PENDING) {
            const int64_t groups = num_pending / L;
            flush<A>(pending, groups, is_first_tile, sums);
            sums += groups * L;
            num_pending -= groups * L;
            for (int64_t i = 0; i < num_pending; ++i) {
              store<A>(pending + i * L, load<A>(pending + (groups * L + i) * L));
            }
          }
        }
      }
    }
    const int64_t groups = (num_pending + L - 1) / L;
    for (int64_t i = num_pending; i < groups * L; ++i) store<A>(pending + i * L, Vec<A>{});
    flush<A>(pending, groups, is_first_tile, sums);
  }
};

// The sums stand in the order of the runs; the gradients are wanted in the order of the values.
template <typename A, typename E>
static void put_grads(const TaskLinearSampled& task, const A* sums) {
  const TaskLinearMatrix& m = *task.matrix;
  E* grads = static_cast<E*>(task.grads);
  for (int64_t block = task.first_block; block < task.last_block; ++block) {
    const int32_t* starts = m.run_starts + block * m.num_panels;
    const TaskLinearRun* last = m.runs + starts[task.last_panel];
    for (const TaskLinearRun* run = m.runs + starts[task.first_panel]; run != last; ++run) {
      E* to = grads + run->first;
      const int64_t whole = run->count / kLanes<A> * kLanes<A>;
      for (int64_t i = 0; i < whole; i += kLanes<A>) store_as(to + i, load<A>(sums + i));
      if (sizeof(E) == sizeof(A)) {
        for (int64_t i = whole; i < run->count; ++i) __builtin_memcpy(to + i, sums + i, sizeof(E));
      } else if (whole < run->count) {
        store_some<A, E>(to + whole, load<A>(sums + whole), run->count - whole);
      }
      sums += run->count;
    }
  }
}

RSN2_INLINE void put_grads(const TaskLinearSampled& task, const float* sums) {
  switch (task.type) {
    case TASK_LINEAR_BFLOAT16: return put_grads<float, BFloat16>(task, sums);
    case TASK_LINEAR_FLOAT16: return put_grads<float, Float16>(task, sums);
    default: return put_grads<float, float>(task, sums);
  }
}
RSN2_INLINE void put_grads(const TaskLinearSampled& task, const double* sums) { put_grads<double, double>(task, sums); }

template <typename A>
static void sampled(const TaskLinearSampled& task) {
  constexpr int64_t L = kLanes<A>;
  const TaskLinearMatrix& m = *task.matrix;
  const int64_t num_rows = (task.last_panel - task.first_panel) * m.panel_rows;
  A* x_tile = static_cast<A*>(task.scratch);
  A* grad_tile = x_tile + (m.block_columns + 15) / 16 * 16 * kMaxVectors * L;
  A* pending = grad_tile + (num_rows + 15) / 16 * 16 * kMaxVectors * L;
  A* sums = pending + TASK_LINEAR_MOST_PENDING * L;
  const int64_t num_tiles = count_tiles<A>(task.x.num_rows);
  for (int64_t i = 0; i < num_tiles; ++i) {
    const Tile tile = tile_of<A>(task.x.num_rows, num_tiles, i);
    ForWidth<SampleTile, A>::run(tile.num_vectors, task, rows_of_tile(task.x, tile), rows_of_tile(task.grad_y, tile),
                                 i == 0, x_tile, grad_tile, pending, sums);
  }
  put_grads(task, sums);
}
