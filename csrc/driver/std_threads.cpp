// Threads of the core without libtorch: a std::thread for every range but the first.
#include "../cpu/threads.h"

#include <algorithm>
#include <thread>
#include <vector>

#include "driver.h"

namespace rsn2 {

static int64_t threads_in_use = 1;

int64_t num_threads() { return threads_in_use; }

void run_on_threads(int64_t n, int64_t grain, const RangeBody& body) {
  const int64_t count = std::clamp<int64_t>(n / std::max<int64_t>(grain, 1), 1, threads_in_use);
  std::vector<std::thread> others;
  for (int64_t i = 1; i < count; ++i) others.emplace_back(body, n * i / count, n * (i + 1) / count);
  if (n > 0) body(0, n / count);
  for (std::thread& other : others) other.join();
}

namespace driver {
void set_num_threads(int64_t number) { threads_in_use = number; }
}  // namespace driver

}  // namespace rsn2
