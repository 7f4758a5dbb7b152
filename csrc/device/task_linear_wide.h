// task_linear without tensor cores, for float32 and float64 and any number of rows.
//
// A block computes kRows rows of one slot times 64 outputs. It keeps the rows' numbers of one span in shared memory,
// those of one column side by side; a warp takes four rows of the weight matrix, its lanes the rows of the batch, so
// that a weight and its column are read once for all lanes, four weights at a time. What each multiplication needs of
// shared memory is the bound: one number.
#pragma once

#include "task_linear_common.h"

namespace rsn2 {

template <typename E, int kRows>
struct LinearWide {
  using Arguments = TaskLinear<E, E>;
  static constexpr int kThreads = 512;
  static constexpr int kMinBlocks = 2;
  static constexpr int kOutputs = 64;
  static constexpr int kEach = kRows / kWarp;     // rows of the batch for each lane
  static constexpr int kPitch = kRows + kEach;    // numbers of a column: lanes that store columns meet all banks
  static constexpr int kSumPitch = kOutputs + 1;  // sums on their way out: [kRows][64]
  static constexpr int64_t kSharedBytes = int64_t(kSpanColumns) * kPitch * int64_t(sizeof(E));
  static_assert(kRows * kSumPitch <= kSpanColumns * kPitch, "the sums fit where the inputs were");

  static RSN2_DEVICE void run(const Arguments& a) {
    const int64_t pieces = num_pieces<kOutputs>(a);
    for (int64_t i = block_index(); i < pieces; i += num_blocks()) compute(a, piece_at<kOutputs>(a, i));
  }

 private:
  static constexpr int kWarps = kThreads / kWarp;
  static constexpr int kOutputsEach = kOutputs / kWarps;
  static constexpr int kAhead = 4;  // columns on their way from memory together
  struct alignas(kEach * sizeof(E)) Vector {
    E numbers[kEach];
  };
  struct alignas(4 * sizeof(E) < 16 ? 4 * sizeof(E) : 16) Four {
    E numbers[4];
  };
  struct alignas(4) FourColumns {
    uint8_t numbers[4];
  };

  static RSN2_DEVICE void compute(const Arguments& a, const LinearPiece& piece) {
    const SlotWeights<E> own = weights_of(a.weight, piece.rows.slot);
    const bool has_frozen = weights_of(a.frozen, piece.rows.slot).owns_any();
    E sums[kOutputsEach][kEach] = {};
    if (own.owns_any() || has_frozen) {
      const Spans spans = spans_of(a.weight.index.num_spans(), piece.split, a.splits);
      const int64_t output = piece.output + warp_index() * kOutputsEach;
      for (int span = int(spans.first); span < int(spans.last); ++span) {
        load_inputs(a, piece.rows, span);
        sync_threads();
        add_rows(own, output, span, sums);
        if (has_frozen) add_rows(weights_of(a.frozen, piece.rows.slot), output, span, sums);  // asked anew: registers
        sync_threads();
      }
    }
    store(a, piece, sums);
  }

  // Zeros in place of missing rows and columns.
  static RSN2_DEVICE void load_inputs(const Arguments& a, const RowTile& rows, int64_t span) {
    E* inputs = reinterpret_cast<E*>(shared_memory());
    RSN2_NO_UNROLL
    for (int lane = warp_index(); lane < kWarp; lane += kWarps) {  // whose rows these are
      int64_t at[kEach];
      bool is_row[kEach];
      RSN2_UNROLL
      for (int r = 0; r < kEach; ++r) {
        is_row[r] = lane * kEach + r < rows.count;
        at[r] = is_row[r] ? place_in(row_at(a.groups, rows.first + lane * kEach + r), a.x_stride, 0) : 0;
      }
      RSN2_NO_UNROLL
      for (int first = lane_index(); first < kSpanColumns; first += kAhead * kWarp) {
        RSN2_UNROLL
        for (int i = 0; i < kAhead; ++i) {
          const int c = first + i * kWarp;
          const int64_t column = span * kSpanColumns + c;
          Vector vector;
          RSN2_UNROLL
          for (int r = 0; r < kEach; ++r) {
            vector.numbers[r] = is_row[r] && column < a.num_inputs ? a.x[at[r] + column] : E(0);
          }
          *reinterpret_cast<Vector*>(inputs + c * kPitch + lane * kEach) = vector;
        }
      }
    }
  }

