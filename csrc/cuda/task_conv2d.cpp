// task_conv2d and its gradient of the input on the GPU: checks, the plan of the images, outputs allocated.
#include <algorithm>
#include <optional>
#include <string>

#include "dispatcher.h"
#include "task_conv2d_host.h"

namespace rsn2 {
namespace {

Tensor task_conv2d(const Tensor& x,                   // [B, C, H, W], any strides
                   const Tensor& values,              // [sum of N], all slots
                   const Tensor& positions,           // [words] int64
                   const Tensor& index,               // [words] int32, gather_index(positions)
                   const Tensor& slots,               // [] or [B] int64
                   std::optional<Tensor> bias,        // [T, O]
                   std::vector<Tensor> frozen,        // [] or [values, positions, index]
                   std::string activation,            // "none" or "relu"
                   int64_t out_channels,              // O
                   std::vector<int64_t> kernel_size,  // [P, Q]
                   std::vector<int64_t> stride,       // [2]
                   std::vector<int64_t> padding,      // [top, bottom, left, right]
                   std::vector<int64_t> dilation,     // [2]
                   std::vector<Tensor>,               // weight_params and the three after it carry autograd only
                   std::vector<int64_t>, std::vector<Tensor>, std::vector<int64_t>) {
  constexpr const char* OP = "task_conv2d";
  const OnDevice device(OP, "x", x);
  check_value(x.dim() == 4, OP, ": x must have shape [B, C, H, W], got ", x.dim(), " dimensions");
  check_value(activation == "none" || activation == "relu", OP, ": activation must be 'none' or 'relu', got '",
              activation, "'");
  if (triton_serves(x, index, frozen, x.size(1))) {
    return served_by_triton(OP, x, values, positions, index, slots, bias, frozen, activation, out_channels, kernel_size,
                            stride, padding, dilation, std::vector<Tensor>(), std::vector<int64_t>(),
                            std::vector<Tensor>(), std::vector<int64_t>());
  }
  const ConvNumbers numbers = conv_numbers(OP, "x", x, values);
  check_flat(OP, device, "values", values, values.scalar_type());
  if (bias) {
    device.check("bias", *bias);
    check_value(bias->dim() == 2 && bias->size(1) == out_channels && bias->is_contiguous() &&
                    bias->scalar_type() == values.scalar_type(),
                OP, ": bias must be a contiguous [T, ", out_channels, "] of the dtype of values");
  }
  const int64_t batch = x.size(0);
  ConvForwardArguments a{};
  a.window = conv_window(OP, x.size(1), x.size(2), x.size(3), out_channels, kernel_size, stride, padding, dilation);
  a.index = gather_index_of(OP, device, index, positions, a.window.num_outputs, a.window.num_columns());
  const FrozenStore second = frozen_store(OP, device, frozen, values, a.index);
  a.index.beside_words = second.index.words;
  const Tensor y = new_images(x, batch, out_channels, a.window.out_height, a.window.out_width);
  if (y.numel() == 0) return y;

  const ConvCut cut = conv_forward_cut(numbers);
  const ImageTiles tiles = image_tiles(a.window.out_height * a.window.out_width, cut.pixels);
  const PlannedRows plan = plan_rows(OP, device, slots, batch, a.index, tiles.images);
  a.groups = plan.groups;
  a.parts = tiles.parts;
  a.x = x.const_data_ptr();
  a.x_strides = strides_of(x);
  a.whole_vectors = has_whole_vectors(a.x, a.x_strides, a.window.channels);
  a.y = y.mutable_data_ptr();
  a.y_strides = strides_of(y);
  a.values = values.const_data_ptr();
  a.frozen_values = second.values;
  a.frozen_index = second.index;
  a.bias = bias ? bias->const_data_ptr() : nullptr;
  a.bias_slots = bias ? int(std::min<int64_t>(bias->size(0), INT32_MAX)) : INT32_MAX;
  a.relu = activation == "relu";
  const int64_t most_items = plan.most_tiles * tiles.parts * ceil_div<int64_t>(out_channels, cut.rows);
  launch_conv_forward(numbers, device.launch(persistent_blocks(most_items, cut.blocks), cut.shared_bytes), a);
  return y;
}

Tensor task_conv2d_grad_input(const Tensor& grad_y,              // [B, O, H', W'], any strides
                              const Tensor& values,              // [sum of N], all slots
                              const Tensor& positions,           // [words] int64
                              const Tensor& index,               // [words] int32
                              const Tensor& slots,               // [] or [B] int64
                              std::vector<Tensor> frozen,        // [] or [values, positions, index]
                              std::vector<int64_t> input_size,   // [C, H, W]
                              std::vector<int64_t> kernel_size,  // [P, Q]
                              std::vector<int64_t> stride,       // [2]
                              std::vector<int64_t> padding,      // [top, bottom, left, right]
                              std::vector<int64_t> dilation      // [2]
) {
  constexpr const char* OP = "task_conv2d_grad_input";
  const OnDevice device(OP, "grad_y", grad_y);
  check_value(grad_y.dim() == 4, OP, ": grad_y must have shape [B, O, H', W'], got ", grad_y.dim(), " dimensions");
  check_value(input_size.size() == 3, OP, ": input_size must be [C, H, W], got ", input_size.size(), " numbers");
  if (triton_serves(grad_y, index, frozen, input_size[0])) {
    return served_by_triton(OP, grad_y, values, positions, index, slots, frozen, input_size, kernel_size, stride,
                            padding, dilation);
  }
  const ConvNumbers numbers = conv_numbers(OP, "grad_y", grad_y, values);
  check_flat(OP, device, "values", values, values.scalar_type());
  const int64_t batch = grad_y.size(0);
  ConvGradInputArguments a{};
  a.window = conv_window(OP, input_size[0], input_size[1], input_size[2], grad_y.size(1), kernel_size, stride, padding,
                         dilation);
  a.grad_y_strides = conv_images(OP, device, "grad_y", grad_y, grad_y.size(1), a.window.out_height, a.window.out_width);
  a.index = gather_index_of(OP, device, index, positions, a.window.num_outputs, a.window.num_columns());
  const FrozenStore second = frozen_store(OP, device, frozen, values, a.index);
  a.index.beside_words = second.index.words;
  const Tensor grad_x = new_images(grad_y, batch, input_size[0], input_size[1], input_size[2]);
  if (grad_x.numel() == 0) return grad_x;

  a.channels_of_block = numbers == ConvNumbers::FLOAT32 || numbers == ConvNumbers::FLOAT64
                            ? std::min(a.window.channels, kGradInputChannels)
                            : kGradInputChannels;
  const ConvCut cut = conv_grad_input_cut(numbers, a.channels_of_block);
  const ImageTiles tiles = image_tiles(a.window.height * a.window.width, cut.pixels);
  const PlannedRows plan = plan_rows(OP, device, slots, batch, a.index, tiles.images);
  a.groups = plan.groups;
  a.parts = tiles.parts;
  a.grad_y = grad_y.const_data_ptr();
  a.grad_x = grad_x.mutable_data_ptr();
  a.grad_x_strides = strides_of(grad_x);
  a.values = values.const_data_ptr();
  a.frozen_values = second.values;
  a.frozen_index = second.index;
  const int64_t most_items = plan.most_tiles * tiles.parts * ceil_div(a.window.channels, a.channels_of_block);
  const int64_t blocks = persistent_blocks(ceil_div<int64_t>(most_items, cut.rows), cut.blocks);
  launch_conv_grad_input(numbers, device.launch(blocks, cut.shared_bytes), a);
  return grad_x;
}

}  // namespace
}  // namespace rsn2

RSN2_CUDA_OPS(m) {
  m.impl("task_conv2d", TORCH_BOX(&rsn2::task_conv2d));
  m.impl("task_conv2d_grad_input", TORCH_BOX(&rsn2::task_conv2d_grad_input));
}
