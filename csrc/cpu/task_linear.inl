// The kernels of task_linear: tiles of batch rows times the weights of one slot, and the product sampled at them.
//
// Vectors run over batch rows. A tile of the input holds a block of columns, V vectors each, near the processor while
// all runs of the block pass over it; the sums of the rows of the matrix stay in the second-level cache. A weight costs
// one broadcast and V loads with V multiply-adds. The tiles of a task take turns on each block of weights, so that a
// matrix larger than the caches is read once for all of them.
//
// The order in which an output's products are added is fixed by the slot's positions: inside a run from left to right,
// starting from zero, then the runs' sums, block after block. It does not depend on V or on what else is in the batch.

#include "task_linear_tiles.inl"

#if RSN2_VECTOR_BYTES == 64
constexpr int kMaxVectors = 4;
#else
constexpr int kMaxVectors = 8;
#endif

// A tile of batch rows: rows first .. first + count of the group, in num_vectors vectors.
struct Tile {
  int64_t first, count;
  int num_vectors;
};

// The vectors that rows fill are shared out evenly over as few tiles as hold them.
template <typename A>
RSN2_INLINE int64_t count_tiles(int64_t num_rows) {
  return (num_rows + kLanes<A> * kMaxVectors - 1) / (kLanes<A> * kMaxVectors);
}
template <typename A>
RSN2_INLINE Tile tile_of(int64_t num_rows, int64_t num_tiles, int64_t tile) {
  const int64_t vectors = (num_rows + kLanes<A> - 1) / kLanes<A>;
  const int64_t begin = vectors * tile / num_tiles, end = vectors * (tile + 1) / num_tiles;
  const int64_t first = begin * kLanes<A>, last = end * kLanes<A> < num_rows ? end * kLanes<A> : num_rows;
  return {first, last - first, int(end - begin)};
}
RSN2_INLINE TaskLinearRows rows_of_tile(TaskLinearRows rows, const Tile& tile) {
  if (rows.rows) rows.rows += tile.first;
  rows.first_row += tile.first;
  rows.num_rows = tile.count;
  return rows;
}

// Calls Body<A, V>::run(arguments) for a V known only now.
template <template <typename, int> class Body, typename A, int V = kMaxVectors>
struct ForWidth {
  template <typename... Args>
  static void run(int num_vectors, const Args&... args) {
    if (num_vectors == V) return Body<A, V>::run(args...);
    ForWidth<Body, A, V - 1>::run(num_vectors, args...);
  }
};
template <template <typename, int> class Body, typename A>
struct ForWidth<Body, A, 0> {
  template <typename... Args>
  static void run(int, const Args&...) {}
};

// Four neighbouring columns in one load: loads bound the speed, arithmetic on their bytes is free.
RSN2_INLINE uint32_t load_columns(const uint8_t* columns) {
  uint32_t four;
  __builtin_memcpy(&four, columns, sizeof(four));
  return four;
}
RSN2_INLINE int64_t column_of(uint32_t four, int i) {
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  return (four >> (8 * i)) & 255u;
#else
  return (four >> (24 - 8 * i)) & 255u;
#endif
}

// sums[row] += values * in for each run. `in` is the tile of the runs' block, `sums` that of their panel. Values are
// read through their places when the matrix has some.
template <typename A, int V, bool HAS_PLACES>
static void add_runs(const TaskLinearMatrix& m, int32_t first_run, int32_t last_run, const A* in, A* sums) {
  constexpr int L = kLanes<A>;
  const A* values = static_cast<const A*>(m.values);
  for (const TaskLinearRun *run = m.runs + first_run, *last = m.runs + last_run; run != last; ++run) {
    const uint8_t* column = m.columns + run->first;
    const int32_t* place = HAS_PLACES ? m.places + run->first : nullptr;
    const A* value = HAS_PLACES ? values : values + run->first;
    int64_t left = run->count;
    Vec<A> sum[V] = {};
    for (; left >= 4; left -= 4, column += 4) {
      const uint32_t four = load_columns(column);
      RSN2_UNROLL
      for (int i = 0; i < 4; ++i) {
        const Vec<A> w = broadcast<A>(HAS_PLACES ? value[place[i]] : value[i]);
        const A* from = in + column_of(four, i) * (V * L);
        RSN2_UNROLL
        for (int v = 0; v < V; ++v) sum[v] += w * load<A>(from + v * L);
      }
      if (HAS_PLACES) {
        place += 4;
      } else {
        value += 4;
      }
    }
    for (int64_t i = 0; i < left; ++i) {
      const Vec<A> w = broadcast<A>(HAS_PLACES ? value[place[i]] : value[i]);
      const A* from = in + int64_t(column[i]) * (V * L);
      RSN2_UNROLL
      for (int v = 0; v < V; ++v) sum[v] += w * load<A>(from + v * L);
    }
    A* to = sums + int64_t(run->row) * (V * L);
    RSN2_UNROLL
    for (int v = 0; v < V; ++v) store<A>(to + v * L, load<A>(to + v * L) + sum[v]);
  }
}

