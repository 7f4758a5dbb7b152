// task_grad_bias as an operator: grad_y checked, the result allocated, the core called.
#include "../grad_bias.h"

#include "tensors.h"

namespace rsn2 {
namespace {

ConvDtype dtype_of(const char* op, const Tensor& grad_y) {
  switch (grad_y.scalar_type()) {
    case ScalarType::Float: return CONV_FLOAT32;
    case ScalarType::Double: return CONV_FLOAT64;
    case ScalarType::BFloat16: return CONV_BFLOAT16;
    case ScalarType::Half: return CONV_FLOAT16;
    default:
      throw_value_error(op, ": grad_y must be float32, float64, bfloat16 or float16, got ",
                        torch::headeronly::toString(grad_y.scalar_type()));
  }
}

// grad_y as images: a matrix has one pixel per row.
ConvImages images_of(const Tensor& grad_y) {
  ConvImages images{const_cast<void*>(grad_y.const_data_ptr()), {grad_y.stride(0), grad_y.stride(1), 0, 0}, 1, 1};
  if (grad_y.dim() == 4) {
    images.H = grad_y.size(2), images.W = grad_y.size(3);
    images.stride[2] = grad_y.stride(2), images.stride[3] = grad_y.stride(3);
  }
  return images;
}

Tensor task_grad_bias(const Tensor& grad_y,        // [B, O] or [B, O, H, W], any strides
                      const Tensor& slots,         // [] or [B] int64
                      std::vector<int64_t> wanted  // slots whose rows of the bias want a gradient
) {
  constexpr const char* OP = "task_grad_bias";
  check_value(grad_y.is_cpu(), OP, ": grad_y must be on the CPU");
  check_value(grad_y.dim() == 2 || grad_y.dim() == 4, OP, ": grad_y must have shape [B, O] or [B, O, H, W], got ",
              grad_y.dim(), " dimensions");
  const RowGroups rows = group_rows(OP, slots, grad_y.size(0), INT32_MAX);
  const ConvDtype dtype = dtype_of(OP, grad_y);
  const Tensor result = torch::stable::new_empty(grad_y, {static_cast<int64_t>(wanted.size()), grad_y.size(1)},
                                                 dtype == CONV_FLOAT64 ? ScalarType::Double : ScalarType::Float);
  grad_bias(images_of(grad_y), dtype, grad_y.size(1), rows, wanted, result.mutable_data_ptr());
  return result;
}

}  // namespace
}  // namespace rsn2

STABLE_TORCH_LIBRARY_IMPL(rsn2_kernels, CPU, m) { m.impl("task_grad_bias", TORCH_BOX(&rsn2::task_grad_bias)); }
