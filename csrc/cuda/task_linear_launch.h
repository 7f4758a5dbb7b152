// Grids of task_linear's kernels.
#pragma once

#include <stdexcept>
#include <string>

#include "kernels.h"

namespace rsn2 {

// A persistent grid: as many blocks as a multiprocessor of 227 KiB holds, on each.
template <class Kernel>
void launch_pieces(void* stream, int64_t most_tiles, const typename Kernel::Arguments& a) {
  constexpr int64_t kByMemory = 227 * 1024 / (Kernel::kSharedBytes + 1024), kByThreads = 2048 / Kernel::kThreads;
  const int64_t pieces = most_tiles * a.splits * ceil_div<int64_t>(a.num_outputs, Kernel::kOutputs);
  const int64_t blocks = least(pieces, num_multiprocessors() * least(kByMemory, kByThreads));
  launch<Kernel>({blocks, Kernel::kSharedBytes, stream}, a);
}

[[noreturn]] inline void no_such_width(int rows) {
  throw std::logic_error("task_linear: no kernel for tiles of " + std::to_string(rows) + " rows");
}

}  // namespace rsn2
