// Expands tiles of a slot's weights into shared memory, for tensor cores.
//
// A tile is kRows x 256 numbers, zero where the slot owns nothing, below the matrix and beyond its columns. Half a warp
// takes a row of it: its 16 lanes the row's weights, 16 at a time. The first 32 of each row are fetched into registers
// ahead, so that their way from memory is covered by what the block does in between:
//
//   TileWeights<kRows, kThreads, V> ahead;
//   ahead.fetch(weights, panel, span);      // any time before; no barrier
//   clear_tile<kRows, kThreads>(tile);      // when nobody reads the tile any more
//   sync_threads();
//   ahead.put(weights, tile);
//   sync_threads();                         // a second store's weights: fetch() and add() after this barrier, and one
//                                           // more barrier
#pragma once

#include "gather_index.h"

namespace rsn2 {

// Numbers of a row of a tile, of which 256 are used: 16 bytes more put the 8 rows that tensor cores read together into
// different banks.
template <typename E>
constexpr int kTilePitch = kSpanColumns + 16 / int(sizeof(E));

template <int kRows, typename E>
constexpr int64_t kTileBytes = int64_t(kRows) * kTilePitch<E> * int64_t(sizeof(E));

// A float as tensor cores take it.
struct Tf32 {
  uint32_t bits;
};
RSN2_DEVICE float to_float(Tf32 x) { return float_of_bits(x.bits); }
template <>
struct Convert<Tf32, float> {
  static RSN2_DEVICE Tf32 from(float x) { return {to_tf32(x)}; }
};

// V to E, rounded to nearest.
template <typename E, typename V>
struct Cast {
  static RSN2_DEVICE E from(V x) { return Convert<E, float>::from(to_float(x)); }
};
template <typename E>
struct Cast<E, E> {
  static RSN2_DEVICE E from(E x) { return x; }
};

// A packed weight of all slots. No words: there is none.
template <typename V>
struct PackedStore {
  const V* values;
  GatherIndex index;
};

// One slot's weights.
template <typename V>
struct SlotWeights {
  const V* values;         // of all slots
  const uint8_t* columns;  // of all slots
  SlotTable table;
  int64_t num_panels, num_spans;

  RSN2_DEVICE bool owns_any() const { return table.owns_any; }
};

// A slot out of range owns nothing, also one that only this store does not have. A slot that owns nothing has no
// panels; its pointers are some of the store's, for a null pointer among them would hide from the compiler that they
// lead to global memory.
template <typename V>
RSN2_DEVICE SlotWeights<V> weights_of(const PackedStore<V>& store, int slot) {
  const int32_t* words = store.index.words;
  SlotWeights<V> weights = {store.values,
                            reinterpret_cast<const uint8_t*>(words),
                            {reinterpret_cast<const uint16_t*>(words), words, false},
                            0,
                            0};
  if (words == nullptr || slot < 0 || slot >= store.index.num_slots()) return weights;
  weights.table = store.index.table(slot);
  if (!weights.owns_any()) return weights;
  weights.columns = store.index.columns_of_values();
  weights.num_panels = store.index.num_panels();
  weights.num_spans = store.index.num_spans();
  return weights;
}

struct alignas(16) SixteenBytes {
  uint32_t words[4];
};

// All threads of the block. The tile starts at a multiple of 16 bytes.
template <int kRows, int kThreads, typename E>
RSN2_DEVICE void clear_tile(E* tile) {
  SixteenBytes* pieces = reinterpret_cast<SixteenBytes*>(tile);
  for (int i = thread_index(); i < int(kTileBytes<kRows, E> / 16); i += kThreads) pieces[i] = {{0, 0, 0, 0}};
}

// What one thread holds of a tile of rows 16 panel .. 16 panel + kRows and of the 256 columns of a span.
template <int kRows, int kThreads, typename V>
class TileWeights {
  static constexpr int kHalfWarp = 16;
  static constexpr int kHalfWarps = kThreads / kHalfWarp;
  static constexpr int kRowsEach = kRows / kHalfWarps;  // this half warp's rows: its number, + kHalfWarps, ..
  static constexpr int kAhead = 2;                      // weights of a row held by a lane
  static_assert(kRows % kHalfWarps == 0 && kRows % kPanelRows == 0, "rows are dealt evenly to half warps");

 public:
  RSN2_DEVICE void fetch(const SlotWeights<V>& weights, int64_t panel, int64_t span) {
    RSN2_UNROLL
    for (int r = 0; r < kRowsEach; ++r) {
      const int row = row_of(r);
      const int64_t at_panel = panel + row / kPanelRows;
      first_[r] = count_[r] = 0;
      if (at_panel < weights.num_panels && span < weights.num_spans) {
        const ValueRange range = weights.table.of_row(at_panel * weights.num_spans + span, row % kPanelRows);
        first_[r] = int(range.first);  // the index holds fewer than 2^31 weights
        count_[r] = int(range.last - range.first);
      }
    }
    RSN2_UNROLL
    for (int r = 0; r < kRowsEach; ++r) {
      RSN2_UNROLL
      for (int i = 0; i < kAhead; ++i) {
        const int at = i * kHalfWarp + lane();
        if (at >= count_[r]) continue;
        value_[r][i] = weights.values[int64_t(first_[r]) + at];
        column_[r][i] = weights.columns[int64_t(first_[r]) + at];
      }
    }
  }

  // Into a cleared tile.
  template <typename E>
  RSN2_DEVICE void put(const SlotWeights<V>& weights, E* tile) const {
    for_each(weights, tile, [](E* at, V value) { *at = Cast<E, V>::from(value); });
  }

  // On top of what is there.
  template <typename E>
  RSN2_DEVICE void add(const SlotWeights<V>& weights, E* tile) const {
    for_each(weights, tile, [](E* at, V value) { *at = Convert<E, float>::from(to_float(*at) + to_float(value)); });
  }

 private:
  static RSN2_DEVICE int lane() { return thread_index() % kHalfWarp; }
  static RSN2_DEVICE int row_of(int r) { return r * kHalfWarps + thread_index() / kHalfWarp; }

  // A row's columns differ: every number of the tile is touched by one thread at most.
  template <typename E, class Function>
  RSN2_DEVICE void for_each(const SlotWeights<V>& weights, E* tile, const Function& function) const {
    RSN2_UNROLL
    for (int r = 0; r < kRowsEach; ++r) {
      E* row = tile + row_of(r) * kTilePitch<E>;
      RSN2_UNROLL
      for (int i = 0; i < kAhead; ++i) {
        if (i * kHalfWarp + lane() < count_[r]) function(row + column_[r][i], value_[r][i]);
      }
      RSN2_NO_UNROLL
      for (int at = kAhead * kHalfWarp + lane(); at < count_[r]; at += kHalfWarp) {
        const int64_t j = int64_t(first_[r]) + at;
        function(row + weights.columns[j], weights.values[j]);
      }
    }
  }

  int first_[kRowsEach], count_[kRowsEach];
  V value_[kRowsEach][kAhead];
  uint8_t column_[kRowsEach][kAhead];
};

}  // namespace rsn2
