// task_conv2d and its gradients on the CPU: checks, images grouped by slot, outputs allocated.
#include <cstring>
#include <optional>

#include "host.h"
#include "task_conv2d_run.h"

namespace rsn2 {
namespace {

using torch::headeronly::MemoryFormat;

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

int64_t bytes_of(ConvDtype dtype) { return dtype == CONV_FLOAT64 ? 8 : dtype == CONV_FLOAT32 ? 4 : 2; }

// Images have the dtype of the values, or 16 bits beside float32 values.
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

// channels_last and not at the same time contiguous, as torch sees it.
bool is_channels_last(const Tensor& tensor) {
  if (tensor.is_contiguous()) return false;
  int64_t expected = 1;
  for (const int64_t d : {1, 3, 2, 0}) {
    if (tensor.size(d) != 1 && tensor.stride(d) != expected) return false;
    expected *= tensor.size(d);
  }
  return true;
}

// A new tensor of this shape in the memory format of `like`.
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
  check_value(P * Q <= 65535 && positions.K % (P * Q) == 0, op, ": kernel_size [", P, ", ", Q,
              "] must divide the ", positions.K, " columns of positions");
  const auto out_size = [&](int64_t size, int d) {
    const int64_t room = size + padding[2 * d] + padding[2 * d + 1] - dilation[d] * (kernel_size[d] - 1) - 1;
    check_value(room >= 0, op, ": the kernel is larger than the padded image: ", d == 0 ? "height" : "width", " ", size,
                ", kernel_size ", kernel_size[d], ", dilation ", dilation[d]);
    return room / stride[d] + 1;
  };
  return {positions.K / (P * Q), H, W, positions.O, out_size(H, 0), out_size(W, 1),
          {P, Q}, {stride[0], stride[1]}, {padding[0], padding[1], padding[2], padding[3]}, {dilation[0], dilation[1]}};
}

// A store, checked for the slots that occur; counts the weights they read.
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
    const int64_t N = made.slot(group.slot).N;
    check_value(N == positions.num_values(group.slot), op, ": index has ", N, " weights of slot ", group.slot,
                ", but it owns ", positions.num_values(group.slot));
    num_weights += N;
  }
  return store;
}

ConvCall call_of(const ConvShape& shape, ConvDtype images, ConvDtype values, const RowGroups& rows) {
  ConvCall call{&cpu_kernels().conv2d, shape, images, values, {}, rows.rows(), {}};
  for (const RowGroup& group : rows.groups) call.groups.push_back({group.slot, group.begin, group.end});
  call.threads = {torch::stable::get_num_threads(), [](int64_t number, const std::function<void()>& worker) {
                    torch::stable::parallel_for(0, number, 1, [&](int64_t, int64_t) { worker(); });
                  }};
  return call;
}

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

Tensor task_conv2d(
    const Tensor& x,                   // [B, C, H, W], any strides
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
  const Tensor y = empty_images(x, {x.size(0), shape.O, shape.out_H, shape.out_W});
  if (y.numel() > 0) {
    conv_forward(call_of(shape, x_dtype, dtype, rows), in, stores, bias ? bias->const_data_ptr() : nullptr,
                 activation == "relu", result_images(y));
  }
  return y;
}

Tensor task_conv2d_grad_input(
    const Tensor& grad_y,              // [B, O, H', W'], any strides
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
  const Tensor grad_x = empty_images(grad_y, {grad_y.size(0), shape.C, shape.H, shape.W});
  if (grad_x.numel() > 0) {
    conv_grad_input(call_of(shape, grad_dtype, dtype, rows), in, stores, result_images(grad_x));
  }
  return grad_x;
}

Tensor task_conv2d_grad_values(
    const Tensor& x,                   // [B, C, H, W], any strides
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
  check_value(grad_y.size(0) == x.size(0) && grad.H == shape.out_H && grad.W == shape.out_W, OP,
              ": grad_y must have ", x.size(0), " images of ", shape.out_H, " x ", shape.out_W, " pixels, got ",
              grad_y.size(0), " of ", grad.H, " x ", grad.W);
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
  const int64_t bytes = bytes_of(dtype);
  for (size_t i = 0, first = 0; i < wanted.size(); first += static_cast<size_t>(num_owned[i++] * bytes)) {
    if (!has_images[i]) std::memset(data + first, 0, static_cast<size_t>(num_owned[i] * bytes));
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

Tensor task_conv2d_index(
    const Tensor& positions,          // [words] int64
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
  m.impl("task_conv2d_grad_values", TORCH_BOX(&rsn2::task_conv2d_grad_values));
  m.impl("task_conv2d_index", TORCH_BOX(&rsn2::task_conv2d_index));
}
