#include "threads.h"

#include <exception>
#include <mutex>

namespace rsn2 {

void parallel_for(int64_t n, int64_t grain, const RangeBody& body) {
  std::exception_ptr error;  // libtorch would make another type of it, and print it
  std::mutex error_mutex;
  run_on_threads(n, grain, [&](int64_t begin, int64_t end) {
    try {
      body(begin, end);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(error_mutex);
      error = std::current_exception();
    }
  });
  if (error) std::rethrow_exception(error);
}

}  // namespace rsn2
