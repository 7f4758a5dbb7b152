// Checks of the convolution's arguments.
#include "task_conv2d_checks.h"

#include "../levels.h"

namespace rsn2 {
using torch::headeronly::MemoryFormat;

bool is_channels_last(const Tensor& tensor) {
  if (tensor.is_contiguous()) return false;
  int64_t expected = 1;
  for (const int64_t d : {1, 3, 2, 0}) {
    if (tensor.size(d) != 1 && tensor.stride(d) != expected) return false;
    expected *= tensor.size(d);
  }
  return true;
}

ConvDtype conv_dtype(const char* op, const char* name, const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return CONV_FLOAT32;
    case ScalarType::Double: return CONV_FLOAT64;
    case ScalarType::BFloat16: return CONV_BFLOAT16;
    case ScalarType::Half: return CONV_FLOAT16;
    default:
      throw_value_error(op, ": ", name, " must be float32, float64, bfloat16 or float16, got ",
                        torch::headeronly::toString(tensor.scalar_type()));
  }
}

void check_dtypes(const char* op, const char* name, ConvDtype images, ConvDtype values) {
  const bool is_16_bit = images == CONV_BFLOAT16 || images == CONV_FLOAT16;
  check_value(images == values || (is_16_bit && values == CONV_FLOAT32), op, ": ", name,
              " must have the dtype of values, or be bfloat16 or float16 beside float32 values");
}

ConvImages images_of(const char* op, const char* name, const Tensor& tensor, int64_t channels) {
  check_value(tensor.is_cpu(), op, ": ", name, " must be on the CPU");
  check_value(tensor.dim() == 4 && tensor.size(1) == channels, op, ": ", name, " must have shape [B, ", channels,
              ", H, W], got ", tensor.dim(), " dimensions",
              tensor.dim() == 4 ? message(" and ", tensor.size(1), " channels") : "");
  ConvImages images{const_cast<void*>(tensor.const_data_ptr()),
                    {tensor.stride(0), tensor.stride(1), tensor.stride(2), tensor.stride(3)},
                    tensor.size(2),
                    tensor.size(3)};
  // The stride of a dimension of one means nothing; this one lets the kernels see adjacent columns or channels.
  if (images.W == 1 && images.stride[1] != 1) images.stride[3] = 1;
  if (channels == 1 && images.stride[3] != 1) images.stride[1] = 1;
  return images;
}

Tensor empty_images(const Tensor& like, const std::vector<int64_t>& size) {
  return torch::stable::empty(size, like.scalar_type(), std::nullopt, like.device(), std::nullopt,
                              is_channels_last(like) ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
}

ConvImages result_images(const Tensor& tensor) {
  return {tensor.mutable_data_ptr(),
          {tensor.stride(0), tensor.stride(1), tensor.stride(2), tensor.stride(3)},
          tensor.size(2),
          tensor.size(3)};
}

ConvShape shape_of(const char* op, const Positions& positions, int64_t H, int64_t W,
                   const std::vector<int64_t>& kernel_size, const std::vector<int64_t>& stride,
                   const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation) {
  constexpr int64_t MOST = int64_t{1} << 31;  // so that no product of a check overflows
  const auto check_numbers = [&](const char* name, const std::vector<int64_t>& numbers, size_t count, int64_t least) {
    check_value(numbers.size() == count, op, ": ", name, " must have ", count, " numbers, got ", numbers.size());
    for (const int64_t n : numbers) {
      check_value(n >= least && n < MOST, op, ": ", name, " must be at least ", least, ", got ", n);
    }
  };
  check_numbers("kernel_size", kernel_size, 2, 1);
  check_numbers("stride", stride, 2, 1);
  check_numbers("padding", padding, 4, 0);
  check_numbers("dilation", dilation, 2, 1);
  const int64_t P = kernel_size[0], Q = kernel_size[1];
  check_value(P * Q <= 65535 && positions.K % (P * Q) == 0, op, ": kernel_size [", P, ", ", Q, "] must divide the ",
              positions.K, " columns of positions");
  const auto out_size = [&](int64_t size, int d) {
    const int64_t room = size + padding[2 * d] + padding[2 * d + 1] - dilation[d] * (kernel_size[d] - 1) - 1;
    check_value(room >= 0, op, ": the kernel is larger than the padded image: ", d == 0 ? "height" : "width", " ", size,
                ", kernel_size ", kernel_size[d], ", dilation ", dilation[d]);
    return room / stride[d] + 1;
  };
  return {positions.K / (P * Q),
          H,
          W,
          positions.O,
          out_size(H, 0),
          out_size(W, 1),
          {P, Q},
          {stride[0], stride[1]},
          {padding[0], padding[1], padding[2], padding[3]},
          {dilation[0], dilation[1]}};
}

ConvStore store_of(const char* op, const Tensor& values, const Tensor& index, const Positions& positions,
                   const ConvShape& shape, const std::vector<RowGroup>& groups, int64_t& num_weights) {
  check_flat(op, "values", values, values.scalar_type());
  check_flat(op, "index", index, ScalarType::Int);
  const ConvStore store{values.const_data_ptr(), positions.value_starts,
                        parse_conv_index(op, index.const_data_ptr<int32_t>(), index.numel())};
  const ConvIndex& made = store.index;
  check_value(made.T == positions.T && made.O == positions.O && made.C == shape.C && made.P == shape.kernel_size[0] &&
                  made.Q == shape.kernel_size[1],
              op, ": index was made from other positions or for another kernel_size");
  for (const RowGroup& group : groups) {
    check_slot(op, positions, group.slot, values.numel());
    check_conv_slot(op, made, group.slot, positions.num_values(group.slot));
    num_weights += positions.num_values(group.slot);
  }
  return store;
}

ConvCall call_of(const ConvShape& shape, ConvDtype images, ConvDtype values, const RowGroups& rows) {
  ConvCall call{&cpu_kernels().conv2d, shape, images, values, {}, rows.rows()};
  for (const RowGroup& group : rows.groups) call.groups.push_back({group.slot, group.begin, group.end});
  return call;
}

}  // namespace rsn2
