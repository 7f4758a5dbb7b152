// Between rows in memory and tiles: a tile holds columns one after another, each of them V vectors of batch rows.

// True in the first `count` lanes.
template <typename A, int... L>
RSN2_INLINE typename MaskOf<A>::type lanes_below(int count, Lanes<L...>) {
  return typename MaskOf<A>::type{L...} < count;
}
template <typename A>
RSN2_INLINE typename MaskOf<A>::type first_lanes(int count) {
  return lanes_below<A>(count, FirstLanes<kLanes<A>>());
}

// Where the rows of one vector of the tile begin.
template <typename E>
struct RowPointers {
  E* at[16];  // beyond the last row the first one again: read with the others, then blanked
  int count;  // rows there are
};

template <typename E, typename A>
RSN2_INLINE RowPointers<E> rows_of_vector(const TaskLinearRows& rows, int v) {
  RowPointers<E> p;
  const int64_t first = int64_t(v) * kLanes<A>, left = rows.num_rows - first;
  p.count = int(left < kLanes<A> ? left : kLanes<A>);
  for (int l = 0; l < kLanes<A>; ++l) {
    const int64_t i = first + (l < p.count ? l : 0), row = rows.rows ? rows.rows[i] : rows.first_row + i;
    p.at[l] = static_cast<E*>(rows.data) + row * rows.row_stride;
  }
  return p;
}

#if RSN2_VECTOR_BYTES == 64
// four[j] = lane l holds number j of row(l), four numbers. Half of the work is done by the loads, which make one vector
// of rows l, l + 4, l + 8 and l + 12.
template <typename Row>
RSN2_INLINE void load_four_of_each(const Row& row, __m512* four) {
  __m512 rows[4];
  RSN2_UNROLL
  for (int l = 0; l < 4; ++l) {
    rows[l] = _mm512_zextps128_ps512(row(l));
    rows[l] = _mm512_mask_broadcast_f32x4(rows[l], 0x00f0, row(l + 4));
    rows[l] = _mm512_mask_broadcast_f32x4(rows[l], 0x0f00, row(l + 8));
    rows[l] = _mm512_mask_broadcast_f32x4(rows[l], 0xf000, row(l + 12));
  }
  const __m512d low01 = _mm512_castps_pd(_mm512_maskz_unpacklo_ps(0xffff, rows[0], rows[1]));
  const __m512d low23 = _mm512_castps_pd(_mm512_maskz_unpacklo_ps(0xffff, rows[2], rows[3]));
  const __m512d high01 = _mm512_castps_pd(_mm512_maskz_unpackhi_ps(0xffff, rows[0], rows[1]));
  const __m512d high23 = _mm512_castps_pd(_mm512_maskz_unpackhi_ps(0xffff, rows[2], rows[3]));
  four[0] = _mm512_castpd_ps(_mm512_maskz_unpacklo_pd(0xff, low01, low23));
  four[1] = _mm512_castpd_ps(_mm512_maskz_unpackhi_pd(0xff, low01, low23));
  four[2] = _mm512_castpd_ps(_mm512_maskz_unpacklo_pd(0xff, high01, high23));
  four[3] = _mm512_castpd_ps(_mm512_maskz_unpackhi_pd(0xff, high01, high23));
}
#endif

// square[j] = lane l holds row(l)[j], for a square of kLanes<A> x kLanes<A> numbers.
template <typename A, typename E, typename Row>
RSN2_INLINE void load_transposed(const Row& row, Vec<A>* square) {
#if RSN2_VECTOR_BYTES == 64
  if constexpr (sizeof(A) == sizeof(float) && sizeof(E) == sizeof(float)) {
    RSN2_UNROLL
    for (int q = 0; q < 16; q += 4) {
      __m512 four[4];
      load_four_of_each([&](int l) { return _mm_loadu_ps(row(l) + q); }, four);
      RSN2_UNROLL
      for (int j = 0; j < 4; ++j) square[q + j] = bit_cast<Vec<A>>(four[j]);
    }
    return;
  }
#endif
  RSN2_UNROLL
  for (int l = 0; l < kLanes<A>; ++l) square[l] = load_as<A, E>(row(l));
  transpose<A>(square);
}

// tile[c][v] = rows[.., first_column + c] for the columns c of a block.
template <typename A, typename E>
static void gather_typed(const TaskLinearRows& rows, int64_t first_column, int64_t num_columns, int num_vectors,
                         A* tile) {
  constexpr int L = kLanes<A>;
  const int64_t width = int64_t(num_vectors) * L;
  for (int v = 0; v < num_vectors; ++v) {
    const RowPointers<const E> p = rows_of_vector<const E, A>(rows, v);
    A* to = tile + v * L;
    if (rows.column_stride == 1 && p.count * 4 > L) {
      for (int64_t c = 0; c < num_columns; c += L) {
        Vec<A> square[L];
        const int64_t left = num_columns - c;
        if (left >= L) {
          load_transposed<A, E>([&](int l) { return p.at[l] + first_column + c; }, square);
        } else {
          for (int l = 0; l < L; ++l) square[l] = load_some<A, E>(p.at[l] + first_column + c, left);
          transpose<A>(square);
        }
        if (p.count < L) {  // zeros, so that no NaN of another row can reach a sum over the lanes
          const auto is_row = first_lanes<A>(p.count);
          RSN2_UNROLL
          for (int l = 0; l < L; ++l) square[l] = is_row ? square[l] : Vec<A>{};
        }
        RSN2_UNROLL
        for (int l = 0; l < L; ++l) store<A>(to + (c + l) * width, square[l]);
      }
    } else {
      for (int64_t c = 0; c < num_columns; ++c) {
        const int64_t offset = (first_column + c) * rows.column_stride;
        store<A>(to + c * width, Vec<A>{});
        for (int l = 0; l < p.count; ++l) to[c * width + l] = load_one<A, E>(p.at[l] + offset);
      }
    }
  }
}

