// The core's threads are libtorch's.
#include "../threads.h"

#include <torch/csrc/stable/ops.h>

namespace rsn2 {

int64_t num_threads() { return torch::stable::get_num_threads(); }

void run_on_threads(int64_t n, int64_t grain, const RangeBody& body) { torch::stable::parallel_for(0, n, grain, body); }

}  // namespace rsn2
