// The gradient of task_conv2d's owned values on the GPU.
#include <algorithm>

#include "dispatcher.h"
#include "task_conv2d_host.h"

namespace rsn2 {
namespace {

// Numbers of all splits' sums together: more memory than this is not worth an even load.
constexpr int64_t MOST_SUMS = int64_t{1} << 25;

Tensor task_conv2d_grad_values(const Tensor& x,                   // [B, C, H, W], any strides
                               const Tensor& grad_y,              // [B, O, H', W'], any strides
                               const Tensor& values,              // [sum of N], all slots: dtype only
                               const Tensor& positions,           // [words] int64
                               const Tensor& index,               // [words] int32
                               const Tensor& slots,               // [] or [B] int64
                               std::vector<int64_t> wanted,       // slots
                               std::vector<int64_t> num_owned,    // by each of them
                               std::vector<int64_t> kernel_size,  // [P, Q]
                               std::vector<int64_t> stride,       // [2]
                               std::vector<int64_t> padding,      // [top, bottom, left, right]
                               std::vector<int64_t> dilation      // [2]
) {
  constexpr const char* OP = "task_conv2d_grad_values";
  const OnDevice device(OP, "x", x);
  check_value(x.dim() == 4 && grad_y.dim() == 4 && x.size(0) == grad_y.size(0), OP,
              ": x and grad_y must have shapes [B, C, H, W] and [B, O, H', W']");
  check_value(x.scalar_type() == grad_y.scalar_type(), OP, ": grad_y must have the dtype of x");
  check_value(wanted.size() == num_owned.size(), OP, ": num_owned must have ", wanted.size(), " numbers, got ",
              num_owned.size());
  if (triton_serves(x, index, {}, x.size(1))) {
    return served_by_triton(OP, x, grad_y, values, positions, index, slots, wanted, num_owned, kernel_size, stride,
                            padding, dilation);
  }
  const ConvNumbers numbers = conv_numbers(OP, "x", x, values);
  const int64_t batch = x.size(0);
  ConvGradValuesArguments a{};
  a.window = conv_window(OP, x.size(1), x.size(2), x.size(3), grad_y.size(1), kernel_size, stride, padding, dilation);
  a.grad_y_strides = conv_images(OP, device, "grad_y", grad_y, grad_y.size(1), a.window.out_height, a.window.out_width);
  a.index = gather_index_of(OP, device, index, positions, a.window.num_outputs, a.window.num_columns());
  for (size_t i = 0; i < wanted.size(); ++i) {
    check_value(wanted[i] >= 0 && wanted[i] < kMostSlots && num_owned[i] >= 0, OP, ": wanted slot ", wanted[i],
                " with ", num_owned[i], " weights is none");
    a.num_results += num_owned[i];
  }
  check_value(a.num_results == 0 || a.window.channels * int64_t(a.window.num_outputs) > 0, OP,
              ": a weight without elements has no values");
  device.check("values", values);  // results lie where it does
  if (batch == 0) return torch::stable::new_zeros(values, {a.num_results}, values.scalar_type());
  const Tensor grads = new_tensor(values, {a.num_results}, values.scalar_type());
  if (a.num_results == 0) return grads;

  const ConvCut cut = conv_grad_values_cut(numbers);
  const PlannedRows plan = plan_rows(OP, device, slots, batch, a.index, 1);
  a.groups = plan.groups;
  a.x = x.const_data_ptr();
  a.x_strides = strides_of(x);
  a.whole_vectors = has_whole_vectors(a.x, a.x_strides, a.window.channels);
  a.grad_y = grad_y.const_data_ptr();
  const int64_t num_columns = int64_t(a.window.kernel_height) * a.window.kernel_width * a.window.channels;
  const int64_t tiles = ceil_div<int64_t>(num_columns, kSpanColumns) * ceil_div(a.window.num_outputs, cut.rows);
  const int64_t num_wanted = int64_t(wanted.size()), num_pieces = num_wanted * tiles;
  const int64_t most_parts =
      ceil_div<int64_t>(batch * a.window.out_height * a.window.out_width, cut.pixels) / num_wanted;
  const int64_t even = ceil_div<int64_t>(2 * cut.blocks * multiprocessors_of_device(), num_pieces);
  a.splits = int(std::max<int64_t>(1, std::min({even, most_parts, MOST_SUMS / a.num_results})));

  const ScalarType sum_type = numbers == ConvNumbers::FLOAT64 ? ScalarType::Double : ScalarType::Float;
  const bool is_finished = a.splits == 1 && values.scalar_type() == sum_type;
  const Tensor sums = is_finished ? grads : new_tensor(values, {a.splits * a.num_results}, sum_type);
  a.sums = sums.mutable_data_ptr();
  for (int64_t first = 0; first < num_wanted; first += kWantedAtOnce) {
    a.num_wanted = int(std::min<int64_t>(kWantedAtOnce, num_wanted - first));
    a.starts[0] = first == 0 ? 0 : a.starts[kWantedAtOnce];
    for (int i = 0; i < a.num_wanted; ++i) {
      a.wanted[i] = int(wanted[size_t(first + i)]);
      a.starts[i + 1] = a.starts[i] + num_owned[size_t(first + i)];
    }
    const int64_t items = a.num_wanted * tiles * a.splits;
    launch_conv_grad_values(numbers, device.launch(persistent_blocks(items, cut.blocks), cut.shared_bytes), a);
  }
  if (!is_finished) {
    const ConvGradFinishArguments finish{a.sums, grads.mutable_data_ptr(), a.num_results, a.splits};
    launch_conv_grad_finish(numbers, device.launch(persistent_blocks(ceil_div<int64_t>(a.num_results, 256), 4)),
                            finish);
  }
  return grads;
}

}  // namespace
}  // namespace rsn2

RSN2_CUDA_OPS(m) { m.impl("task_conv2d_grad_values", TORCH_BOX(&rsn2::task_conv2d_grad_values)); }
