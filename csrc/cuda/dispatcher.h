// Operators that kernels' host code calls: torch's own, and those by which it asks Python.
#pragma once

#include <array>
#include <stdexcept>
#include <vector>

#include "tensors.h"

namespace rsn2 {

// Calls an operator with all arguments of its schema. The caller owns what comes back: take it with to<T>().
template <class... Arguments>
StableIValue call_operator(const char* name, const char* overload, const Arguments&... arguments) {
  std::array<StableIValue, sizeof...(Arguments) == 0 ? 1 : sizeof...(Arguments)> stack{
      torch::stable::detail::from(arguments)...};
  if (torch_call_dispatcher(name, overload, stack.data(), TORCH_ABI_VERSION) != AOTI_TORCH_SUCCESS) {
    throw std::runtime_error(message(name, " failed: torch has written why to stderr"));
  }
  return stack[0];
}
template <class... Arguments>
Tensor tensor_of_operator(const char* name, const char* overload, const Arguments&... arguments) {
  return torch::stable::detail::to<Tensor>(call_operator(name, overload, arguments...));
}

// What follows asks rsn2_kernels/_answers.py.

// Whether torch allows float32 products to be rounded to TF32 now: the stable ABI has no way to ask torch itself.
bool tf32_is_allowed();

// Whether Triton's kernels are to compute this: some weights claimed in blocks. Asks for blocks only.
bool triton_serves(const Tensor& x, const Tensor& index, const std::vector<Tensor>& frozen, int64_t channels);

// Triton's kernel of an operator, with all the operator's arguments.
template <class... Arguments>
Tensor served_by_triton(const char* op, const Arguments&... arguments) {
  return tensor_of_operator(message("rsn2_kernels_python::", op).c_str(), "", arguments...);
}

}  // namespace rsn2
