// The convolution's products over a whole batch: from the batch's images, grouped by slot, to calls of the kernels.
// Torch-free, so that a plain C++ program can drive the kernels.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "task_conv2d.h"
#include "task_conv2d_index.h"
#include "task_conv2d_numbers.h"
#include "task_conv2d_plan.h"
#include "threads.h"

namespace rsn2 {

// The values of a store and where they are. Two stores make a product when the slots also read frozen weights.
struct ConvStore {
  const void* values;
  const int64_t* value_starts;  // [T + 1]
  ConvIndex index;
};

// The images of one slot: order[begin .. end), or begin .. end themselves if order is nullptr.
struct ConvGroup {
  int64_t slot, begin, end;
};

struct ConvCall {
  const TaskConv2dKernels* kernels;
  ConvShape shape;
  ConvDtype image_dtype, value_dtype;
  std::vector<ConvGroup> groups;
  const int64_t* order;

  bool is_double() const { return value_dtype == CONV_FLOAT64; }
};

// y = convolution of x. bias: [T, O] of value_dtype or nullptr.
void conv_forward(const ConvCall& call, const ConvImages& x, const std::vector<ConvStore>& stores, const void* bias,
                  bool relu, const ConvImages& y);
// grad_x = transposed convolution of grad_y.
void conv_grad_input(const ConvCall& call, const ConvImages& grad_y, const std::vector<ConvStore>& stores,
                     const ConvImages& grad_x);
// results[g]: where the gradients of group g's slot go, in value order, of value_dtype.
void conv_grad_values(const ConvCall& call, const ConvImages& x, const ConvImages& grad_y, const ConvStore& store,
                      const std::vector<void*>& results);

// ---- shared by the two files that implement these -------------------------------------------------------------------

// Memory of one thread that grows as needed, aligned for the widest vector; its content is lost when it grows.
template <class Number>
class ConvBuffer {
 public:
  Number* room_for(int64_t size) {
    if (size > size_) {
      data_.reset();
      size_ = 0;
      data_.reset(static_cast<Number*>(::operator new(sizeof(Number) * static_cast<size_t>(size), ALIGNMENT)));
      size_ = size;
    }
    return data_.get();
  }

 private:
  static constexpr std::align_val_t ALIGNMENT{64};
  struct Free {
    void operator()(Number* data) const { ::operator delete(data, ALIGNMENT); }
  };
  std::unique_ptr<Number, Free> data_;
  int64_t size_ = 0;
};

// Calls do_job(worker's own State, job) for jobs 0 .. num_jobs - 1, on all threads. Which thread does which job is left
// to chance; jobs must not depend on each other.
template <class State, class DoJob>
void share_jobs(int64_t num_jobs, const DoJob& do_job) {
  std::atomic<int64_t> next{0};
  const auto worker = [&](int64_t, int64_t) {
    State state;
    for (int64_t job = next++; job < num_jobs; job = next++) do_job(state, job);
  };
  const int64_t num_workers = std::min(num_threads(), num_jobs);
  if (num_workers <= 1)
    worker(0, 1);
  else
    parallel_for(num_workers, 1, worker);
}

// Fills the lanes of one tile set: pictures first .. of a group, image after image.
int64_t fill_lanes(const ConvCall& call, const ConvGroup& group, const ConvPlan& plan, int64_t first, int64_t lanes,
                   std::vector<ConvLane>& result);

}  // namespace rsn2