// Rows and columns that the next tile will gather.
struct Upcoming {
  TaskLinearRows rows;
  int64_t first_column, num_columns;
};

// Fetches a share `part` of `num_parts` of them into the second-level cache.
RSN2_INLINE void prefetch(const Upcoming& next, int64_t part, int64_t num_parts) {
  if (next.rows.column_stride != 1) return;
  const int64_t bytes = next.rows.type == TASK_LINEAR_DOUBLE ? 8 : next.rows.type == TASK_LINEAR_FLOAT ? 4 : 2;
  const int64_t end = next.rows.num_rows * (part + 1) / num_parts;
  for (int64_t i = next.rows.num_rows * part / num_parts; i < end; ++i) {
    const int64_t row = next.rows.rows ? next.rows.rows[i] : next.rows.first_row + i;
    const char* line =
        static_cast<const char*>(next.rows.data) + (row * next.rows.row_stride + next.first_column) * bytes;
    for (int64_t at = 0; at < next.num_columns * bytes; at += 64) __builtin_prefetch(line + at, 0, 2);
  }
}

// out[.., first_column + c] = activation(tile[c] + bias[first_column + c]).
template <typename A, typename E>
static void scatter_typed(const A* tile, const TaskLinearRows& rows, int64_t first_column, int64_t num_columns,
                          int num_vectors, const A* bias, bool relu) {
  constexpr int L = kLanes<A>;
  const int64_t width = int64_t(num_vectors) * L;
  for (int v = 0; v < num_vectors; ++v) {
    const RowPointers<E> p = rows_of_vector<E, A>(rows, v);
    for (int64_t c = 0; c < num_columns; c += L) {
      Vec<A> square[L];
      load_transposed<A, A>([&](int l) { return tile + (c + l) * width + v * L; }, square);
      const int64_t left = num_columns - c;
      Vec<A> shift = {};
      if (bias) shift = left < L ? load_some<A, A>(bias + first_column + c, left) : load<A>(bias + first_column + c);
      RSN2_UNROLL
      for (int l = 0; l < L; ++l) {
        if (bias) square[l] += shift;
        if (relu) square[l] = positive_part<A>(square[l]);
      }
      if (left >= L) {
        RSN2_UNROLL
        for (int l = 0; l < L; ++l) {
          if (l < p.count) store_as(p.at[l] + first_column + c, square[l]);
        }
      } else {
        for (int l = 0; l < p.count; ++l) store_some<A, E>(p.at[l] + first_column + c, square[l], left);
      }
    }
  }
}

// The same for the type that the rows have. Sums in double belong to rows in double, and to those alone.
RSN2_INLINE void gather(const TaskLinearRows& rows, int64_t first_column, int64_t num_columns, int num_vectors,
                        float* tile) {
  switch (rows.type) {
    case TASK_LINEAR_BFLOAT16: return gather_typed<float, BFloat16>(rows, first_column, num_columns, num_vectors, tile);
    case TASK_LINEAR_FLOAT16: return gather_typed<float, Float16>(rows, first_column, num_columns, num_vectors, tile);
    default: return gather_typed<float, float>(rows, first_column, num_columns, num_vectors, tile);
  }
}
RSN2_INLINE void gather(const TaskLinearRows& rows, int64_t first_column, int64_t num_columns, int num_vectors,
                        double* tile) {
  gather_typed<double, double>(rows, first_column, num_columns, num_vectors, tile);
}

RSN2_INLINE void scatter(const float* tile, const TaskLinearRows& rows, int64_t first_column, int64_t num_columns,
                         int num_vectors, const float* bias, bool relu) {
  switch (rows.type) {
    case TASK_LINEAR_BFLOAT16:
      return scatter_typed<float, BFloat16>(tile, rows, first_column, num_columns, num_vectors, bias, relu);
    case TASK_LINEAR_FLOAT16:
      return scatter_typed<float, Float16>(tile, rows, first_column, num_columns, num_vectors, bias, relu);
    default: return scatter_typed<float, float>(tile, rows, first_column, num_columns, num_vectors, bias, relu);
  }
}
RSN2_INLINE void scatter(const double* tile, const TaskLinearRows& rows, int64_t first_column, int64_t num_columns,
                         int num_vectors, const double* bias, bool relu) {
  scatter_typed<double, double>(tile, rows, first_column, num_columns, num_vectors, bias, relu);
}
