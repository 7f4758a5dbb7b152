// What the kernels of task_linear share: arguments, pieces of work, how a sum becomes a result.
//
// A piece of work is a tile of one slot's rows, kOutputs outputs (rows of the weight matrix), and one of the parts into
// which the spans are split. Blocks of a persistent grid walk the pieces; those of one row tile follow each other, so
// that its inputs and its slot's weights are read while they are near.
#pragma once

#include "decode.h"
#include "groups.h"

namespace rsn2 {

// E: inputs and results. V: values and bias.
template <typename E, typename V>
struct TaskLinear {
  using Sum = typename SumOf<E>::type;

  const E* x;        // [B, K]
  int64_t x_stride;  // between rows; columns lie side by side
  bool x_aligned;    // every row of x begins at a multiple of 16 bytes
  PackedStore<V> weight, frozen;
  Groups groups;
  const V* bias;  // [T, O], or null
  E* y;           // [B, O]
  Sum* partial;   // [splits, B, O], or null when there is one split
  int64_t num_inputs, num_outputs;
  int splits;
  bool relu;
  int bias_slots = INT32_MAX;  // that bias has rows for

  RSN2_DEVICE int num_slots() const { return weight.index.num_slots(); }
};

struct LinearPiece {
  RowTile rows;
  int64_t output;  // the first
  int split;
};

template <int kOutputs, typename E, typename V>
RSN2_DEVICE int64_t num_pieces(const TaskLinear<E, V>& a) {
  return num_row_tiles(a.groups, a.num_slots()) * a.splits * ceil_div<int64_t>(a.num_outputs, kOutputs);
}

template <int kOutputs, typename E, typename V>
RSN2_DEVICE LinearPiece piece_at(const TaskLinear<E, V>& a, int64_t i) {
  const int64_t blocks = ceil_div<int64_t>(a.num_outputs, kOutputs), tile = i / (blocks * a.splits);
  return {row_tile(a.groups, a.num_slots(), tile), i % blocks * kOutputs, int(i / blocks % a.splits)};
}

// A split's spans.
struct Spans {
  int64_t first, last;
};
RSN2_DEVICE Spans spans_of(int64_t num_spans, int split, int splits) {
  return {num_spans * split / splits, num_spans * (split + 1) / splits};
}

// The result that a whole sum stands for. A slot out of range, or one that the bias does not have: NaN.
template <typename E, typename V>
RSN2_DEVICE E result_of(const TaskLinear<E, V>& a, int slot, int64_t output, typename TaskLinear<E, V>::Sum sum) {
  using Sum = typename TaskLinear<E, V>::Sum;
  if (uint32_t(slot) >= uint32_t(a.bias_slots)) return Convert<E, Sum>::from(NotANumber<Sum>::value());
  if (a.bias) sum += Cast<Sum, V>::from(a.bias[place_in(slot, a.num_outputs, output)]);
  return Convert<E, Sum>::from(a.relu ? positive_part(sum) : sum);
}

// Stores one sum of a piece: the result, or this split's part of it.
template <typename E, typename V>
RSN2_DEVICE void store_sum(const TaskLinear<E, V>& a, const LinearPiece& piece, int64_t row, int64_t output,
                           typename TaskLinear<E, V>::Sum sum) {
  if (a.partial) {
    a.partial[place_in(piece.split, a.groups.num_rows, row, a.num_outputs, output)] = sum;
  } else {
    a.y[place_in(row, a.num_outputs, output)] = result_of(a, piece.rows.slot, output, sum);
  }
}

// Threads over the results: each adds what the splits have left, from the first to the last.
template <typename E, typename V>
struct LinearFinish {
  struct Arguments {
    TaskLinear<E, V> linear;
    int64_t slots_stride;  // 0: one slot
  };
  static constexpr int kThreads = 256;
  static constexpr int kMinBlocks = 4;

  static RSN2_DEVICE void run(const Arguments& a) {
    const TaskLinear<E, V>& linear = a.linear;
    const int64_t count = linear.groups.num_rows * linear.num_outputs;
    for (int64_t i = block_index() * kThreads + thread_index(); i < count; i += num_blocks() * kThreads) {
      const int64_t row = i / linear.num_outputs;
      typename TaskLinear<E, V>::Sum sum = 0;
      for (int split = 0; split < linear.splits; ++split) sum += linear.partial[place_in(split, count, i)];
      const int slot = checked_slot(linear.groups.slots[row * a.slots_stride], linear.num_slots());
      linear.y[i] = result_of(linear, slot, i - row * linear.num_outputs, sum);
    }
  }
};

}  // namespace rsn2
