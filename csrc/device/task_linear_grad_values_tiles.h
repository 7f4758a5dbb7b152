// The gradient of owned values from 16-bit inputs, on tensor cores.
//
// A block computes grad_y^T x of one wanted slot for 64 rows and 256 columns of the weight, densely, walking over the
// slot's rows of the batch in steps of 32; a warp has 32 of the columns. Only owned positions are stored. The batch is
// what is summed over, and both matrices lie in memory row by row of it: both operands are transposed as they are read
// from shared memory.
#pragma once

#include "task_linear_grad.h"

namespace rsn2 {

template <typename E, typename V>  // of x and grad_y; of values
struct GradValuesTiles {
  struct Arguments {
    RowMatrix<E> x, grad_y;  // [B, I], [B, O]
    GatherIndex index;
    Groups groups;
    WantedSlots wanted;
    V* grads;
    int num_parts;        // of the slot's rows
    float* parts;         // [num_parts, part_stride]: what takes the sums instead when there is more than one
    int64_t part_stride;  // how many numbers all wanted slots own
  };
  static constexpr int kThreads = 256;
  static constexpr int kMinBlocks = 2;
  static constexpr int kRows = 64;  // of the weight
  static constexpr int kSteps = 3;  // of the batch in shared memory

 private:
  static constexpr int kStep = kWarp;
  static constexpr int kColumnsOfWarp = kSpanColumns / (kThreads / kWarp);
  static constexpr int kPanels = kRows / kPanelRows;
  // Odd numbers of 16 bytes, so that eight rows lie in different banks.
  static constexpr int kPitchX = kSpanColumns + 8, kPitchGradY = kRows + 8;
  static constexpr int kNumbersOfStep = kStep * (kPitchX + kPitchGradY);
  static constexpr int kPitchSums = kSpanColumns + 8;
  static_assert(kColumnsOfWarp == 32, "a warp's columns are two pairs of 8");

 public:
  static constexpr int64_t kSharedBytes = int64_t(kSteps) * kNumbersOfStep * int64_t(sizeof(E));
  static_assert(kSharedBytes >= kPanelRows * kPitchSums * int64_t(sizeof(float)), "a panel's sums fit in");

  static RSN2_HOST_DEVICE int64_t num_items(int64_t num_wanted, int64_t O, int64_t K) {
    return num_wanted * ceil_div<int64_t>(O, kRows) * ceil_div<int64_t>(K, kSpanColumns);
  }

  static RSN2_DEVICE void run(const Arguments& a) {
    const int64_t row_blocks = ceil_div<int64_t>(a.index.num_rows(), kRows), spans = a.index.num_spans();
    const int64_t items = num_items(a.wanted.count, a.index.num_rows(), a.index.num_columns()) * a.num_parts;
    for (int64_t i = block_index(); i < items; i += num_blocks()) {
      const int64_t item = i / a.num_parts;
      const int part = int(i % a.num_parts);
      const int w = int(item / (row_blocks * spans)), slot = a.wanted.slots[w];
      const ValueRange values = a.index.values_of(slot);
      if (item % (row_blocks * spans) == 0) {
        const int64_t past = a.wanted.starts[w] + values.last - values.first, end = a.wanted.starts[w + 1];
        a.num_parts > 1 ? spoil<kThreads>(a.parts + part * a.part_stride, past, end)
                        : spoil<kThreads>(a.grads, past, end);
      }
      if (values.first == values.last) continue;
      const SlotTable table = a.index.table(slot);
      const int64_t span = item / row_blocks % spans, first_row = item % row_blocks * kRows;
      if (!owns_any(a, table, first_row, span)) continue;
      float sums[kPanels][4][4] = {};
      const RowRange all = rows_of_slot(a.groups, a.index.num_slots(), slot);
      const Range rows = part_of(all.first, all.last, kStep, part, a.num_parts);
      add_up(a, rows, first_row, span * kSpanColumns, sums);
      const WantedPlaces places(a.wanted, w, table);
      RSN2_UNROLL
      for (int p = 0; p < kPanels; ++p) {
        const int64_t panel = first_row / kPanelRows + p;
        write_sums(sums[p]);
        sync_threads();
        if (panel < a.index.num_panels()) store(a, table, panel * spans + span, part, places);
        sync_threads();
      }
    }
  }

 private:
  static RSN2_DEVICE bool owns_any(const Arguments& a, const SlotTable& table, int64_t first_row, int64_t span) {
    int64_t count = 0;
    for (int p = 0; p < kPanels; ++p) {
      const int64_t panel = first_row / kPanelRows + p;
      if (panel >= a.index.num_panels()) break;
      const ValueRange values = table.of_tile(panel * a.index.num_spans() + span);
      count += values.last - values.first;
    }
    return count > 0;
  }

