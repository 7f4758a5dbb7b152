// The gradient of owned values in float32 and float64, at the owned positions only.
//
// A block computes 64 rows and 256 columns of one wanted slot's gradient, walking over the slot's rows of the batch in
// chunks of which a lane holds 8 bytes of every column: x and grad_y lie transposed in shared memory. A warp has each
// eighth row of the weight; its lanes hold grad_y of that row, and the sums of 32 weights at a time are exchanged so
// that lane l ends up with weight l. The same lane adds the same weight's chunks, in their order, to the result itself.
#pragma once

#include "task_linear_grad.h"

namespace rsn2 {

// Lanes a `distance` apart each keep the half of their numbers that is theirs and add what the other gives for it.
template <int distance, typename E>
RSN2_DEVICE void exchange_halves(E (&numbers)[kWarp]) {
  const bool is_upper = (lane_index() & distance) != 0;
  RSN2_UNROLL
  for (int i = 0; i < distance; ++i) {
    const E keep = is_upper ? numbers[i + distance] : numbers[i];
    const E give = is_upper ? numbers[i] : numbers[i + distance];
    numbers[i] = keep + shuffle_xor(give, distance);
  }
}

// From every lane's numbers for 32 places: in lane l the sum over all lanes of place l, in a fixed order.
template <typename E>
RSN2_DEVICE E sum_transposed(E (&numbers)[kWarp]) {
  exchange_halves<16>(numbers);
  exchange_halves<8>(numbers);
  exchange_halves<4>(numbers);
  exchange_halves<2>(numbers);
  exchange_halves<1>(numbers);
  return numbers[0];
}

template <typename E>
struct GradValuesExact {
  struct Arguments {
    RowMatrix<E> x, grad_y;  // [B, I], [B, O]
    GatherIndex index;
    Groups groups;
    WantedSlots wanted;
    E* grads;
    int num_parts;        // of the slot's rows
    E* parts;             // [num_parts, part_stride]: what takes the sums instead when there is more than one
    int64_t part_stride;  // how many numbers all wanted slots own
  };
  static constexpr int kThreads = 256;
  static constexpr int kMinBlocks = 2;
  static constexpr int kRows = 64;  // of the weight

 private:
  static constexpr int kWarps = kThreads / kWarp;
  static constexpr int kEach = 8 / int(sizeof(E));  // rows of the batch in a lane
  static constexpr int kChunk = kWarp * kEach;
  static constexpr int kAhead = 4;          // numbers of a column that are on their way at the same time
  static constexpr int kPitch = kWarp + 1;  // odd: neighbouring columns lie in different banks
  struct alignas(8) Numbers {
    E of[kEach];
  };

 public:
  static constexpr int64_t kSharedBytes = (kSpanColumns + kRows) * kPitch * int64_t(sizeof(Numbers));

  static RSN2_HOST_DEVICE int64_t num_items(int64_t num_wanted, int64_t O, int64_t K) {
    return num_wanted * ceil_div<int64_t>(O, kRows) * ceil_div<int64_t>(K, kSpanColumns);
  }

