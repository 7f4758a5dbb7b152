#include "task_linear_dense.h"

#include <atomic>

namespace rsn2 {
namespace {

#ifdef RSN2_EMULATED
std::atomic<int64_t> least_rows{1024};
#else
constexpr int64_t least_rows = 1024;
#endif

template <typename E>
void take_positive_part(const OnDevice& device, Tensor& y) {
  using Kernel = PositivePart<E>;
  const int64_t pieces = ceil_div<int64_t>(y.numel(), Kernel::kThreads * Kernel::kVector);
  const int64_t room = int64_t(multiprocessors_of_device()) * 2 * Kernel::kMinBlocks;
  launch_positive_part(device.launch(least(room, pieces)), {static_cast<E*>(y.mutable_data_ptr()), y.numel()});
}

}  // namespace

bool is_dense_product(ScalarType x, const Tensor& slots, int64_t num_rows, int64_t num_outputs, int64_t num_inputs) {
  if (slots.dim() > 0 || num_rows < least_rows || num_outputs == 0 || num_inputs == 0) return false;
  return x == ScalarType::BFloat16 || x == ScalarType::Half || (x == ScalarType::Float && tf32_is_allowed());
}

// The operators that write into a given tensor: autocast leaves them alone.
void multiply_dense(const OnDevice& device, const Tensor& x, const DenseSlot& dense, bool relu, Tensor& y) {
  tensor_of_operator("aten::linear", "out", x, dense.weight, dense.bias, y);
  if (!relu) return;
  switch (y.scalar_type()) {
    case ScalarType::Float: return take_positive_part<float>(device, y);
    case ScalarType::BFloat16: return take_positive_part<BFloat16>(device, y);
    default: return take_positive_part<Float16>(device, y);
  }
}

void multiply_dense(const Tensor& left, const Tensor& right, Tensor& result) {
  if (left.scalar_type() == result.scalar_type()) {
    tensor_of_operator("aten::mm", "out", left, right, result);
    return;
  }
#ifdef RSN2_EMULATED  // torch has the other only on GPUs
  tensor_of_operator("aten::mm", "out", torch::stable::to(left, result.scalar_type()),
                     torch::stable::to(right, result.scalar_type()), result);
#else
  tensor_of_operator("aten::mm", "dtype_out", left, right, result.scalar_type(), result);
#endif
}

#ifdef RSN2_EMULATED
namespace {
// For tests: from how many rows on products are dense, where they may be.
void set_dense_rows(int64_t rows) { least_rows = rows; }
}  // namespace
#endif

}  // namespace rsn2

#ifdef RSN2_EMULATED
STABLE_TORCH_LIBRARY_IMPL(rsn2_emulated, CompositeExplicitAutograd, m) {
  m.impl("task_linear_dense_rows", TORCH_BOX(&rsn2::set_dense_rows));
}
#endif
