// task_linear for a few rows: work in proportion to the owned weights.
//
// A block computes up to kRows rows of one slot times 64 outputs. It keeps the rows' numbers of some spans in shared
// memory as floats, those of one column side by side; half a warp takes a row of the weight matrix, its 16 lanes the
// weights that the slot owns of it, 16 at a time. Each lane sums for all rows; at the end the 16 sums are added up.
#pragma once

#include "task_linear_common.h"

namespace rsn2 {

template <typename E, typename V, int kRows>
struct LinearFew {
  using Arguments = TaskLinear<E, V>;
  static constexpr int kThreads = 256;
  static constexpr int kMinBlocks = kRows == 8 ? 2 : 3;
  static constexpr int kOutputs = 64;
  static constexpr int kSpansHeld = kRows == 8 ? 8 : 16;
  static constexpr int64_t kInputBytes = int64_t(kSpansHeld) * kSpanColumns * kRows * int64_t(sizeof(float));
  static constexpr int64_t kSharedBytes = kInputBytes + kOutputs * kRows * int64_t(sizeof(float));

  static RSN2_DEVICE void run(const Arguments& a) {
    const int64_t pieces = num_pieces<kOutputs>(a);
    for (int64_t i = block_index(); i < pieces; i += num_blocks()) compute(a, piece_at<kOutputs>(a, i));
  }

 private:
  static constexpr int kHalfWarp = 16;
  static constexpr int kHalfWarps = kThreads / kHalfWarp;
  static constexpr int kVector = kRows < 4 ? kRows : 4;  // numbers of a load from shared memory
  struct alignas(kVector * sizeof(float)) Vector {
    float numbers[kVector];
  };
  static constexpr int kVectors = kRows / kVector;

  // Where vector v of a column lies: the two of one column change places every four columns, so that lanes that read
  // the first of any columns meet all banks.
  static RSN2_DEVICE int vector_at(int column, int v) {
    return column * kVectors + (kVectors == 1 ? 0 : v ^ (column / 4 % kVectors));
  }

  static RSN2_DEVICE void compute(const Arguments& a, const LinearPiece& piece) {
    Vector* inputs = reinterpret_cast<Vector*>(shared_memory());
    float* sums = reinterpret_cast<float*>(shared_memory() + kInputBytes);  // [64][kRows], each its half warp's own
    const SlotWeights<V> own = weights_of(a.weight, piece.rows.slot), frozen = weights_of(a.frozen, piece.rows.slot);
    for (int i = thread_index(); i < kOutputs * kRows; i += kThreads) sums[i] = 0;
    if (own.owns_any() || frozen.owns_any()) {
      const Spans spans = spans_of(a.weight.index.num_spans(), piece.split, a.splits);
      for (int64_t first = spans.first; first < spans.last; first += kSpansHeld) {
        const int held = int(least<int64_t>(kSpansHeld, spans.last - first));
        load_inputs(a, piece.rows, first, held, inputs);
        sync_threads();
        for (int output = half_warp(); output < kOutputs; output += kHalfWarps) {
          float partial[kRows] = {};
          add_row(own, piece.output + output, first, held, inputs, partial);
          add_row(frozen, piece.output + output, first, held, inputs, partial);
          RSN2_UNROLL
          for (int r = 0; r < kRows; ++r) {
            RSN2_UNROLL
            for (int distance = kHalfWarp / 2; distance > 0; distance /= 2) {
              partial[r] += shuffle_xor(partial[r], distance);
            }
            if (lane() == r) sums[output * kRows + r] += partial[r];
          }
        }
        sync_threads();
      }
    }
    sync_threads();
    for (int i = thread_index(); i < kOutputs * piece.rows.count; i += kThreads) {
      const int r = i / kOutputs, output = i % kOutputs;
      if (piece.output + output < a.num_outputs) {
        store_sum(a, piece, row_at(a.groups, piece.rows.first + r), piece.output + output, sums[output * kRows + r]);
      }
    }
    sync_threads();  // the sums may be overwritten
  }

