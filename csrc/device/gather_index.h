// How kernels read the index that rsn2_kernels/formats/gather_index.py derives from the positions.
//
// A weight matrix [O, K] is cut into panels of 16 rows and spans of 256 columns; a tile is where they cross. For each
// slot the index says where each tile's values begin, and each row's inside the tile; for each value, its column inside
// the span.
#pragma once

#include "platform.h"

namespace rsn2 {

constexpr int kPanelRows = 16;
constexpr int kSpanColumns = 256;

// Values first .. last of the store.
struct ValueRange {
  int64_t first, last;
};

// One slot's tiles. A slot that owns nothing has no tables: `owns_any` is false, and nothing else may be asked.
struct SlotTable {
  const uint16_t* row_starts;  // [tiles][16]
  const int32_t* tile_starts;  // [tiles + 1]
  bool owns_any;

  RSN2_DEVICE ValueRange of_tile(int64_t tile) const { return {tile_starts[tile], tile_starts[tile + 1]}; }
  // Row 0 .. 15 of a tile.
  RSN2_DEVICE ValueRange of_row(int64_t tile, int row) const {
    const int32_t* tile_start = in_global(tile_starts + tile);
    const uint16_t* row_start = in_global(row_starts + tile * kPanelRows + row);
    const int64_t first = tile_start[0];
    return {first + row_start[0], row + 1 < kPanelRows ? first + row_start[1] : int64_t(tile_start[1])};
  }
};

// The shape is the caller's: host code cannot look into the index without waiting for the device. An index of another
// shape, or of more slots than the positions can hold, has no slots, so that all results are NaN and nothing is read
// where there is nothing.
struct GatherIndex {
  const int32_t* words;
  int32_t rows, columns;                  // O, K
  int32_t most_slots;                     // that host code has made room for
  const int32_t* beside_words = nullptr;  // of a second store that must have the same shape; null: there is none

  RSN2_DEVICE int num_slots() const {
    return words[1] <= most_slots && fits(words) && (!beside_words || fits(beside_words)) ? words[1] : 0;
  }
  RSN2_DEVICE int64_t num_rows() const { return rows; }
  RSN2_DEVICE int64_t num_columns() const { return columns; }
  RSN2_DEVICE int64_t num_panels() const { return ceil_div(rows, kPanelRows); }
  RSN2_DEVICE int64_t num_spans() const { return ceil_div(columns, kSpanColumns); }
  RSN2_DEVICE const uint8_t* columns_of_values() const { return reinterpret_cast<const uint8_t*>(words + words[7]); }
  // Of a slot that is there.
  RSN2_DEVICE SlotTable table(int slot) const {
    const int32_t* at = words + words[8 + slot];
    return {reinterpret_cast<const uint16_t*>(at), at + num_panels() * num_spans() * (kPanelRows / 2), at != words};
  }
  // A slot's values; none of one that is not there.
  RSN2_DEVICE ValueRange values_of(int slot) const {
    if (slot < 0 || slot >= num_slots()) return {0, 0};
    const SlotTable tiles = table(slot);
    if (!tiles.owns_any) return {0, 0};
    return {tiles.tile_starts[0], tiles.tile_starts[num_panels() * num_spans()]};
  }

 private:
  RSN2_DEVICE bool fits(const int32_t* index) const { return index[2] == rows && index[3] == columns; }
};

// Gradients that no value has are NaN: all of a wanted slot that is not there, and those past the values of one that
// owns fewer than the caller said. All threads of a block.
template <int kThreads, typename V>
RSN2_DEVICE void spoil(V* grads, int64_t first, int64_t last) {
  RSN2_NO_UNROLL
  for (int64_t i = first + thread_index(); i < last; i += kThreads) {
    grads[i] = Convert<V, float>::from(NotANumber<float>::value());
  }
}

}  // namespace rsn2
