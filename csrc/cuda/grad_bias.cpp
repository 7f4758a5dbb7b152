// task_grad_bias on a GPU: grad_y checked, the result allocated, the kernel started.
#include <algorithm>
#include <vector>

#include "grad_kernels.h"
#include "tensors.h"

namespace rsn2 {
namespace {

// grad_y as images, and which slots each row has; the wanted ones are left to be filled in.
template <class Kernel, typename E>
typename Kernel::Arguments arguments_of(const Tensor& grad_y, const Tensor& slots) {
  typename Kernel::Arguments a{};
  a.grad_y = static_cast<const E*>(grad_y.const_data_ptr());
  for (int d = 0; d < 4; ++d) {
    a.size[d] = d < grad_y.dim() ? grad_y.size(d) : 1;
    a.stride[d] = d < grad_y.dim() ? grad_y.stride(d) : 0;
  }
  if (a.stride[2] == a.size[3] * a.stride[3]) {  // lines without gaps are one line
    a.size[3] *= a.size[2];
    a.size[2] = 1;
  }
  a.slots = slots.const_data_ptr<int64_t>();
  a.slots_stride = slots.dim() == 0 ? 0 : slots.stride(0);
  return a;
}

template <typename E, bool kPixelsInLanes>
void run(const OnDevice& device, const Tensor& grad_y, const Tensor& slots, const std::vector<int64_t>& wanted,
         const Tensor& grads) {
  using Kernel = GradBias<E, kPixelsInLanes>;
  typename Kernel::Arguments a = arguments_of<Kernel, E>(grad_y, slots);
  a.grads = static_cast<typename Kernel::A*>(grads.mutable_data_ptr());
  for (size_t first = 0; first < wanted.size(); first += Kernel::kMostWanted) {
    a.num_wanted = int(std::min<size_t>(Kernel::kMostWanted, wanted.size() - first));
    std::copy_n(wanted.begin() + first, a.num_wanted, a.wanted);
    const int64_t most = int64_t(multiprocessors_of_device()) * Kernel::kMinBlocks;
    launch_grad_bias(device.launch(std::min(Kernel::num_items(a.num_wanted, a.size[1]), most), Kernel::kSharedBytes),
                     a);
    a.grads += a.num_wanted * a.size[1];
  }
}

template <typename E>
void run(const OnDevice& device, const Tensor& grad_y, const Tensor& slots, const std::vector<int64_t>& wanted,
         const Tensor& grads) {
  const bool pixels_in_lanes = grad_y.dim() == 4 && grad_y.stride(3) < grad_y.stride(1);
  pixels_in_lanes ? run<E, true>(device, grad_y, slots, wanted, grads)
                  : run<E, false>(device, grad_y, slots, wanted, grads);
}

Tensor task_grad_bias(const Tensor& grad_y,        // [B, O] or [B, O, H, W], any strides
                      const Tensor& slots,         // [] or [B] int64
                      std::vector<int64_t> wanted  // slots whose rows of the bias want a gradient
) {
  constexpr const char* OP = "task_grad_bias";
  const OnDevice device(OP, "grad_y", grad_y);
  check_value(grad_y.dim() == 2 || grad_y.dim() == 4, OP, ": grad_y must have shape [B, O] or [B, O, H, W], got ",
              grad_y.dim(), " dimensions");
  const int64_t B = grad_y.size(0);
  device.check("slots", slots);
  check_value(slots.scalar_type() == ScalarType::Long, OP, ": slots must be int64");
  check_value(slots.dim() == 0 || (slots.dim() == 1 && slots.size(0) == B), OP, ": slots must have shape [] or [", B,
              "]");
  const bool is_double = grad_y.scalar_type() == ScalarType::Double;
  const Tensor grads = new_tensor(grad_y, {static_cast<int64_t>(wanted.size()), grad_y.size(1)},
                                  is_double ? ScalarType::Double : ScalarType::Float);
  if (grads.numel() == 0) return grads;
  switch (grad_y.scalar_type()) {
    case ScalarType::Float: run<float>(device, grad_y, slots, wanted, grads); break;
    case ScalarType::Double: run<double>(device, grad_y, slots, wanted, grads); break;
    case ScalarType::BFloat16: run<BFloat16>(device, grad_y, slots, wanted, grads); break;
    case ScalarType::Half: run<Float16>(device, grad_y, slots, wanted, grads); break;
    default:
      throw_value_error(OP, ": grad_y must be float32, float64, bfloat16 or float16, got ",
                        torch::headeronly::toString(grad_y.scalar_type()));
  }
  return grads;
}

}  // namespace
}  // namespace rsn2

RSN2_CUDA_OPS(m) { m.impl("task_grad_bias", TORCH_BOX(&rsn2::task_grad_bias)); }
