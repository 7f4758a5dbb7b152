// The innermost loops of the product: pieces of a bunch, as many at once as keep four accumulators busy.
//
// A weight costs V loads with V multiply-adds, and a quarter of a load for itself and an eighth for its column. Its
// place is that of the values (E in memory), or is looked up (PLACES).

// Eight neighbouring columns in one load.
RSN2_INLINE uint64_t load_columns(const uint8_t* columns) {
  uint64_t eight;
  __builtin_memcpy(&eight, columns, sizeof(eight));
  return eight;
}
RSN2_INLINE int64_t column_of(uint64_t eight, int i) {
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  return (eight >> (8 * i)) & 255u;
#else
  return (eight >> (56 - 8 * i)) & 255u;
#endif
}

template <typename A, int V>
RSN2_INLINE void add_weight(Vec<A> weight, const A* from, Vec<A>* sum) {
  RSN2_UNROLL
  for (int v = 0; v < V; ++v) sum[v] += weight * load<A>(from + v * kLanes<A>);
}

template <typename A, typename E, int V>
RSN2_INLINE void add_four(const E* value, uint64_t columns, int first, const A* in, Vec<A>* sum) {
  constexpr int width = V * kLanes<A>;
  const Four<A, E> four(value);
  add_weight<A, V>(four.template weight<0>(), in + column_of(columns, first) * width, sum);
  add_weight<A, V>(four.template weight<1>(), in + column_of(columns, first + 1) * width, sum);
  add_weight<A, V>(four.template weight<2>(), in + column_of(columns, first + 2) * width, sum);
  add_weight<A, V>(four.template weight<3>(), in + column_of(columns, first + 3) * width, sum);
}

// sums[row] += values * in for P pieces of `size` weights.
template <typename A, typename E, int V, int P>
RSN2_INLINE void add_pieces(const TaskLinearPiece* piece, int size, const uint8_t* column, const E* values, const A* in,
                            A* sums) {
  constexpr int width = V * kLanes<A>;
  const E* value[P];
  RSN2_UNROLL
  for (int p = 0; p < P; ++p) {
    value[p] = values + piece[p].first;
    __builtin_prefetch(values + piece[PREFETCH_DISTANCE + p].first);  // the values of a bunch lie apart
    __builtin_prefetch(values + piece[PREFETCH_DISTANCE + p].first + 16);
  }
  Vec<A> sum[P][V] = {};
  int i = 0;
  for (; i + 8 <= size; i += 8) {
    RSN2_UNROLL
    for (int p = 0; p < P; ++p) {
      const uint64_t columns = load_columns(column + p * size + i);
      add_four<A, E, V>(value[p] + i, columns, 0, in, sum[p]);
      add_four<A, E, V>(value[p] + i + 4, columns, 4, in, sum[p]);
    }
  }
  if (i + 4 <= size) {
    RSN2_UNROLL
    for (int p = 0; p < P; ++p) {
      add_four<A, E, V>(value[p] + i, load_columns(column + p * size + i), 0, in, sum[p]);
    }
    i += 4;
  }
  for (; i < size; ++i) {
    RSN2_UNROLL
    for (int p = 0; p < P; ++p) {
      add_weight<A, V>(broadcast<A>(load_one<A, E>(value[p] + i)), in + int64_t(column[p * size + i]) * width, sum[p]);
    }
  }
  RSN2_UNROLL
  for (int p = 0; p < P; ++p) {
    A* to = sums + int64_t(piece[p].row) * width;
    RSN2_UNROLL
    for (int v = 0; v < V; ++v) store<A>(to + v * kLanes<A>, load<A>(to + v * kLanes<A>) + sum[p][v]);
  }
}

// The same for one piece whose weights are scattered over the values.
template <typename A, typename E, int V>
RSN2_INLINE void add_scattered(const TaskLinearPiece& piece, int size, const uint8_t* column, const int32_t* place,
                               const E* values, const A* in, A* sums) {
  constexpr int width = V * kLanes<A>;
  Vec<A> sum[V] = {};
  for (int i = 0; i < size; ++i) {
    add_weight<A, V>(broadcast<A>(load_one<A, E>(values + place[i])), in + int64_t(column[i]) * width, sum);
  }
  A* to = sums + int64_t(piece.row) * width;
  RSN2_UNROLL
  for (int v = 0; v < V; ++v) store<A>(to + v * kLanes<A>, load<A>(to + v * kLanes<A>) + sum[v]);
}

// What some panels hold of one block. `in` is the tile of the block, `sums` that of the panels.
template <typename A, typename E, int V>
static void add_block(const TaskLinearMatrix& m, int64_t block, int64_t first_panel, int64_t last_panel, const A* in,
                      A* sums) {
  constexpr int P = V == 1 ? 4 : V == 2 ? 2 : 1;
  const E* values = static_cast<const E*>(m.values);
  const TaskLinearStart* start = m.starts + block * m.num_panels + first_panel;
  const TaskLinearPiece* piece = m.pieces + start->piece;
  const uint8_t* column = m.columns + start->weight;
  const int32_t* place = m.places ? m.places + start->weight : nullptr;
  for (int64_t panel = first_panel; panel < last_panel; ++panel, ++start, sums += m.panel_rows * V * kLanes<A>) {
    for (const TaskLinearBunch *bunch = m.bunches + start[0].bunch, *last = m.bunches + start[1].bunch; bunch != last;
         ++bunch) {
      const int size = bunch->size;
      int left = bunch->count;
      if (place) {
        for (; left > 0; --left, ++piece, column += size, place += size) {
          add_scattered<A, E, V>(*piece, size, column, place, values, in, sums);
        }
        continue;
      }
      for (; left >= P; left -= P, piece += P, column += P * size) {
        add_pieces<A, E, V, P>(piece, size, column, values, in, sums);
      }
      if (P > 1) {
        for (; left > 0; --left, ++piece, column += size) {
          add_pieces<A, E, V, 1>(piece, size, column, values, in, sums);
        }
      }
    }
  }
}
