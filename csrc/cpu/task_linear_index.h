// The index of task_linear: a cache derived from the packed positions, in the orders that the kernels walk.
//
// int32 words: 0x103 (kind and version: that of a convolution, which begins otherwise, is refused), T, O, K, then
// slot_starts[T + 1] (word where a slot's part begins; empty when it owns nothing). A slot's part holds two orders of
// its weights, the matrix [O, K] for the forward product and the sampled one, and its transpose [K, O] for the gradient
// of the input. An order is
//     starts   three words each (TaskLinearStart) [num_blocks * num_panels + 1]
//     bunches  a word each (TaskLinearBunch)
//     firsts   matrix only: for each piece the place of its first weight among the slot's values
//     places   transpose only: for each weight, in the order of the pieces, its place among the slot's values
//     rows     a byte per piece, then room for reading too far
//     columns  a byte per weight in the order of the pieces, likewise
#pragma once

#include "host.h"
#include "task_linear.h"

namespace rsn2 {

// Makes the index of all slots of these positions; throws ValueError.
class TaskLinearIndexBuilder {
 public:
  explicit TaskLinearIndexBuilder(const Positions& positions);
  int64_t num_words() const { return num_words_; }
  void write(int32_t* words) const;  // [num_words]

 private:
  const Positions positions_;
  std::vector<std::vector<int32_t>> parts_;  // of each slot
  int64_t num_words_;
};

class TaskLinearIndex {
 public:
  // Checks that the index is one of these positions' shape; throws ValueError. Reads the header only.
  TaskLinearIndex(const char* op, const int32_t* words, int64_t num_words, const Positions& positions);

  // Slot t's matrix or, with places, its transpose; without its values.
  TaskLinearMatrix matrix(int64_t t, bool transposed) const;

 private:
  const char* op_;
  const Positions positions_;
  const int32_t* words_;
  int64_t num_words_;
};

}  // namespace rsn2
