// task_conv2d, its gradient of the input and its index on the CPU: checks, images grouped by slot, outputs allocated.
#include <optional>

#include "task_conv2d_dense.h"

namespace rsn2 {
namespace {

std::vector<ConvStore> stores_of(const char* op, const Tensor& values, const Positions& positions, const Tensor& index,
                                 const std::vector<Tensor>& frozen, const ConvShape& shape, const RowGroups& rows) {
  int64_t num_weights = 0;
  std::vector<ConvStore> stores{store_of(op, values, index, positions, shape, rows.groups, num_weights)};
  check_value(frozen.empty() || frozen.size() == 3, op, ": frozen must be [] or [values, positions, index], got ",
              frozen.size(), " tensors");
  if (!frozen.empty()) {
    const Positions second = parse_positions(op, frozen[1]);
    check_value(second.T == positions.T && second.O == positions.O && second.K == positions.K &&
                    frozen[0].scalar_type() == values.scalar_type(),
                op, ": frozen must be a store of the same slots, matrix and dtype");
    stores.push_back(store_of(op, frozen[0], frozen[2], second, shape, rows.groups, num_weights));
  }
  count_weights_read(op, num_weights);
  return stores;
}

Tensor task_conv2d(const Tensor& x,                   // [B, C, H, W], any strides
                   const Tensor& values,              // [sum of N], all slots
                   const Tensor& positions,           // [words] int64
                   const Tensor& index,               // [words] int32, task_conv2d_index(positions, kernel_size)
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
  const Positions matrix = parse_positions(OP, positions);
  check_value(out_channels == matrix.O, OP, ": out_channels must be ", matrix.O, ", got ", out_channels);
  check_value(activation == "none" || activation == "relu", OP, ": activation must be 'none' or 'relu', got '",
              activation, "'");
  check_value(x.dim() == 4, OP, ": x must have shape [B, C, H, W], got ", x.dim(), " dimensions");
  const ConvShape shape = shape_of(OP, matrix, x.size(2), x.size(3), kernel_size, stride, padding, dilation);
  const ConvImages in = images_of(OP, "x", x, shape.C);
  const RowGroups rows = group_rows(OP, slots, x.size(0), matrix.T);
  const ConvDtype x_dtype = conv_dtype(OP, "x", x), dtype = conv_dtype(OP, "values", values);
  check_dtypes(OP, "x", x_dtype, dtype);
  const std::vector<ConvStore> stores = stores_of(OP, values, matrix, index, frozen, shape, rows);
  if (bias) {
    check_value(bias->is_cpu() && bias->dim() == 2 && bias->size(0) == matrix.T && bias->size(1) == matrix.O &&
                    bias->is_contiguous() && bias->scalar_type() == values.scalar_type(),
                OP, ": bias must be a contiguous [", matrix.T, ", ", matrix.O, "] on the CPU, dtype of values");
  }
  ConvCall call = call_of(shape, x_dtype, dtype, rows);
  const Tensor y = conv_dense_forward(call, x, stores, bias, activation == "relu");
  if (y.numel() > 0 && !call.groups.empty()) {
    conv_forward(call, in, stores, bias ? bias->const_data_ptr() : nullptr, activation == "relu", result_images(y));
  }
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
  const Positions matrix = parse_positions(OP, positions);
  check_value(input_size.size() == 3, OP, ": input_size must be [C, H, W], got ", input_size.size(), " numbers");
  const ConvShape shape = shape_of(OP, matrix, input_size[1], input_size[2], kernel_size, stride, padding, dilation);
  check_value(input_size[0] == shape.C, OP, ": input_size must have ", shape.C, " channels, got ", input_size[0]);
  const ConvImages in = images_of(OP, "grad_y", grad_y, shape.O);
  check_value(in.H == shape.out_H && in.W == shape.out_W, OP, ": grad_y must be ", shape.out_H, " x ", shape.out_W,
              " pixels, got ", in.H, " x ", in.W);
  const RowGroups rows = group_rows(OP, slots, grad_y.size(0), matrix.T);
  const ConvDtype grad_dtype = conv_dtype(OP, "grad_y", grad_y), dtype = conv_dtype(OP, "values", values);
  check_dtypes(OP, "grad_y", grad_dtype, dtype);
  const std::vector<ConvStore> stores = stores_of(OP, values, matrix, index, frozen, shape, rows);
  ConvCall call = call_of(shape, grad_dtype, dtype, rows);
  const Tensor grad_x = conv_dense_grad_input(call, grad_y, stores);
  if (grad_x.numel() > 0 && !call.groups.empty()) {
    conv_grad_input(call, in, stores, result_images(grad_x));
  }
  return grad_x;
}

Tensor task_conv2d_index(const Tensor& positions,          // [words] int64
                         std::vector<int64_t> kernel_size  // [P, Q]
) {
  constexpr const char* OP = "task_conv2d_index";
  const Positions matrix = parse_positions(OP, positions);
  check_value(kernel_size.size() == 2, OP, ": kernel_size must have 2 numbers, got ", kernel_size.size());
  ConvIndexBuilder builder(OP, matrix.T, matrix.O, matrix.K, kernel_size[0], kernel_size[1]);
  for (int64_t t = 0; t < matrix.T; ++t) {
    check_slot(OP, matrix, t, std::numeric_limits<int64_t>::max());
    builder.add_slot(t, matrix.num_values(t),
                     [&](int64_t slot, const auto& visit) { for_each_owned(OP, matrix, slot, visit); });
  }
  const std::vector<int32_t>& words = builder.words();
  const Tensor index = torch::stable::new_empty(positions, {static_cast<int64_t>(words.size())}, ScalarType::Int);
  std::copy(words.begin(), words.end(), index.mutable_data_ptr<int32_t>());
  return index;
}

}  // namespace
}  // namespace rsn2

STABLE_TORCH_LIBRARY_IMPL(rsn2_kernels, CPU, m) {
  m.impl("task_conv2d", TORCH_BOX(&rsn2::task_conv2d));
  m.impl("task_conv2d_grad_input", TORCH_BOX(&rsn2::task_conv2d_grad_input));
  m.impl("task_conv2d_index", TORCH_BOX(&rsn2::task_conv2d_index));
}
