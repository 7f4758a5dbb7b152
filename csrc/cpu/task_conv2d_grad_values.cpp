// task_conv2d_grad_values on the CPU: checks, the wanted slots' images, the result allocated.
#include <cstring>

#include "task_conv2d_checks.h"

namespace rsn2 {
namespace {

Tensor task_conv2d_grad_values(const Tensor& x,                   // [B, C, H, W], any strides
                               const Tensor& grad_y,              // [B, O, H', W'], any strides
                               const Tensor& values,              // [sum of N], all slots; only their dtype is used
                               const Tensor& positions,           // [words] int64
                               const Tensor& index,               // [words] int32
                               const Tensor& slots,               // [] or [B] int64
                               std::vector<int64_t> wanted,       // slots whose gradients come back, one after another
                               std::vector<int64_t> num_owned,    // how many weights each of them owns
                               std::vector<int64_t> kernel_size,  // [P, Q]
                               std::vector<int64_t> stride,       // [2]
                               std::vector<int64_t> padding,      // [top, bottom, left, right]
                               std::vector<int64_t> dilation      // [2]
) {
  constexpr const char* OP = "task_conv2d_grad_values";
  const Positions matrix = parse_positions(OP, positions);
  check_value(x.dim() == 4, OP, ": x must have shape [B, C, H, W], got ", x.dim(), " dimensions");
  const ConvShape shape = shape_of(OP, matrix, x.size(2), x.size(3), kernel_size, stride, padding, dilation);
  const ConvImages in = images_of(OP, "x", x, shape.C), grad = images_of(OP, "grad_y", grad_y, shape.O);
  check_value(grad_y.size(0) == x.size(0) && grad.H == shape.out_H && grad.W == shape.out_W, OP, ": grad_y must have ",
              x.size(0), " images of ", shape.out_H, " x ", shape.out_W, " pixels, got ", grad_y.size(0), " of ",
              grad.H, " x ", grad.W);
  check_value(grad_y.scalar_type() == x.scalar_type(), OP, ": grad_y must have the dtype of x");
  const ConvDtype x_dtype = conv_dtype(OP, "x", x), dtype = conv_dtype(OP, "values", values);
  check_dtypes(OP, "x", x_dtype, dtype);
  const RowGroups rows = group_rows(OP, slots, x.size(0), matrix.T);
  check_value(num_owned.size() == wanted.size(), OP, ": num_owned must have ", wanted.size(), " numbers, got ",
              num_owned.size());

  int64_t total = 0;
  std::vector<RowGroup> groups;       // of the wanted slots that have images
  std::vector<int64_t> first_result;  // of each of them
  std::vector<bool> has_images(wanted.size(), false);
  for (size_t i = 0; i < wanted.size(); ++i) {
    check_value(wanted[i] >= 0 && wanted[i] < matrix.T, OP, ": wanted must be slots in 0..", matrix.T - 1, ", got ",
                wanted[i]);
    check_slot(OP, matrix, wanted[i], values.numel());
    check_value(num_owned[i] == matrix.num_values(wanted[i]), OP, ": num_owned of slot ", wanted[i], " must be ",
                matrix.num_values(wanted[i]), ", got ", num_owned[i]);
    const auto group = std::lower_bound(rows.groups.begin(), rows.groups.end(), wanted[i],
                                        [](const RowGroup& g, int64_t slot) { return g.slot < slot; });
    has_images[i] = group != rows.groups.end() && group->slot == wanted[i];
    if (has_images[i]) {
      groups.push_back(*group);
      first_result.push_back(total);
    }
    total += num_owned[i];
  }
  int64_t num_weights = 0;
  const ConvStore store = store_of(OP, values, index, matrix, shape, groups, num_weights);
  count_weights_read(OP, num_weights);

  const Tensor result = torch::stable::new_empty(values, {total});
  char* data = static_cast<char*>(result.mutable_data_ptr());
  const int64_t bytes = dtype == CONV_FLOAT64 ? 8 : dtype == CONV_FLOAT32 ? 4 : 2;
  for (size_t i = 0, first = 0; i < wanted.size(); first += static_cast<size_t>(num_owned[i++] * bytes)) {
    if (!has_images[i] && num_owned[i] > 0) std::memset(data + first, 0, static_cast<size_t>(num_owned[i] * bytes));
  }
  if (total > 0) {
    ConvCall call = call_of(shape, x_dtype, dtype, rows);
    call.groups.clear();
    std::vector<void*> results;
    for (size_t g = 0; g < groups.size(); ++g) {
      call.groups.push_back({groups[g].slot, groups[g].begin, groups[g].end});
      results.push_back(data + first_result[g] * bytes);
    }
    conv_grad_values(call, in, grad, store, results);
  }
  return result;
}

}  // namespace
}  // namespace rsn2

STABLE_TORCH_LIBRARY_IMPL(rsn2_kernels, CPU, m) {
  m.impl("task_conv2d_grad_values", TORCH_BOX(&rsn2::task_conv2d_grad_values));
}
