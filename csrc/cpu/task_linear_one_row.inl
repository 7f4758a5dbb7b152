// The product for one batch row, with AVX-512. There is no other row to fill a vector with, so lanes are pieces:
// sixteen neighbours of a panel, each walked from left to right as in the kernel of many rows, so that the bits are the
// same. The block of the input stands in eight registers and is looked up there; values and columns come four at a
// time.

constexpr int kRowPieces = 16;
static_assert(TASK_LINEAR_BLOCK_COLUMNS == 8 * 16, "eight registers hold the input of a block");

// Sixteen pieces; lanes without one have size 0 and read what the first one does.
template <typename E>
struct PieceLanes {
  alignas(64) int32_t sizes[kRowPieces];
  const E* values[kRowPieces];
  const uint8_t* columns[kRowPieces];
  float* sums[kRowPieces];
  int count;
  int most;  // the largest size
};

// x[columns] for the low seven bits of each lane.
RSN2_INLINE __m512 look_up(const __m512* x, __m512i columns) {
  const __mmask16 bit5 = _mm512_test_epi32_mask(columns, _mm512_set1_epi32(32));
  const __mmask16 bit6 = _mm512_test_epi32_mask(columns, _mm512_set1_epi32(64));
  const __m512 low = _mm512_mask_blend_ps(bit5, _mm512_permutex2var_ps(x[0], columns, x[1]),
                                          _mm512_permutex2var_ps(x[2], columns, x[3]));
  const __m512 high = _mm512_mask_blend_ps(bit5, _mm512_permutex2var_ps(x[4], columns, x[5]),
                                           _mm512_permutex2var_ps(x[6], columns, x[7]));
  return _mm512_mask_blend_ps(bit6, low, high);
}

template <typename E>
RSN2_INLINE void add_lanes(const PieceLanes<E>& lanes, const __m512* x) {
  const __m512i sizes = _mm512_load_si512(lanes.sizes);
  __m512 sum = _mm512_setzero_ps();
  for (int i = 0; i < lanes.most; i += 16) {
    __m512 columns[4];  // four bytes of each piece in each
    load_four_of_each([&](int l) { return _mm_loadu_ps(reinterpret_cast<const float*>(lanes.columns[l] + i)); },
                      columns);
    RSN2_UNROLL
    for (int q = 0; q < 4; ++q) {
      const int first = i + 4 * q;
      if (first >= lanes.most) break;
      __m512 values[4];
      load_four_of_each([&](int l) { return bit_cast<__m128>(load_float4(lanes.values[l] + first)); }, values);
      RSN2_UNROLL
      for (int j = 0; j < 4; ++j) {
        const __mmask16 is_inside = _mm512_cmpgt_epi32_mask(sizes, _mm512_set1_epi32(first + j));
        const __m512 from = look_up(x, _mm512_maskz_srli_epi32(0xffff, _mm512_castps_si512(columns[q]), 8 * j));
        sum = _mm512_mask3_fmadd_ps(values[j], from, sum, is_inside);
      }
    }
  }
  float sums[kRowPieces];
  _mm512_storeu_ps(sums, sum);
  for (int l = 0; l < lanes.count; ++l) *lanes.sums[l] += sums[l];
}

// Columns, firsts and rows of a panel's part of a block come nearer: they stand apart from those walked before.
RSN2_INLINE void prefetch(const TaskLinearMatrix& m, const TaskLinearStart* start) {
  const auto fetch = [](const void* from, int64_t num_bytes) {
    for (int64_t at = 0; at < num_bytes; at += 64) __builtin_prefetch(static_cast<const char*>(from) + at, 0, 2);
  };
  const int64_t num_pieces = start[1].piece - start[0].piece;
  fetch(m.columns + start->weight, start[1].weight - start[0].weight);
  fetch(m.firsts + start->piece, num_pieces * int64_t(sizeof(int32_t)));
  fetch(m.rows + start->piece, num_pieces);
}

