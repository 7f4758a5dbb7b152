#include "task_conv2d_host.h"

#include <algorithm>

namespace rsn2 {
namespace {

constexpr int64_t MOST_PIXELS = int64_t{1} << 30;        // heights, widths and their products: kernels count in 32 bits
constexpr int64_t MOST_ROWS = INT32_MAX - kSpanColumns;  // kernels go on to the end of a tile

bool is_channels_last(const Tensor& tensor) {
  if (tensor.is_contiguous()) return false;
  int64_t expected = 1;
  for (const int64_t d : {1, 3, 2, 0}) {
    if (tensor.size(d) != 1 && tensor.stride(d) != expected) return false;
    expected *= tensor.size(d);
  }
  return true;
}

void check_numbers(const char* op, const char* name, const std::vector<int64_t>& numbers, size_t count,
                   int64_t smallest) {
  check_value(numbers.size() == count, op, ": ", name, " must have ", count, " numbers, got ", numbers.size());
  for (const int64_t n : numbers) {
    check_value(n >= smallest && n < MOST_PIXELS, op, ": ", name, " must be at least ", smallest, " and below ",
                MOST_PIXELS, ", got ", n);
  }
}

}  // namespace

ConvNumbers conv_numbers(const char* op, const char* name, const Tensor& images, const Tensor& values) {
  const ScalarType dtype = images.scalar_type(), of_values = values.scalar_type();
  const bool is_float = of_values == ScalarType::Float;
  if (dtype == ScalarType::Float && is_float) return ConvNumbers::FLOAT32;
  if (dtype == ScalarType::Double && of_values == ScalarType::Double) return ConvNumbers::FLOAT64;
  if (dtype == ScalarType::BFloat16 && of_values == dtype) return ConvNumbers::BFLOAT16;
  if (dtype == ScalarType::Half && of_values == dtype) return ConvNumbers::FLOAT16;
  if (dtype == ScalarType::BFloat16 && is_float) return ConvNumbers::BFLOAT16_FLOAT32;
  if (dtype == ScalarType::Half && is_float) return ConvNumbers::FLOAT16_FLOAT32;
  throw_value_error(op, ": ", name,
                    " must be float32, float64, bfloat16 or float16 and have the dtype of values, or be bfloat16 or "
                    "float16 beside float32 values, got ",
                    torch::headeronly::toString(dtype), " beside ", torch::headeronly::toString(of_values));
}

ImageStrides strides_of(const Tensor& images) {
  return {images.stride(0), images.stride(1), images.stride(2), images.stride(3)};
}

ImageStrides conv_images(const char* op, const OnDevice& device, const char* name, const Tensor& tensor,
                         int64_t channels, int64_t height, int64_t width) {
  device.check(name, tensor);
  check_value(tensor.dim() == 4 && tensor.size(1) == channels && tensor.size(2) == height && tensor.size(3) == width,
              op, ": ", name, " must have shape [B, ", channels, ", ", height, ", ", width, "], got ",
              tensor.dim() == 4
                  ? message("[", tensor.size(0), ", ", tensor.size(1), ", ", tensor.size(2), ", ", tensor.size(3), "]")
                  : message(tensor.dim(), " dimensions"));
  return strides_of(tensor);
}

Tensor new_images(const Tensor& like, int64_t batch, int64_t channels, int64_t height, int64_t width) {
  if (!is_channels_last(like)) return new_tensor(like, {batch, channels, height, width}, like.scalar_type());
  const Tensor pixels = new_tensor(like, {batch, height, width, channels}, like.scalar_type());
  return torch::stable::transpose(torch::stable::transpose(pixels, 1, 3), 2, 3);
}

ConvWindow conv_window(const char* op, int64_t channels, int64_t height, int64_t width, int64_t num_outputs,
                       const std::vector<int64_t>& kernel_size, const std::vector<int64_t>& stride,
                       const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation) {
  check_numbers(op, "kernel_size", kernel_size, 2, 1);
  check_numbers(op, "stride", stride, 2, 1);
  check_numbers(op, "padding", padding, 4, 0);
  check_numbers(op, "dilation", dilation, 2, 1);
  check_numbers(op, "height and width", {height, width}, 2, 0);
  check_value(std::max(channels, num_outputs) <= MOST_ROWS && kernel_size[0] * kernel_size[1] <= MOST_ROWS &&
                  kernel_size[0] * kernel_size[1] * channels <= MOST_ROWS,
              op, ": at most ", MOST_ROWS, " rows and columns of weights");
  const auto out_size = [&](int64_t size, int d) {
    const int64_t padded = size + padding[2 * d] + padding[2 * d + 1];
    const int64_t room = padded - dilation[d] * (kernel_size[d] - 1) - 1;
    check_value(room >= 0 && padded < MOST_PIXELS, op, ": the kernel must fit into the padded image, below ",
                MOST_PIXELS, ": ", d == 0 ? "height " : "width ", size, ", kernel_size ", kernel_size[d], ", dilation ",
                dilation[d]);
    return room / stride[d] + 1;
  };
  const int64_t out_height = out_size(height, 0), out_width = out_size(width, 1);
  check_value(height * width < MOST_PIXELS && out_height * out_width < MOST_PIXELS, op,
              ": an image must have fewer than ", MOST_PIXELS, " pixels");
  return {int(channels),    int(height),         int(width),          int(num_outputs), int(out_height),
          int(out_width),   int(kernel_size[0]), int(kernel_size[1]), int(stride[0]),   int(stride[1]),
          int(dilation[0]), int(dilation[1]),    int(padding[0]),     int(padding[2])};
}

FrozenStore frozen_store(const char* op, const OnDevice& device, const std::vector<Tensor>& frozen,
                         const Tensor& values, const GatherIndex& own) {
  check_value(frozen.empty() || frozen.size() == 3, op, ": frozen must be [] or [values, positions, index], got ",
              frozen.size(), " tensors");
  if (frozen.empty()) return {};
  check_flat(op, device, "frozen values", frozen[0], values.scalar_type());
  // No values: the same as no store.
  return {frozen[0].const_data_ptr(), gather_index_of(op, device, frozen[2], frozen[1], own.rows, own.columns)};
}

ImageTiles image_tiles(int pixels_of_image, int pixels_of_piece) {
  int64_t images = 1;
  const auto pieces = [&] { return ceil_div<int64_t>(images * pixels_of_image, pixels_of_piece); };
  // 9 of 10 pixels are there; where every count of images wastes more, 64 waste least.
  while (images < 64 && images * pixels_of_image * 10 < pieces() * pixels_of_piece * 9) ++images;
  return {int(images), int(pieces())};
}

int64_t persistent_blocks(int64_t most_items, int blocks_of_multiprocessor) {
  return std::min<int64_t>(most_items, int64_t(multiprocessors_of_device()) * blocks_of_multiprocessor);
}

}  // namespace rsn2
