// The threads that the core works on. Whoever links the core says where they come from: ops/threads.cpp takes
// libtorch's, csrc/driver/threads.cpp makes its own.
#pragma once

#include <cstdint>
#include <functional>

namespace rsn2 {

int64_t num_threads();

// Calls body(begin, end) for ranges that together are 0 .. n, at the same time: at most num_threads() of them, of at
// least `grain` steps each unless n is less. The body must not throw.
void parallel_for(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t)>& body);

}  // namespace rsn2