// The runs of the panels of one block.
template <typename A, int V>
struct AddBlock {
  static void run(const TaskLinearMatrix& m, int64_t block, int64_t first_panel, int64_t last_panel, const A* in,
                  A* sums) {
    const int32_t* starts = m.run_starts + block * m.num_panels;
    for (int64_t panel = first_panel; panel < last_panel; ++panel, sums += m.panel_rows * V * kLanes<A>) {
      if (m.places) {
        add_runs<A, V, true>(m, starts[panel], starts[panel + 1], in, sums);
      } else {
        add_runs<A, V, false>(m, starts[panel], starts[panel + 1], in, sums);
      }
    }
  }
};

template <typename A>
static void product(const TaskLinearProduct& task) {
  constexpr int L = kLanes<A>;
  const TaskLinearMatrix& shape = *task.stores[0];
  const int64_t first_row = task.first_panel * shape.panel_rows;
  const int64_t last_row = task.last_panel == shape.num_panels ? shape.num_rows : task.last_panel * shape.panel_rows;
  const int64_t num_tiles = count_tiles<A>(task.in.num_rows);
  const int64_t sums_size = (last_row - first_row + 15) / 16 * 16 * kMaxVectors * L;
  A* in = static_cast<A*>(task.scratch);
  A* all_sums = in + (shape.block_columns + 15) / 16 * 16 * kMaxVectors * L;
  __builtin_memset(all_sums, 0, sizeof(A) * sums_size * num_tiles);
  for (int64_t block = 0; block < shape.num_blocks; ++block) {
    const int64_t first_column = block * shape.block_columns, left = shape.num_columns - first_column;
    const TaskLinearMatrix* stores[2];
    int num_stores = 0;
    for (const TaskLinearMatrix* store : task.stores) {
      if (!store || !store->run_starts) continue;
      const int32_t* starts = store->run_starts + block * store->num_panels;
      if (starts[task.first_panel] != starts[task.last_panel]) stores[num_stores++] = store;
    }
    if (num_stores == 0) continue;
    for (int64_t i = 0; i < num_tiles; ++i) {
      const Tile tile = tile_of<A>(task.in.num_rows, num_tiles, i);
      gather(rows_of_tile(task.in, tile), first_column, left < shape.block_columns ? left : shape.block_columns,
             tile.num_vectors, in);
      for (int s = 0; s < num_stores; ++s) {
        ForWidth<AddBlock, A>::run(tile.num_vectors, *stores[s], block, task.first_panel, task.last_panel, in,
                                   all_sums + i * sums_size);
      }
    }
  }
  for (int64_t i = 0; i < num_tiles; ++i) {
    const Tile tile = tile_of<A>(task.in.num_rows, num_tiles, i);
    scatter(all_sums + i * sums_size, rows_of_tile(task.out, tile), first_row, last_row - first_row, tile.num_vectors,
            static_cast<const A*>(task.bias), task.relu);
  }
}

#include "task_linear_sampled.inl"

constexpr TaskLinearKernels task_linear_kernels = {
    RSN2_VECTOR_BYTES, kMaxVectors, product<float>, product<double>, sampled<float>, sampled<double>,
};