  // Zeros in place of missing rows and columns.
  static RSN2_DEVICE void load_inputs(const Arguments& a, const RowTile& rows, int64_t span, int held, Vector* inputs) {
    int64_t at[kRows];
    RSN2_UNROLL
    for (int r = 0; r < kRows; ++r)
      at[r] = place_in(row_at(a.groups, rows.first + (r < rows.count ? r : 0)), a.x_stride, 0);
    for (int c = thread_index(); c < held * kSpanColumns; c += kThreads) {
      const int64_t column = span * kSpanColumns + c;
      RSN2_UNROLL
      for (int v = 0; v < kVectors; ++v) {
        Vector vector;
        RSN2_UNROLL
        for (int i = 0; i < kVector; ++i) {
          const int r = v * kVector + i;
          vector.numbers[i] = r < rows.count && column < a.num_inputs ? to_float(a.x[at[r] + column]) : 0.0f;
        }
        inputs[vector_at(c, v)] = vector;
      }
    }
  }

  static RSN2_DEVICE int lane() { return thread_index() % kHalfWarp; }
  static RSN2_DEVICE int half_warp() { return thread_index() / kHalfWarp; }

  // Adds one row of the weight matrix times the inputs held. Each lane looks up one span; then four spans' weights at a
  // time are on their way before the first is used.
  static RSN2_DEVICE void add_row(const SlotWeights<V>& weights, int64_t output, int64_t span, int held,
                                  const Vector* inputs, float (&partial)[kRows]) {
    if (!weights.owns_any()) return;
    static_assert(kSpansHeld <= kHalfWarp, "a lane for each span");
    ValueRange range = {0, 0};
    if (lane() < held && output / kPanelRows < weights.num_panels) {
      range = weights.table.of_row(output / kPanelRows * weights.num_spans + span + lane(), int(output % kPanelRows));
    }
    const int my_first = int(range.first), my_count = int(range.last - range.first);
    const int half = lane_index() & kHalfWarp;
    for (int s = 0; s < held; s += kTogether) {
      int first[kTogether], count[kTogether];
      V value[kTogether][kAhead];
      uint8_t column[kTogether][kAhead];
      RSN2_UNROLL
      for (int i = 0; i < kTogether; ++i) {
        first[i] = shuffle(my_first, half + ((s + i) & (kHalfWarp - 1)));
        count[i] = shuffle(my_count, half + ((s + i) & (kHalfWarp - 1)));
        if (s + i >= held) count[i] = 0;
        RSN2_UNROLL
        for (int j = 0; j < kAhead; ++j) {
          const int at = j * kHalfWarp + lane();
          if (at >= count[i]) continue;
          value[i][j] = weights.values[int64_t(first[i]) + at];
          column[i][j] = weights.columns[int64_t(first[i]) + at];
        }
      }
      RSN2_UNROLL
      for (int i = 0; i < kTogether; ++i) {
        const int base = (s + i) * kSpanColumns;
        RSN2_UNROLL
        for (int j = 0; j < kAhead; ++j) {
          if (j * kHalfWarp + lane() < count[i]) add_weight(value[i][j], base + column[i][j], inputs, partial);
        }
        RSN2_NO_UNROLL
        for (int at = kAhead * kHalfWarp + lane(); at < count[i]; at += kHalfWarp) {
          const int64_t j = int64_t(first[i]) + at;
          add_weight(weights.values[j], base + weights.columns[j], inputs, partial);
        }
      }
    }
  }
  static constexpr int kTogether = 4, kAhead = 2;

  static RSN2_DEVICE void add_weight(V value, int column, const Vector* inputs, float (&partial)[kRows]) {
    const float weight = to_float(value);
    RSN2_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      const Vector vector = inputs[vector_at(column, v)];
      RSN2_UNROLL
      for (int i = 0; i < kVector; ++i) partial[v * kVector + i] += weight * vector.numbers[i];
    }
  }
};

}  // namespace rsn2