// The pieces of a panel in one block: sums[row] += values * x, with x in 128 floats.
template <typename E>
static void add_block_of_one_row(const TaskLinearMatrix& m, const TaskLinearStart* start, const float* x, float* sums) {
  __m512 table[8];
  for (int i = 0; i < 8; ++i) table[i] = _mm512_loadu_ps(x + 16 * i);
  const E* values = static_cast<const E*>(m.values);
  const int32_t* first = m.firsts + start->piece;
  const uint8_t* row = m.rows + start->piece;
  const uint8_t* column = m.columns + start->weight;
  const TaskLinearBunch* bunch = m.bunches + start->bunch;
  int left_of_bunch = start[0].piece < start[1].piece ? bunch->count : 0;
  for (int64_t left = start[1].piece - start[0].piece; left > 0; left -= kRowPieces) {
    PieceLanes<E> lanes;
    lanes.count = left < kRowPieces ? int(left) : kRowPieces;
    int64_t farthest = 0;
    for (int l = 0; l < lanes.count; ++l, ++first, ++row) {
      if (left_of_bunch == 0) left_of_bunch = (++bunch)->count;
      --left_of_bunch;
      lanes.sizes[l] = lanes.most = bunch->size;  // they grow
      lanes.values[l] = values + *first;
      lanes.columns[l] = column;
      lanes.sums[l] = sums + *row;
      column += bunch->size;
      if (farthest < *first) farthest = *first;
    }
    for (int l = lanes.count; l < kRowPieces; ++l) {
      lanes.sizes[l] = 0;
      lanes.values[l] = lanes.values[0];
      lanes.columns[l] = lanes.columns[0];
    }
    if (farthest + (lanes.most + 3) / 4 * 4 <= m.num_values) {
      add_lanes(lanes, table);
      continue;
    }
    for (int l = 0; l < lanes.count; ++l) {  // four at a time would read beyond the slot's values
      float sum = 0;
      for (int i = 0; i < lanes.sizes[l]; ++i) {
        sum += load_one<float, E>(lanes.values[l] + i) * x[lanes.columns[l][i]];
      }
      *lanes.sums[l] += sum;
    }
  }
}

static bool can_take_one_row(const TaskLinearProduct& task) {
  for (const TaskLinearMatrix* store : task.stores) {
    if (store && store->starts && !store->firsts) return false;
  }
  return task.in.num_rows == 1;
}

template <typename E>
static void product_of_one_row(const TaskLinearProduct& task) {
  constexpr int L = kLanes<float>;
  const TaskLinearMatrix& shape = *task.stores[0];
  const int64_t first_row = task.first_panel * shape.panel_rows;
  const int64_t last_row = task.last_panel == shape.num_panels ? shape.num_rows : task.last_panel * shape.panel_rows;
  float* copy = static_cast<float*>(task.scratch);
  float* sums = copy + shape.block_columns;
  __builtin_memset(sums, 0, sizeof(float) * (last_row - first_row));
  const E* in = rows_of_vector<const E, float>(task.in, 0).at[0];
  // Panels outside: the values of one are a few streams then, which the processor fetches ahead.
  for (int64_t panel = task.first_panel; panel < task.last_panel; ++panel) {
    for (int64_t block = 0; block < shape.num_blocks; ++block) {
      const int64_t first_column = block * shape.block_columns, left = shape.num_columns - first_column;
      const float* x = copy;
      if constexpr (sizeof(E) == sizeof(float)) {
        if (left >= shape.block_columns && task.in.column_stride == 1) x = in + first_column;
      }
      if (x == copy) {
        for (int64_t c = 0; c < shape.block_columns; ++c) {
          copy[c] = c < left ? load_one<float, E>(in + (first_column + c) * task.in.column_stride) : 0.0f;
        }
      }
      for (const TaskLinearMatrix* store : task.stores) {
        if (!store || !store->starts) continue;
        const TaskLinearStart* start = store->starts + block * store->num_panels + panel;
        if (block + 1 < shape.num_blocks) prefetch(*store, start + store->num_panels);
        float* panel_sums = sums + (panel - task.first_panel) * shape.panel_rows;
        switch (store->value_type) {
          case TASK_LINEAR_BFLOAT16: add_block_of_one_row<BFloat16>(*store, start, x, panel_sums); break;
          case TASK_LINEAR_FLOAT16: add_block_of_one_row<Float16>(*store, start, x, panel_sums); break;
          default: add_block_of_one_row<float>(*store, start, x, panel_sums);
        }
      }
    }
  }
  E* out = rows_of_vector<E, float>(task.out, 0).at[0] + first_row;
  const float* bias = task.bias ? static_cast<const float*>(task.bias) + first_row : nullptr;
  for (int64_t r = 0; r < last_row - first_row; r += L) {
    const int64_t count = last_row - first_row - r;
    Vec<float> y = load_some<float, float>(sums + r, count < L ? count : L);
    if (bias) y += load_some<float, float>(bias + r, count < L ? count : L);
    if (task.relu) y = positive_part<float>(y);
    store_some<float, E>(out + r, y, count < L ? count : L);
  }
}
