// The kernels of task_linear: tiles of batch rows times the weights of one slot, and the product sampled at them.
//
// Vectors run over batch rows. A tile of the input holds a block of columns, V vectors each, in the first-level cache
// while all pieces of the block pass over it; the sums of the rows of the matrix stay in the second-level cache. The
// tiles of a task take turns on each block of weights, so that a matrix larger than the caches is read once for all.
//
// The order in which an output's products are added is fixed by the slot's positions: inside a piece from left to
// right, starting from zero, then the pieces' sums, block after block. It does not depend on V or on what else is in
// the batch.

#include "simd_four.inl"
#include "task_linear_tiles.inl"

constexpr int PREFETCH_DISTANCE = 16;  // pieces; measured on Zen 5
static_assert((PREFETCH_DISTANCE + 4) * sizeof(int32_t) <= TASK_LINEAR_OVERREAD, "four pieces at most at once");

#include "task_linear_pieces.inl"

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

// The values are read as they are stored; double sums belong to double values, and to those alone.
template <typename A, int V>
struct AddBlock {
  template <typename... Args>
  static void run(const TaskLinearMatrix& m, const Args&... args) {
    if constexpr (sizeof(A) == sizeof(double)) {
      add_block<A, double, V>(m, args...);
    } else {
      switch (m.value_type) {
        case TASK_LINEAR_BFLOAT16: return add_block<A, BFloat16, V>(m, args...);
        case TASK_LINEAR_FLOAT16: return add_block<A, Float16, V>(m, args...);
        default: return add_block<A, float, V>(m, args...);
      }
    }
  }
};

template <typename A>
static void typed_product(const TaskLinearProduct& task) {
  constexpr int L = kLanes<A>;
  const TaskLinearMatrix& shape = *task.stores[0];
  const int64_t first_row = task.first_panel * shape.panel_rows;
  const int64_t last_row = task.last_panel == shape.num_panels ? shape.num_rows : task.last_panel * shape.panel_rows;
  const int64_t num_tiles = count_tiles<A>(task.in.num_rows);
  const int64_t sums_size = (last_row - first_row + 15) / 16 * 16 * kMaxVectors * L;
  A* in = static_cast<A*>(task.scratch);
  A* all_sums = in + (shape.block_columns + 15) / 16 * 16 * kMaxVectors * L;
  __builtin_memset(all_sums, 0, sizeof(A) * sums_size * num_tiles);
  const auto columns_of = [&](int64_t block) {
    const int64_t left = shape.num_columns - block * shape.block_columns;
    return left < shape.block_columns ? left : shape.block_columns;
  };
  for (int64_t block = 0; block < shape.num_blocks; ++block) {
    const TaskLinearMatrix* stores[2];
    int num_stores = 0;
    for (const TaskLinearMatrix* store : task.stores) {
      if (!store || !store->starts) continue;
      const TaskLinearStart* starts = store->starts + block * store->num_panels;
      if (starts[task.first_panel].piece != starts[task.last_panel].piece) stores[num_stores++] = store;
    }
    if (num_stores == 0) continue;
    for (int64_t i = 0; i < num_tiles; ++i) {
      const Tile tile = tile_of<A>(task.in.num_rows, num_tiles, i);
      gather(rows_of_tile(task.in, tile), block * shape.block_columns, columns_of(block), tile.num_vectors, in);
      // While the panels are walked, which leaves the far caches idle, the next tile comes nearer.
      const int64_t next_block = i + 1 < num_tiles ? block : block + 1;
      const int64_t num_parts =
          next_block < shape.num_blocks && task.in.num_rows >= L ? task.last_panel - task.first_panel : 1;
      Upcoming next = {};
      if (num_parts > 1) {
        next = {rows_of_tile(task.in, tile_of<A>(task.in.num_rows, num_tiles, (i + 1) % num_tiles)),
                next_block * shape.block_columns, columns_of(next_block)};
      }
      for (int64_t part = 0; part < num_parts; ++part) {
        const int64_t panels = task.last_panel - task.first_panel;
        const int64_t first = panels * part / num_parts, last = panels * (part + 1) / num_parts;
        for (int s = 0; s < num_stores; ++s) {
          ForWidth<AddBlock, A>::run(tile.num_vectors, *stores[s], block, task.first_panel + first,
                                     task.first_panel + last, in,
                                     all_sums + i * sums_size + first * shape.panel_rows * tile.num_vectors * L);
        }
        if (num_parts > 1) prefetch(next, part, num_parts);
      }
    }
  }
  for (int64_t i = 0; i < num_tiles; ++i) {
    const Tile tile = tile_of<A>(task.in.num_rows, num_tiles, i);
    scatter(all_sums + i * sums_size, rows_of_tile(task.out, tile), first_row, last_row - first_row, tile.num_vectors,
            static_cast<const A*>(task.bias), task.relu);
  }
}

#if RSN2_VECTOR_BYTES == 64
#include "task_linear_one_row.inl"
#endif

static void product(const TaskLinearProduct& task) {
  if (task.in.type == TASK_LINEAR_DOUBLE) return typed_product<double>(task);
#if RSN2_VECTOR_BYTES == 64
  if (can_take_one_row(task)) {
    switch (task.in.type) {
      case TASK_LINEAR_BFLOAT16: return product_of_one_row<BFloat16>(task);
      case TASK_LINEAR_FLOAT16: return product_of_one_row<Float16>(task);
      default: return product_of_one_row<float>(task);
    }
  }
#endif
  typed_product<float>(task);
}

#include "task_linear_sampled.inl"

constexpr TaskLinearKernels task_linear_kernels = {RSN2_VECTOR_BYTES, kMaxVectors, product, sampled};
