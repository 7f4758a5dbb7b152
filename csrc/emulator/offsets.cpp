// For tests/rsn2_kernels/cuda/test_offsets.py: what kernels and launches reckon from sizes and indices, for arrays that
// no memory holds.
#include <array>
#include <string>

#include "../cuda/task_conv2d_host.h"
#include "../device/task_linear_common.h"
#include "../device/task_linear_grad.h"

namespace rsn2 {
namespace {

constexpr const char* OP = "offsets";

// The numbers that a test gives, one after the other.
class Numbers {
 public:
  explicit Numbers(const Tensor& numbers) : next_(numbers.const_data_ptr<int64_t>()), last_(next_ + numbers.numel()) {}
  int64_t next() {
    check_value(next_ < last_, OP, ": too few numbers");
    return *next_++;
  }
  int small() { return int(next()); }

 private:
  const int64_t *next_, *last_;
};

// The head of the index of `num_slots` slots of weights [num_rows, num_columns].
struct Head {
  std::array<int32_t, 8> words;
  Head(int64_t num_slots, int64_t num_rows, int64_t num_columns)
      : words{1,
              int32_t(num_slots),
              int32_t(num_rows),
              int32_t(num_columns),
              int32_t(ceil_div<int64_t>(num_rows, kPanelRows)),
              int32_t(ceil_div<int64_t>(num_columns, kSpanColumns)),
              0,
              0} {}
  GatherIndex index() const { return {words.data(), words[2], words[3], words[1]}; }
};

constexpr int64_t kFirstSlot = 0;

// All rows have slot 0.
Groups one_group(int64_t num_rows, int tile_rows) {
  return {&kFirstSlot, nullptr, nullptr, nullptr, num_rows, tile_rows};
}

ImageStrides next_strides(Numbers& numbers) {
  ImageStrides strides{};
  strides.image = numbers.next();
  strides.channel = numbers.next();
  strides.row = numbers.next();
  strides.column = numbers.next();
  return strides;
}

// C, H, W, O, H', W', P, Q, stride, dilation, top, left.
ConvWindow next_window(Numbers& numbers) {
  ConvWindow window{};
  for (int* number : {&window.channels, &window.height, &window.width, &window.num_outputs, &window.out_height,
                      &window.out_width, &window.kernel_height, &window.kernel_width, &window.stride_height,
                      &window.dilation_height, &window.top, &window.left}) {
    *number = numbers.small();
  }
  window.stride_width = window.stride_height;
  window.dilation_width = window.dilation_height;
  return window;
}

std::vector<int64_t> linear_piece(Numbers& numbers) {
  TaskLinear<float, float> a{};
  const int64_t num_rows = numbers.next();
  a.groups = one_group(num_rows, numbers.small());
  a.num_outputs = numbers.next();
  a.splits = numbers.small();
  const Head head(1, 1, 1);
  a.weight.index = head.index();
  const LinearPiece piece = piece_at<64>(a, numbers.next());
  return {num_pieces<64>(a), piece.rows.first, piece.rows.count, piece.output, piece.split};
}

// Groups of a plan: their first rows, then the end; their first tiles, then the end.
std::vector<int64_t> planned_tile(Numbers& numbers) {
  const int num_slots = numbers.small(), tile_rows = numbers.small();
  std::vector<int32_t> offsets(size_t(num_slots) + 2), tiles(offsets.size());
  for (int32_t& offset : offsets) offset = numbers.small();
  for (int32_t& tile : tiles) tile = numbers.small();
  const Groups groups{&kFirstSlot, offsets.data(), tiles.data(), nullptr, offsets.back(), tile_rows};
  const RowTile tile = row_tile(groups, num_slots, numbers.next());
  return {num_row_tiles(groups, num_slots), tile.slot, tile.first, tile.count};
}

std::vector<int64_t> place(Numbers& numbers) {
  const int part = numbers.small();
  const int64_t num_rows = numbers.next(), row = numbers.next(), num_columns = numbers.next(), column = numbers.next();
  return {place_in(part, num_rows, row, num_columns, column), place_in(row, num_columns, column)};
}

std::vector<int64_t> parts(Numbers& numbers) {
  const int64_t first = numbers.next(), last = numbers.next();
  const int step = numbers.small(), part = numbers.small(), num_parts = numbers.small();
  const Range range = part_of(first, last, step, part, num_parts);
  const Spans spans = spans_of(last - first, part, num_parts);
  return {range.first, range.last, spans.first, spans.last};
}

// A pixel of the output, where it lies, where it begins to read, and what column k reads there.
std::vector<int64_t> conv_pixel(Numbers& numbers) {
  const ConvWindow window = next_window(numbers);
  const ImageStrides x = next_strides(numbers), y = next_strides(numbers);
  const int64_t batch = numbers.next(), first_image = numbers.next(), number = numbers.next(), k = numbers.next();
  const SlotPixel pixel = slot_pixel(one_group(batch, 1), first_image, number, window.out_height, window.out_width);
  const Place from = place_of_pixel(window, x, pixel), column = place_of_column(window, x, k);
  return {pixel.image,
          pixel.row,
          pixel.column,
          offset_of(y, pixel),
          from.offset,
          from.row,
          from.column,
          column.offset,
          column.row,
          column.column,
          is_inside(window, from, column),
          from.offset + column.offset};
}

// Which pixel of the output reads a pixel of the input at row p, column q of the kernel.
std::vector<int64_t> conv_reader(Numbers& numbers) {
  ConvGradInputArguments a{};
  a.window = next_window(numbers);
  a.grad_y_strides = next_strides(numbers);
  const int64_t batch = numbers.next();
  a.groups = one_group(batch, 1);
  const PixelPart part{0, numbers.next(), 0, 0};
  const InputPixel pixel = input_pixel(a, part, numbers.next());
  const int p = numbers.small(), q = numbers.small();
  return {pixel.offset, pixel.row, pixel.column, reader_offset(a, pixel, p, q)};
}

std::vector<int64_t> conv_part(Numbers& numbers) {
  const int64_t batch = numbers.next();
  const int pixels_of_image = numbers.small();
  const ImageTiles cut = image_tiles(pixels_of_image, 64);
  const Groups groups = one_group(batch, cut.images);
  const PixelPart part = pixel_part<64>(groups, 1, cut.parts, pixels_of_image, numbers.next());
  return {cut.images, cut.parts, num_row_tiles(groups, 1), part.first_image, part.first, part.last};
}

std::vector<int64_t> conv_grad_values(Numbers& numbers) {
  ConvGradValuesArguments a{};
  a.window = next_window(numbers);
  const int64_t batch = numbers.next();
  a.groups = one_group(batch, 1);
  a.num_results = numbers.next();
  a.splits = numbers.small();
  a.num_wanted = 2;
  a.wanted[1] = 1;  // a slot without images
  a.starts[1] = numbers.next();
  a.starts[2] = a.num_results;
  const Head head(2, a.window.num_outputs, a.window.num_columns());
  a.index = head.index();
  const GradValuesPiece piece = grad_values_piece<64, 64>(a, numbers.next());
  return {num_grad_values_pieces<64>(a),
          piece.slot,
          piece.span,
          piece.first_row,
          piece.first_result,
          piece.num_results,
          piece.first,
          piece.last};
}

std::vector<int64_t> blocks(Numbers& numbers) {
  const int64_t items = numbers.next();
  return {persistent_blocks(items, numbers.small())};
}

std::vector<int64_t> results_of(const std::string& what, Numbers numbers) {
  if (what == "linear_piece") return linear_piece(numbers);
  if (what == "planned_tile") return planned_tile(numbers);
  if (what == "place") return place(numbers);
  if (what == "parts") return parts(numbers);
  if (what == "conv_pixel") return conv_pixel(numbers);
  if (what == "conv_reader") return conv_reader(numbers);
  if (what == "conv_part") return conv_part(numbers);
  if (what == "conv_grad_values") return conv_grad_values(numbers);
  check_value(what == "blocks", OP, ": nothing is called ", what);
  return blocks(numbers);
}

Tensor offsets(const Tensor& numbers, std::string what) {
  const std::vector<int64_t> results = results_of(what, Numbers(numbers));
  Tensor tensor = new_tensor(numbers, {int64_t(results.size())}, ScalarType::Long);
  std::copy(results.begin(), results.end(), tensor.mutable_data_ptr<int64_t>());
  return tensor;
}

}  // namespace
}  // namespace rsn2

STABLE_TORCH_LIBRARY_FRAGMENT(rsn2_emulated, m) { m.def("selftest_offsets(Tensor numbers, str what) -> Tensor"); }

STABLE_TORCH_LIBRARY_IMPL(rsn2_emulated, CPU, m) { m.impl("selftest_offsets", TORCH_BOX(&rsn2::offsets)); }
