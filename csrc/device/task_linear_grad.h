// What the gradients of task_linear share: matrices of the batch, and which slots' values want a gradient.
#pragma once

#include "gather_index.h"
#include "groups.h"

namespace rsn2 {

// Rows of a batch; a row's numbers lie side by side.
template <typename E>
struct RowMatrix {
  const E* data;
  int64_t row_stride;
  int64_t num_columns;
  bool is_aligned;  // every row begins at a multiple of 16 bytes

  // Number `column` of a row, zero where there is none. Row -1 is none.
  RSN2_DEVICE E at(int row, int64_t column) const {
    return row >= 0 && column < num_columns ? data[place_in(row, row_stride, column)] : E{};
  }
};

// Eight 16-bit numbers of a row from `column` on, on their way into shared memory; zeros where there are none. Whoever
// waits for copies and then at a barrier sees them, also those that had to be put together one by one.
template <typename E>
RSN2_DEVICE void copy_eight(E* shared, const RowMatrix<E>& matrix, int row, int64_t column) {
  const bool is_there = row >= 0 && column < matrix.num_columns;
  if (matrix.is_aligned && (!is_there || column + 8 <= matrix.num_columns)) {
    copy_async(shared, is_there ? matrix.data + place_in(row, matrix.row_stride, column) : matrix.data, is_there);
    return;
  }
  uint32_t* words = reinterpret_cast<uint32_t*>(shared);
  RSN2_UNROLL
  for (int i = 0; i < 4; ++i) {
    const uint32_t low = matrix.at(row, column + 2 * i).bits, high = matrix.at(row, column + 2 * i + 1).bits;
    words[i] = low | high << 16;
  }
}

// Row `i` of the order as a row of the batch, -1 from `last` on.
RSN2_DEVICE int row_before(const Groups& groups, int64_t i, int64_t last) {
  return i < last ? int(row_at(groups, i)) : -1;
}

// Slots whose values want a gradient, and where in the result each begins; the last entry is the end.
struct WantedSlots {
  static constexpr int kMost = 64;
  int count;
  int32_t slots[kMost];
  int64_t starts[kMost + 1];
};

// Where in the result the gradient of a wanted slot's values goes.
struct WantedPlaces {
  int64_t start, end;
  int64_t first;  // of the slot in the flat values

  RSN2_DEVICE WantedPlaces(const WantedSlots& wanted, int w, const SlotTable& table)
      : start(wanted.starts[w]), end(wanted.starts[w + 1]), first(table.tile_starts[0]) {}
  // -1 when the slot owns more than the caller said.
  RSN2_DEVICE int64_t of_value(int64_t j) const {
    const int64_t place = start + (j - first);
    return place < end ? place : -1;
  }
};

// Where there is little else to do at the same time, a sum is cut into parts that different blocks compute; then
// SumOfParts adds them in their order.
struct Range {
  int64_t first, last;
};
// Part `part` of first .. last, cut between whole steps.
RSN2_DEVICE Range part_of(int64_t first, int64_t last, int step, int part, int num_parts) {
  const int64_t steps = ceil_div<int64_t>(last - first, step);
  return {first + steps * part / num_parts * step, least(last, first + steps * (part + 1) / num_parts * step)};
}

// A thread adds the parts of one number after the other.
template <typename E, typename A>  // of the result; of the parts
struct SumOfParts {
  struct Arguments {
    const A* parts;  // [num_parts, num_rows, num_columns]
    int num_parts;
    int64_t num_rows, num_columns;
    const int32_t* order;  // [num_rows]: which row of the result; null: the same
    E* result;             // [num_rows, num_columns]
  };
  static constexpr int kThreads = 256;
  static constexpr int kMinBlocks = 4;

  static RSN2_DEVICE void run(const Arguments& a) {
    const int64_t count = a.num_rows * a.num_columns;
    for (int64_t i = block_index() * kThreads + thread_index(); i < count; i += num_blocks() * kThreads) {
      A sum = a.parts[i];
      for (int part = 1; part < a.num_parts; ++part) sum += a.parts[place_in(part, count, i)];
      const int64_t row = i / a.num_columns;
      a.result[place_in(a.order ? a.order[row] : row, a.num_columns, i % a.num_columns)] = Convert<E, A>::from(sum);
    }
  }
};

}  // namespace rsn2
