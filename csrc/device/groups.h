// Rows of a batch, grouped by slot, as kernels walk them: in tiles of up to `tile_rows` rows of one slot.
#pragma once

#include "platform.h"

namespace rsn2 {

// Where the plan of a mixed batch lies, for T slots and B rows. Group T are the rows whose slot is out of range.
//   offsets [T + 2]: group g is order[offsets[g]] .. order[offsets[g + 1]]
//   tiles [T + 2]: tiles of the groups before g
//   order [B]: rows
struct Groups {
  const int64_t* slots;    // [1], or [B] when mixed
  const int32_t* offsets;  // null: all rows have one slot, in their order
  const int32_t* tiles;
  const int32_t* order;
  int64_t num_rows;
  int tile_rows;
};

// Where a number of an array [rows, columns] lies, or of [parts, rows, columns]: in 64 bits, whatever its place is
// reckoned from.
RSN2_HOST_DEVICE int64_t place_in(int64_t row, int64_t row_stride, int64_t column) { return row * row_stride + column; }
RSN2_HOST_DEVICE int64_t place_in(int64_t part, int64_t num_rows, int64_t row, int64_t num_columns, int64_t column) {
  return place_in(part * num_rows + row, num_columns, column);
}

// Rows `first` .. `first + count` of a slot's part of the order.
struct RowTile {
  int slot;  // -1: out of range, the results are NaN
  int64_t first;
  int count;
};

// The slot that a single id names, -1 when it is out of range.
RSN2_DEVICE int checked_slot(int64_t id, int num_slots) { return id >= 0 && id < num_slots ? int(id) : -1; }

RSN2_DEVICE int64_t num_row_tiles(const Groups& groups, int num_slots) {
  return groups.offsets ? groups.tiles[num_slots + 1] : ceil_div<int64_t>(groups.num_rows, groups.tile_rows);
}

RSN2_DEVICE RowTile row_tile(const Groups& groups, int num_slots, int64_t tile) {
  if (!groups.offsets) {
    const int64_t first = tile * groups.tile_rows;
    return {checked_slot(groups.slots[0], num_slots), first,
            int(least<int64_t>(groups.tile_rows, groups.num_rows - first))};
  }
  int low = 0, high = num_slots + 1;  // the last group whose tiles begin at or before this one
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (groups.tiles[middle] <= tile) {
      low = middle;
    } else {
      high = middle;
    }
  }
  const int64_t first = groups.offsets[low] + (tile - groups.tiles[low]) * groups.tile_rows;
  return {low == num_slots ? -1 : low, first, int(least<int64_t>(groups.tile_rows, groups.offsets[low + 1] - first))};
}

// Row i of the order as a row of the batch.
RSN2_DEVICE int64_t row_at(const Groups& groups, int64_t i) { return groups.order ? groups.order[i] : i; }

// All rows of one slot: the part of the order that is its own.
struct RowRange {
  int64_t first, last;
};
RSN2_DEVICE RowRange rows_of_slot(const Groups& groups, int num_slots, int slot) {
  if (slot < 0 || slot >= num_slots) return {0, 0};
  if (groups.offsets) return {groups.offsets[slot], groups.offsets[slot + 1]};
  return {0, checked_slot(groups.slots[0], num_slots) == slot ? groups.num_rows : 0};
}

}  // namespace rsn2
