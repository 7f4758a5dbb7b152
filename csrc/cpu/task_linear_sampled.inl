// The gradient of the values: the product of grad_y and x sampled at the owned weights.
//
// Both tiles hold batch rows innermost. A weight's products over the V vectors of a tile are added in one accumulator;
// four accumulators at a time are then summed over their lanes together. The sums of the first tile of rows are stored,
// those of the next ones added, so the bits depend on the slot's own rows alone.

// One tile of rows. The sums of a piece fill whole groups of four.
template <typename A, int V>
struct SampleTile {
  static void run(const TaskLinearSampled& task, const TaskLinearRows& x, const TaskLinearRows& grad_y, bool is_first,
                  A* x_tile, A* grad_tile, A* sums) {
    constexpr int64_t width = V * kLanes<A>;
    const TaskLinearMatrix& m = *task.matrix;
    const int64_t first_row = task.first_panel * m.panel_rows;
    const int64_t last_row = task.last_panel == m.num_panels ? m.num_rows : task.last_panel * m.panel_rows;
    gather(grad_y, first_row, last_row - first_row, V, grad_tile);
    for (int64_t block = task.first_block; block < task.last_block; ++block) {
      const TaskLinearStart* start = m.starts + block * m.num_panels + task.first_panel;
      const TaskLinearStart* end = m.starts + block * m.num_panels + task.last_panel;
      if (start->piece == end->piece) continue;
      const int64_t first_column = block * m.block_columns, columns_left = m.num_columns - first_column;
      gather(x, first_column, columns_left < m.block_columns ? columns_left : m.block_columns, V, x_tile);
      const TaskLinearPiece* piece = m.pieces + start->piece;
      const uint8_t* column = m.columns + start->weight;
      const A* grad_panel = grad_tile;
      for (; start != end; ++start, grad_panel += m.panel_rows * width) {
        for (const TaskLinearBunch *bunch = m.bunches + start[0].bunch, *last = m.bunches + start[1].bunch;
             bunch != last; ++bunch) {
          const int size = bunch->size;
          for (int left = bunch->count; left > 0; --left, ++piece, column += size) {
            Vec<A> grad[V];
            RSN2_UNROLL
            for (int v = 0; v < V; ++v) grad[v] = load<A>(grad_panel + int64_t(piece->row) * width + v * kLanes<A>);
            int i = 0;
            for (; i + 4 <= size; i += 4, sums += 4) {
              const uint64_t columns = load_columns(column + i);
              Vec<A> sum[4] = {};
              RSN2_UNROLL
              for (int j = 0; j < 4; ++j) add_products<V>(grad, x_tile + column_of(columns, j) * width, sum[j]);
              put_four_sums<A>(sum, is_first, sums);
            }
            if (i < size) {
              Vec<A> sum[4] = {};
              RSN2_UNROLL
              for (int j = 0; j < 3; ++j) {
                if (j < size - i) add_products<V>(grad, x_tile + int64_t(column[i + j]) * width, sum[j]);
              }
              put_four_sums<A>(sum, is_first, sums);
              sums += 4;
            }
          }
        }
      }
    }
  }

  template <int N>
  static RSN2_ALWAYS void add_products(const Vec<A>* grad, const A* from, Vec<A>& sum) {
    RSN2_UNROLL
    for (int v = 0; v < N; ++v) sum += grad[v] * load<A>(from + v * kLanes<A>);
  }
};

// The first `count` of four sums.
template <typename A, typename E>
RSN2_INLINE void put_numbers(E* to, const A* from, int count) {
  if constexpr (sizeof(E) != sizeof(A)) {
    A padded[kLanes<A>] = {from[0], from[1], from[2], from[3]};
    store_some<A, E>(to, load<A>(padded), count);
  } else if (count == 4) {
    __builtin_memcpy(to, from, 4 * sizeof(A));
  } else {
    for (int i = 0; i < count; ++i) to[i] = from[i];
  }
}

// The sums stand in the order of the pieces; the gradients are wanted in the order of the values.
template <typename A, typename E>
static void put_grads(const TaskLinearSampled& task, const A* sums) {
  const TaskLinearMatrix& m = *task.matrix;
  E* grads = static_cast<E*>(task.grads);
  for (int64_t block = task.first_block; block < task.last_block; ++block) {
    const TaskLinearStart* start = m.starts + block * m.num_panels + task.first_panel;
    const TaskLinearStart* end = m.starts + block * m.num_panels + task.last_panel;
    const TaskLinearPiece* piece = m.pieces + start->piece;
    for (const TaskLinearBunch *bunch = m.bunches + start->bunch, *last = m.bunches + end->bunch; bunch != last;
         ++bunch) {
      const int size = bunch->size, padded = (size + 3) / 4 * 4;
      for (int left = bunch->count; left > 0; --left, ++piece, sums += padded) {
        E* to = grads + piece->first;
        for (int i = 0; i < size; i += 4) put_numbers(to + i, sums + i, size - i < 4 ? size - i : 4);
      }
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
static void typed_sampled(const TaskLinearSampled& task) {
  constexpr int64_t L = kLanes<A>;
  const TaskLinearMatrix& m = *task.matrix;
  const int64_t num_rows = (task.last_panel - task.first_panel) * m.panel_rows;
  A* x_tile = static_cast<A*>(task.scratch);
  A* grad_tile = x_tile + (m.block_columns + 15) / 16 * 16 * kMaxVectors * L;
  A* sums = grad_tile + (num_rows + 15) / 16 * 16 * kMaxVectors * L;
  const int64_t num_tiles = count_tiles<A>(task.x.num_rows);
  for (int64_t i = 0; i < num_tiles; ++i) {
    const Tile tile = tile_of<A>(task.x.num_rows, num_tiles, i);
    ForWidth<SampleTile, A>::run(tile.num_vectors, task, rows_of_tile(task.x, tile), rows_of_tile(task.grad_y, tile),
                                 i == 0, x_tile, grad_tile, sums);
  }
  put_grads(task, sums);
}

static void sampled(const TaskLinearSampled& task) {
  if (task.type == TASK_LINEAR_DOUBLE) return typed_sampled<double>(task);
  typed_sampled<float>(task);
}
