// Grids of task_linear's kernels.
#pragma once

#include <stdexcept>
#include <string>

#include "kernels.h"

namespace rsn2 {

// A persistent grid: as many blocks on each multiprocessor as are sure to fit.
template <class Kernel>
void launch_pieces(void* stream, int64_t most_tiles, const typename Kernel::Arguments& a) {
  const int64_t pieces = most_tiles * a.splits * ceil_div<int64_t>(a.num_outputs, Kernel::kOutputs);
  const int64_t blocks = least<int64_t>(pieces, num_multiprocessors() * Kernel::kMinBlocks);
  launch<Kernel>({blocks, Kernel::kSharedBytes, stream}, a);
}

[[noreturn]] inline void no_such_width(int rows) {
  throw std::logic_error("task_linear: no kernel for tiles of " + std::to_string(rows) + " rows");
}

}  // namespace rsn2
