// task_grad_bias: the gradient of the bias rows, a sum over the rows of each wanted slot.
#include "host.h"

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
  if (grad_y.size(1) == 1) images.stride[1] = 0;  // means nothing; adjacent are the pixels, if any
  return images;
}

// A thread sums a run of outputs of one wanted slot over all of that slot's rows, in batch order and in double, so the
// bits depend neither on the rest of the batch nor on the number of threads.
template <class Out>
void sum_slots(ConvSumPixels sum_pixels, int64_t O, const ConvImages& images, const RowGroups& rows,
               const std::vector<int64_t>& wanted, Out* out) {
  constexpr int64_t RUN = 16;  // outputs that one step of the loop sums: a cache line of adjacent float32
  // Rows of one pixel that follow each other are one image of many: the additions and their order are the same.
  const bool is_matrix = images.H * images.W == 1 && images.stride[1] == 1 && rows.order.empty();
  const int64_t runs = (O + RUN - 1) / RUN, num_rows = rows.groups.empty() ? 0 : rows.groups.back().end;
  const int64_t work_per_run = RUN * num_rows * images.H * images.W / std::max<int64_t>(1, wanted.size());
  const int64_t grain = std::max<int64_t>(1, 32768 / std::max<int64_t>(1, work_per_run));
  torch::stable::parallel_for(0, static_cast<int64_t>(wanted.size()) * runs, grain, [&](int64_t begin, int64_t end) {
    std::vector<double> sums;
    while (begin < end) {  // the runs of one slot together
      const int64_t i = begin / runs, last_run = std::min(end - i * runs, runs);
      const int64_t first = begin % runs * RUN, count = std::min(O, last_run * RUN) - first;
      sums.assign(static_cast<size_t>(count), 0.0);
      const auto group = std::lower_bound(rows.groups.begin(), rows.groups.end(), wanted[i],
                                          [](const RowGroup& g, int64_t slot) { return g.slot < slot; });
      if (group != rows.groups.end() && group->slot == wanted[i]) {
        if (is_matrix) {
          const ConvImages image{images.data, {images.stride[0], 1, 0, images.stride[0]}, 1, group->end - group->begin};
          sum_pixels(image, group->begin, first, count, sums.data());
        }
        for (int64_t place = is_matrix ? group->end : group->begin; place < group->end; ++place) {
          sum_pixels(images, rows.row(place), first, count, sums.data());
        }
      }
      for (int64_t o = 0; o < count; ++o) out[i * O + first + o] = static_cast<Out>(sums[o]);
      begin = i * runs + last_run;
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
  const ConvDtype dtype = dtype_of(OP, grad_y);
  const Tensor result = torch::stable::new_empty(grad_y, {static_cast<int64_t>(wanted.size()), grad_y.size(1)},
                                                 dtype == CONV_FLOAT64 ? ScalarType::Double : ScalarType::Float);
  const ConvSumPixels sum_pixels = cpu_kernels().conv2d.sum_pixels[dtype];
  const ConvImages images = images_of(grad_y);
  if (dtype == CONV_FLOAT64) {
    sum_slots(sum_pixels, grad_y.size(1), images, rows, wanted, result.mutable_data_ptr<double>());
  } else {
    sum_slots(sum_pixels, grad_y.size(1), images, rows, wanted, result.mutable_data_ptr<float>());
  }
  return result;
}

}  // namespace
}  // namespace rsn2

STABLE_TORCH_LIBRARY_IMPL(rsn2_kernels, CPU, m) { m.impl("task_grad_bias", TORCH_BOX(&rsn2::task_grad_bias)); }