  static RSN2_DEVICE Four four_at(const E* values) { return {{values[0], values[1], values[2], values[3]}}; }

  // Adds this warp's rows of the weight matrix times the inputs of a span: products in fours, fours in spans, so that
  // chains of sums are short and roundings few.
  static RSN2_DEVICE void add_rows(const SlotWeights<E>& weights, int64_t output, int64_t span,
                                   E (&sums)[kOutputsEach][kEach]) {
    const bool aligned = reinterpret_cast<uintptr_t>(weights.values) % alignof(Four) == 0;
    // Lane i looks up row i. The index holds fewer than 2^31 weights.
    const int64_t looked_up = output + lane_index() % kOutputsEach, panel = looked_up / kPanelRows;
    int my_first = 0, my_last = 0;
    if (panel < weights.num_panels) {
      const ValueRange range = weights.table.of_row(panel * weights.num_spans + span, int(looked_up % kPanelRows));
      my_first = int(range.first), my_last = int(range.last);
    }
    RSN2_UNROLL
    for (int i = 0; i < kOutputsEach; ++i) {
      int j = shuffle(my_first, i);
      const int last = shuffle(my_last, i);
      E of_span[kEach] = {};
      RSN2_NO_UNROLL
      for (; j < last && j % 4 != 0; ++j) add_weight(weights.values[j], weights.columns[j], of_span);
      RSN2_NO_UNROLL
      for (; j + 4 <= last; j += 4) {
        const Four value = aligned ? *reinterpret_cast<const Four*>(weights.values + j) : four_at(weights.values + j);
        const FourColumns column = *reinterpret_cast<const FourColumns*>(weights.columns + j);
        E of_four[kEach] = {};
        RSN2_UNROLL
        for (int k = 0; k < 4; ++k) add_weight(value.numbers[k], column.numbers[k], of_four);
        add(of_four, of_span);
      }
      RSN2_NO_UNROLL
      for (; j < last; ++j) add_weight(weights.values[j], weights.columns[j], of_span);
      add(of_span, sums[i]);
    }
  }

  static RSN2_DEVICE void add(const E (&more)[kEach], E (&sums)[kEach]) {
    RSN2_UNROLL
    for (int r = 0; r < kEach; ++r) sums[r] += more[r];
  }

  static RSN2_DEVICE void add_weight(E weight, int column, E (&sums)[kEach]) {
    const E* inputs = reinterpret_cast<const E*>(shared_memory());
    const Vector vector = *reinterpret_cast<const Vector*>(inputs + column * kPitch + lane_index() * kEach);
    RSN2_UNROLL
    for (int r = 0; r < kEach; ++r) sums[r] += weight * vector.numbers[r];
  }

  // Through shared memory, so that a warp stores outputs side by side.
  static RSN2_DEVICE void store(const Arguments& a, const LinearPiece& piece, const E (&sums)[kOutputsEach][kEach]) {
    E* staged = reinterpret_cast<E*>(shared_memory());
    RSN2_UNROLL
    for (int i = 0; i < kOutputsEach; ++i) {
      RSN2_UNROLL
      for (int r = 0; r < kEach; ++r) {
        staged[(lane_index() * kEach + r) * kSumPitch + warp_index() * kOutputsEach + i] = sums[i][r];
      }
    }
    sync_threads();
    for (int i = warp_index(); i < piece.rows.count; i += kWarps) {
      const int64_t row = row_at(a.groups, piece.rows.first + i);
      RSN2_UNROLL
      for (int o = lane_index(); o < kOutputs; o += kWarp) {
        if (piece.output + o < a.num_outputs) {
          store_sum(a, piece, row, piece.output + o, staged[i * kSumPitch + o]);
        }
      }
    }
    sync_threads();  // the inputs may be overwritten
  }
};

}  // namespace rsn2