  // sums[panel][8 columns]: as multiply_16x8x16 leaves them.
  static RSN2_DEVICE void add_up(const Arguments& a, const Range& rows, int64_t first_row, int64_t first_column,
                                 float (&sums)[kPanels][4][4]) {
    const int64_t steps = ceil_div<int64_t>(rows.last - rows.first, kStep);
    int row = row_before(a.groups, rows.first + lane_index(), rows.last);  // lane l has row l of the next step
    int64_t next = 0;
    auto copy = [&] {
      E* x = reinterpret_cast<E*>(shared_memory()) + next % kSteps * kNumbersOfStep;
      E* grad_y = x + kStep * kPitchX;
      if (next < steps) {
        for (int i = warp_index(); i < kStep; i += kThreads / kWarp) {
          copy_eight(x + i * kPitchX + lane_index() * 8, a.x, shuffle(row, i), first_column + lane_index() * 8);
        }
        const int i = thread_index() / 8, column = thread_index() % 8 * 8;
        copy_eight(grad_y + i * kPitchGradY + column, a.grad_y, shuffle(row, i), first_row + column);
        row = row_before(a.groups, rows.first + (next + 1) * kStep + lane_index(), rows.last);
      }
      commit_copies();
      ++next;
    };
    for (int i = 0; i < kSteps - 1; ++i) copy();
    for (int64_t step = 0; step < steps; ++step) {
      wait_for_copies<kSteps - 2>();
      sync_threads();  // this step is there, and all have left the one that the next copies replace
      copy();
      const E* x = reinterpret_cast<const E*>(shared_memory()) + step % kSteps * kNumbersOfStep;
      multiply_step(x, x + kStep * kPitchX, sums);
    }
    wait_for_copies<0>();
    sync_threads();
  }

  static RSN2_DEVICE void multiply_step(const E* x, const E* grad_y, float (&sums)[kPanels][4][4]) {
    const int lane = lane_index(), row = lane % 8, matrix = lane / 8;
    RSN2_UNROLL
    for (int k = 0; k < kStep; k += 16) {
      uint32_t left[kPanels][4], right[4][2];
      RSN2_UNROLL
      for (int p = 0; p < kPanels; ++p) {
        load_matrices_transposed(grad_y + (k + matrix / 2 * 8 + row) * kPitchGradY + p * kPanelRows + matrix % 2 * 8,
                                 left[p]);
      }
      RSN2_UNROLL
      for (int pair = 0; pair < 2; ++pair) {
        uint32_t two[4];
        load_matrices_transposed(
            x + (k + matrix % 2 * 8 + row) * kPitchX + warp_index() * kColumnsOfWarp + pair * 16 + matrix / 2 * 8, two);
        right[2 * pair][0] = two[0], right[2 * pair][1] = two[1];
        right[2 * pair + 1][0] = two[2], right[2 * pair + 1][1] = two[3];
      }
      RSN2_UNROLL
      for (int p = 0; p < kPanels; ++p) {
        RSN2_UNROLL
        for (int c = 0; c < 4; ++c) multiply_16x8x16<E>(sums[p][c], left[p], right[c]);
      }
    }
  }

  // A panel's sums into shared memory, [16][256].
  static RSN2_DEVICE void write_sums(const float (&sums)[4][4]) {
    float* to = reinterpret_cast<float*>(shared_memory());
    const int row = lane_index() / 4, column = warp_index() * kColumnsOfWarp + lane_index() % 4 * 2;
    RSN2_UNROLL
    for (int c = 0; c < 4; ++c) {
      RSN2_UNROLL
      for (int i = 0; i < 4; ++i) to[(row + i / 2 * 8) * kPitchSums + column + 8 * c + i % 2] = sums[c][i];
    }
  }

  static RSN2_DEVICE void store(const Arguments& a, const SlotTable& table, int64_t tile, int part,
                                const WantedPlaces& places) {
    const float* sums = reinterpret_cast<const float*>(shared_memory());
    const uint8_t* columns = a.index.columns_of_values();
    for (int row = warp_index(); row < kPanelRows; row += kThreads / kWarp) {
      const ValueRange values = table.of_row(tile, row);
      for (int64_t j = values.first + lane_index(); j < values.last; j += kWarp) {
        const int64_t place = places.of_value(j);
        const float sum = sums[row * kPitchSums + columns[j]];
        if (place < 0) continue;
        if (a.num_parts > 1) {
          a.parts[place_in(part, a.part_stride, place)] = sum;
        } else {
          a.grads[place] = Convert<V, float>::from(sum);
        }
      }
    }
  }
};

}  // namespace rsn2
