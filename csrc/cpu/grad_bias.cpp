// task_grad_bias: the gradient of the bias rows, a sum over the rows of each wanted slot.
#include <type_traits>

#include "host.h"

namespace rsn2 {
namespace {

// A thread sums a run of outputs of one wanted slot over all of that slot's rows, in batch order and in double, so the
// bits depend neither on the rest of the batch nor on the number of threads.
template <class In>
void sum_rows(const In* grad_y, const int64_t* size, const int64_t* stride, const RowGroups& rows, RowGroup group,
              int64_t first, int64_t last, double* sums) {
  const int64_t H = size[2], W = size[3];
  std::fill(sums + first, sums + last, 0.0);
  for (int64_t place = group.begin; place < group.end; ++place) {
    const In* row = grad_y + rows.row(place) * stride[0];
    if (stride[1] <= stride[3] || H * W == 1) {  // channels stand closer than pixels
      for (int64_t h = 0; h < H; ++h) {
        for (int64_t w = 0; w < W; ++w) {
          const In* pixel = row + h * stride[2] + w * stride[3];
          for (int64_t o = first; o < last; ++o) sums[o] += static_cast<double>(pixel[o * stride[1]]);
        }
      }
    } else {
      for (int64_t o = first; o < last; ++o) {
        double sum[4] = {0, 0, 0, 0};  // four chains, as the processor can add four at a time
        for (int64_t h = 0; h < H; ++h) {
          const In* line = row + o * stride[1] + h * stride[2];
          for (int64_t w = 0; w < W; ++w) sum[w % 4] += static_cast<double>(line[w * stride[3]]);
        }
        sums[o] += (sum[0] + sum[1]) + (sum[2] + sum[3]);
      }
    }
  }
}

template <class In>
void grad_bias(const Tensor& grad_y, const RowGroups& rows, const std::vector<int64_t>& wanted, const Tensor& result) {
  using Out = std::conditional_t<std::is_same_v<In, double>, double, float>;
  const int64_t O = grad_y.size(1);
  int64_t size[4] = {grad_y.size(0), O, 1, 1}, stride[4] = {grad_y.stride(0), grad_y.stride(1), 0, 0};
  for (int64_t d = 2; d < grad_y.dim(); ++d) size[d] = grad_y.size(d), stride[d] = grad_y.stride(d);
  const In* in = grad_y.const_data_ptr<In>();
  Out* out = result.mutable_data_ptr<Out>();

  // Outputs that one step of the loop sums: of images few, since a convolution may have no more than 32.
  const int64_t run = size[2] * size[3] == 1 ? 64 : std::clamp<int64_t>(O / 8, 1, 16);
  const int64_t runs = (O + run - 1) / run;
  const int64_t work_per_run = run * size[0] * size[2] * size[3] / std::max<int64_t>(1, wanted.size());
  const int64_t grain = std::max<int64_t>(1, 32768 / std::max<int64_t>(1, work_per_run));
  torch::stable::parallel_for(0, static_cast<int64_t>(wanted.size()) * runs, grain, [&](int64_t begin, int64_t end) {
    std::vector<double> sums(static_cast<size_t>(O));
    for (int64_t step = begin; step < end; ++step) {
      const int64_t i = step / runs, first = step % runs * run, last = std::min(O, first + run);
      RowGroup group{wanted[i], 0, 0};
      for (const RowGroup& candidate : rows.groups) {
        if (candidate.slot == wanted[i]) group = candidate;
      }
      sum_rows(in, size, stride, rows, group, first, last, sums.data());
      for (int64_t o = first; o < last; ++o) out[i * O + o] = static_cast<Out>(sums[o]);
    }
  });
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
  const ScalarType dtype = grad_y.scalar_type();
  const ScalarType sum_dtype = dtype == ScalarType::Double ? dtype : ScalarType::Float;
  const Tensor result =
      torch::stable::new_empty(grad_y, {static_cast<int64_t>(wanted.size()), grad_y.size(1)}, sum_dtype);
  switch (dtype) {
    case ScalarType::Float: grad_bias<float>(grad_y, rows, wanted, result); break;
    case ScalarType::Double: grad_bias<double>(grad_y, rows, wanted, result); break;
    case ScalarType::BFloat16: grad_bias<torch::headeronly::BFloat16>(grad_y, rows, wanted, result); break;
    case ScalarType::Half: grad_bias<torch::headeronly::Half>(grad_y, rows, wanted, result); break;
    default:
      throw_value_error(OP, ": grad_y must be float32, float64, bfloat16 or float16, got ",
                        torch::headeronly::toString(dtype));
  }
  return result;
}

}  // namespace
}  // namespace rsn2

STABLE_TORCH_LIBRARY_IMPL(rsn2_kernels, CPU, m) { m.impl("task_grad_bias", TORCH_BOX(&rsn2::task_grad_bias)); }
