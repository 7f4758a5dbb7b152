#include "dispatcher.h"

namespace rsn2 {

bool tf32_is_allowed() {
  return torch::stable::detail::to<bool>(call_operator("rsn2_kernels_python::allows_tf32", ""));
}

bool triton_serves(const Tensor& x, const Tensor& index, const std::vector<Tensor>& frozen, int64_t channels) {
  if (index.numel() % 4 == 0) return false;                 // a gather index of single weights
  if (!frozen.empty() && frozen.size() != 3) return false;  // a mistake, of which the operator speaks
  return torch::stable::detail::to<bool>(
      call_operator("rsn2_kernels_python::triton_serves", "", x, index, frozen, channels));
}

}  // namespace rsn2
