// The plan of a mixed batch: a stable counting sort of its rows by slot, in one block. A batch of one slot needs none,
// only, under RSN2_DEBUG=1, a look at the slot.
//
// All threads count; one warp sums the counts; then chunks of one row for each thread are placed, warp after warp, so
// that the order of a slot's rows is theirs in the batch and every run gives the same.
#pragma once

#include "gather_index.h"
#include "groups.h"

namespace rsn2 {

constexpr int kMostSlots = 4096;

RSN2_DEVICE void stop_out_of_range() { fail("slots: an id is out of range"); }

struct Plan {
  struct Arguments {
    const int64_t* slots;  // [B]
    int64_t slots_stride;
    int64_t num_rows;   // B
    GatherIndex index;  // T is read from it
    int tile_rows;
    bool debug;        // an id out of range stops the device
    int32_t* offsets;  // [T + 2]
    int32_t* tiles;    // [T + 2]
    int32_t* order;    // [B]
  };
  static constexpr int kThreads = 1024;
  static constexpr int kMinBlocks = 1;
  static constexpr int64_t kSharedBytes = (kMostSlots + 1) * int64_t(sizeof(int));

  static RSN2_DEVICE void run(const Arguments& a) {
    const int T = a.index.num_slots();
    int* cursor = reinterpret_cast<int*>(shared_memory());  // [T + 1] rows counted, then where the next one goes
    for (int g = thread_index(); g <= T; g += kThreads) cursor[g] = 0;
    sync_threads();
    for (int64_t i = thread_index(); i < a.num_rows; i += kThreads) atomic_add_shared(cursor + group_of(a, T, i), 1);
    sync_threads();
    if (warp_index() == 0) sum_up(a, T, cursor);
    sync_threads();
    for (int64_t chunk = 0; chunk < a.num_rows; chunk += kThreads) {
      const int64_t i = chunk + thread_index();
      const bool is_row = i < a.num_rows;
      const int group = is_row ? group_of(a, T, i) : T + 1;  // no row: a group of its own
      const uint32_t same = match_any(uint32_t(group));
      for (int warp = 0; warp < kThreads / kWarp; ++warp) {
        if (warp == warp_index() && is_row) {
          const int rank = count_bits(same & lanes_before());
          a.order[cursor[group] + rank] = int32_t(i);
        }
        sync_threads();
        if (warp == warp_index() && is_row && (same & lanes_before()) == 0) cursor[group] += count_bits(same);
        sync_threads();
      }
    }
  }

 private:
  static RSN2_DEVICE int group_of(const Arguments& a, int T, int64_t i) {
    const int slot = checked_slot(a.slots[i * a.slots_stride], T);
    if (slot < 0 && a.debug) stop_out_of_range();
    return slot < 0 ? T : slot;
  }

  // cursor[g] = rows before group g; also writes offsets and tiles.
  static RSN2_DEVICE void sum_up(const Arguments& a, int T, int* cursor) {
    int rows_before = 0, tiles_before = 0;
    for (int first = 0; first <= T; first += kWarp) {
      const int g = first + lane_index();
      const int rows = g <= T ? cursor[g] : 0, tiles = rows / a.tile_rows + (rows % a.tile_rows != 0);
      const int row_sum = sum_to_here(rows), tile_sum = sum_to_here(tiles);
      if (g <= T) {
        cursor[g] = a.offsets[g] = rows_before + row_sum - rows;
        a.tiles[g] = tiles_before + tile_sum - tiles;
      }
      rows_before += shuffle(row_sum, kWarp - 1);
      tiles_before += shuffle(tile_sum, kWarp - 1);
    }
    if (lane_index() == 0) {
      a.offsets[T + 1] = rows_before;
      a.tiles[T + 1] = tiles_before;
    }
  }

  static RSN2_DEVICE int sum_to_here(int value) {
    for (int distance = 1; distance < kWarp; distance *= 2) {
      const int before = shuffle_up(value, distance);
      if (lane_index() >= distance) value += before;
    }
    return value;
  }
};

// Stops the device when a batch's one slot is out of range.
struct SlotCheck {
  struct Arguments {
    const int64_t* slot;
    GatherIndex index;
  };
  static constexpr int kThreads = kWarp;
  static constexpr int kMinBlocks = 1;

  static RSN2_DEVICE void run(const Arguments& a) {
    if (checked_slot(a.slot[0], a.index.num_slots()) < 0) stop_out_of_range();
  }
};

}  // namespace rsn2