  static RSN2_DEVICE void run(const Arguments& a) {
    const int64_t row_blocks = ceil_div<int64_t>(a.index.num_rows(), kRows), spans = a.index.num_spans();
    const int64_t items = num_items(a.wanted.count, a.index.num_rows(), a.index.num_columns()) * a.num_parts;
    Numbers* x = reinterpret_cast<Numbers*>(shared_memory());
    Numbers* grad_y = x + kSpanColumns * kPitch;
    for (int64_t i = block_index(); i < items; i += num_blocks()) {
      const int64_t item = i / a.num_parts;
      const int part = int(i % a.num_parts);
      const int w = int(item / (row_blocks * spans)), slot = a.wanted.slots[w];
      E* grads = a.num_parts > 1 ? a.parts + part * a.part_stride : a.grads;
      const ValueRange values = a.index.values_of(slot);
      if (item % (row_blocks * spans) == 0) {
        spoil<kThreads>(grads, a.wanted.starts[w] + values.last - values.first, a.wanted.starts[w + 1]);
      }
      if (values.first == values.last) continue;
      const SlotTable table = a.index.table(slot);
      const int64_t span = item / row_blocks % spans, first_row = item % row_blocks * kRows;
      const RowRange all = rows_of_slot(a.groups, a.index.num_slots(), slot);
      const Range rows = part_of(all.first, all.last, kChunk, part, a.num_parts);
      const WantedPlaces places(a.wanted, w, table);
      int64_t first = rows.first;
      do {  // once without rows: zeros
        int ids[kEach];
        RSN2_UNROLL
        for (int e = 0; e < kEach; ++e) ids[e] = row_before(a.groups, first + lane_index() * kEach + e, rows.last);
        transpose<kSpanColumns>(a.x, ids, span * kSpanColumns, x);
        transpose<kRows>(a.grad_y, ids, first_row, grad_y);
        sync_threads();
        for (int r = warp_index(); r < kRows; r += kWarps) {
          const int64_t panel = (first_row + r) / kPanelRows;
          if (panel >= a.index.num_panels()) break;
          const ValueRange row = table.of_row(panel * spans + span, r % kPanelRows);
          add_row(a, row, grad_y[r * kPitch + lane_index()], x, first == rows.first, places, grads);
        }
        sync_threads();
        first += kChunk;
      } while (first < rows.last);
    }
  }

 private:
  // kColumns columns of a chunk of the batch, to[column][lane].
  template <int kColumns>
  static RSN2_DEVICE void transpose(const RowMatrix<E>& matrix, const int (&ids)[kEach], int64_t first_column,
                                    Numbers* to) {
    constexpr int kGroups = kColumns / kWarp, kApart = kWarps / kGroups;
    const int column = warp_index() % kGroups * kWarp + lane_index();
    RSN2_NO_UNROLL
    for (int first = warp_index() / kGroups; first < kWarp; first += kAhead * kApart) {
      Numbers numbers[kAhead];
      RSN2_UNROLL
      for (int i = 0; i < kAhead; ++i) {
        RSN2_UNROLL
        for (int e = 0; e < kEach; ++e) {
          numbers[i].of[e] = matrix.at(shuffle(ids[e], first + i * kApart), first_column + column);
        }
      }
      RSN2_UNROLL
      for (int i = 0; i < kAhead; ++i) to[column * kPitch + first + i * kApart] = numbers[i];
    }
  }

  static RSN2_DEVICE void add_row(const Arguments& a, const ValueRange& values, const Numbers& grad_y, const Numbers* x,
                                  bool is_first, const WantedPlaces& places, E* grads) {
    for (int64_t batch = values.first / 4 * 4; batch < values.last; batch += kWarp) {
      const uint32_t* columns = reinterpret_cast<const uint32_t*>(a.index.columns_of_values() + batch);
      E sums[kWarp];
      RSN2_UNROLL
      for (int i = 0; i < kWarp; i += 4) {
        RSN2_UNROLL
        for (int k = 0; k < 4; ++k) sums[i + k] = 0;
        if (batch + i >= values.last) continue;
        const uint32_t four = columns[i / 4];  // of weights beyond the row's own, too, which nobody stores
        RSN2_UNROLL
        for (int k = 0; k < 4; ++k) {
          const Numbers numbers = x[int(four >> (8 * k) & 255u) * kPitch + lane_index()];
          RSN2_UNROLL
          for (int e = 0; e < kEach; ++e) sums[i + k] += grad_y.of[e] * numbers.of[e];
        }
      }
      const E sum = sum_transposed(sums);
      const int64_t j = batch + lane_index();
      const int64_t place = j >= values.first && j < values.last ? places.of_value(j) : -1;
      if (place >= 0) grads[place] = is_first ? sum : grads[place] + sum;
    }
  }
};

}  // namespace rsn2
