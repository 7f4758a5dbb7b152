// The threads that the core works on. Whoever links the core says where they come from: ops/torch_threads.cpp takes
// libtorch's, csrc/driver/std_threads.cpp makes its own.
#pragma once

#include <cstdint>
#include <functional>

namespace rsn2 {

using RangeBody = std::function<void(int64_t begin, int64_t end)>;

int64_t num_threads();

// Calls body(begin, end) for ranges that together are 0 .. n, at the same time: at most num_threads() of them, of at
// least `grain` steps each unless n is less. When a body throws, the caller gets that exception after all have ended.
void parallel_for(int64_t n, int64_t grain, const RangeBody& body);

// The same for a body that throws nothing: what has to be implemented beside num_threads.
void run_on_threads(int64_t n, int64_t grain, const RangeBody& body);

}  // namespace rsn2
