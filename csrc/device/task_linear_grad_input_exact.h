// The gradient of the input in float32 and float64, from the owned weights only.
//
// A warp computes 256 columns of grad_x for 32 rows of the batch of one slot, a row in each lane: it walks over the
// slot's weights in those columns, row by row of the weight, with that row's grad_y in a register, and adds to sums in
// shared memory, [256][32]. A lane only meets its own sums until they are stored.
#pragma once

#include "decode.h"
#include "task_linear_grad.h"

namespace rsn2 {

template <typename E>
struct GradInputExact {
 private:
  static constexpr int kWarps = 8 / int(sizeof(E));  // as many as let three blocks fit into a multiprocessor
  static constexpr int kPitch = kWarp + 1;           // odd: neighbouring columns lie in different banks

 public:
  struct Arguments {
    RowMatrix<E> grad_y;         // [B, O]
    PackedStore<E> own, frozen;  // one reads what either has
    Groups groups;               // in tiles of kTileRows
    E* grad_x;                   // [B, K], rows one after the other
    int num_parts;               // of the weight's rows
    E* parts;                    // [num_parts, B, K], rows in their order: instead when there is more than one
  };
  static constexpr int kThreads = kWarps * kWarp;
  static constexpr int kMinBlocks = 3;
  static constexpr int kTileRows = kThreads;
  static constexpr int64_t kSharedBytes = kWarps * kSpanColumns * kPitch * int64_t(sizeof(E));

  static RSN2_DEVICE void run(const Arguments& a) {
    const GatherIndex& index = a.own.index;
    const int T = index.num_slots();
    const int64_t spans = index.num_spans(), items = num_row_tiles(a.groups, T) * spans * a.num_parts;
    E* sums = reinterpret_cast<E*>(shared_memory()) + warp_index() * kSpanColumns * kPitch;
    for (int64_t item = block_index(); item < items; item += num_blocks()) {
      const RowTile rows = row_tile(a.groups, T, item / (spans * a.num_parts));
      const int64_t span = item / a.num_parts % spans;
      const int part = int(item % a.num_parts);
      const int row = row_before(a.groups, rows.first + thread_index(), rows.first + rows.count);
      const E start = rows.slot < 0 ? NotANumber<E>::value() : E(0);
      for (int c = 0; c < kSpanColumns; ++c) sums[c * kPitch + lane_index()] = start;
      RSN2_NO_UNROLL
      for (int second = 0; second < 2; ++second) {
        const SlotWeights<E> weights = weights_of(second ? a.frozen : a.own, rows.slot);
        if (weights.owns_any()) add_up(a, weights, row, span, part, sums + lane_index());
      }
      sync_warp();
      const int64_t place = a.num_parts > 1 ? place_in(part, a.groups.num_rows, rows.first + thread_index()) : row;
      store(a, row < 0 ? -1 : place, span * kSpanColumns, sums);
      sync_warp();
    }
  }

 private:
  static RSN2_DEVICE void add_up(const Arguments& a, const SlotWeights<E>& weights, int row, int64_t span, int part,
                                 E* sums) {
    const Range panels = part_of(0, weights.num_panels, 1, part, a.num_parts);
    for (int64_t panel = panels.first; panel < panels.last; ++panel) {
      const int64_t tile = panel * weights.num_spans + span;
      const ValueRange all = weights.table.of_tile(tile);
      if (all.first == all.last) continue;
      E next = a.grad_y.at(row, panel * kPanelRows);
      RSN2_NO_UNROLL
      for (int r = 0; r < kPanelRows; ++r) {
        const E grad_y = next;
        if (r + 1 < kPanelRows) next = a.grad_y.at(row, panel * kPanelRows + r + 1);
        const ValueRange values = weights.table.of_row(tile, r);
        int64_t j = values.first;
        for (; j + 8 <= values.last; j += 8) add<8>(weights, j, grad_y, sums);
        if (j + 4 <= values.last) {
          add<4>(weights, j, grad_y, sums);
          j += 4;
        }
        for (; j < values.last; ++j) add<1>(weights, j, grad_y, sums);
      }
    }
  }

  // Weights of one row have different columns: all sums are read before any is written.
  template <int kCount>
  static RSN2_DEVICE void add(const SlotWeights<E>& weights, int64_t j, E grad_y, E* sums) {
    E* to[kCount];
    E sum[kCount];
    RSN2_UNROLL
    for (int i = 0; i < kCount; ++i) {
      to[i] = sums + int(weights.columns[j + i]) * kPitch;
      sum[i] = *to[i] + weights.values[j + i] * grad_y;
    }
    RSN2_UNROLL
    for (int i = 0; i < kCount; ++i) *to[i] = sum[i];
  }

  // Each lane's sums to row `place` of the result or of the parts; -1: none.
  static RSN2_DEVICE void store(const Arguments& a, int64_t place, int64_t first_column, const E* sums) {
    const int64_t K = a.own.index.num_columns();
    E* result = a.num_parts > 1 ? a.parts : a.grad_x;
    for (int i = 0; i < kWarp; ++i) {
      const int64_t to_place = shuffle(place, i);
      if (to_place < 0) continue;
      E* to = result + place_in(to_place, K, first_column);
      for (int c = lane_index(); c < least<int64_t>(kSpanColumns, K - first_column); c += kWarp) {
        to[c] = sums[c * kPitch + i];
      }
    }
  }
};

}  // namespace rsn2
