// The index of task_linear: a cache derived from the packed positions, in the orders that the kernels walk.
//
// int32 words: 0x101 (kind and version: that of a convolution, which begins otherwise, is refused), T, O, K, then
// slot_starts[T + 1] (word where a slot's part begins; empty when it owns nothing). A slot's part holds two orders of
// its weights, the matrix [O, K] for the forward product and the sampled one, and its transpose [K, O] for the gradient
// of the input. An order is
//     starts   three words each (TaskLinearStart) [num_blocks * num_panels + 1]
//     bunches  a word each (TaskLinearBunch)
//     pieces   two words each (TaskLinearPiece)
//     columns  a byte per weight in the order of the pieces, then room for reading too far
//     places   transpose only: for each weight, in the order of the pieces, its place among the slot's values
#pragma once

#include "host.h"
#include "task_linear.h"

namespace rsn2 {

Tensor task_linear_index(const Tensor& positions);

class TaskLinearIndex {
 public:
  // Checks that the index is one of these positions' shape; throws ValueError. Reads the header only.
  TaskLinearIndex(const char* op, const char* name, const Tensor& index, const Positions& positions);

  // Slot t's matrix or, with places, its transpose; without its values.
  TaskLinearMatrix matrix(int64_t t, bool transposed) const;

 private:
  const char* op_;
  const char* name_;
  const Positions& positions_;
  const int32_t* words_;
  int64_t num_words_;
};

}  // namespace rsn2
