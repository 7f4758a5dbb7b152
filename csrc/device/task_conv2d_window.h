// The geometry of a convolution as kernels see it: which pixels of the input a pixel of the output reads.
//
// A slot's weights are a matrix [O, K], K = P * Q * C; column (p * Q + q) * C + c reads channel c of the input at
// row oh * stride + p * dilation - top, column ow * stride + q * dilation - left. Both coordinates are sums of one that
// belongs to the output pixel and one that belongs to the column: so is the offset in memory. What lies outside the
// image is zero.
#pragma once

#include "gather_index.h"
#include "groups.h"

namespace rsn2 {

// Images [B, channels, height, width] in memory: distances in elements.
struct ImageStrides {
  int64_t image, channel, row, column;
};

// Heights and widths, padded too, are below 2^30; an image has fewer than 2^30 pixels.
struct ConvWindow {
  int channels, height, width;             // C, H, W
  int num_outputs, out_height, out_width;  // O, H', W'
  int kernel_height, kernel_width;         // P, Q
  int stride_height, stride_width;
  int dilation_height, dilation_width;
  int top, left;  // padding

  RSN2_HOST_DEVICE int num_columns() const { return kernel_height * kernel_width * channels; }
  RSN2_DEVICE int in_pixels() const { return height * width; }
  RSN2_DEVICE int out_pixels() const { return out_height * out_width; }
};

// One part of a pixel of the input: the sum of the parts of an output pixel and of a column is a pixel.
struct alignas(16) Place {
  int64_t offset;
  int row, column;
};

// No sum with a place that this is the row of lies inside an image.
constexpr int kNowhere = -(1 << 30);

RSN2_DEVICE bool is_inside(const ConvWindow& window, const Place& a, const Place& b) {
  return uint32_t(a.row + b.row) < uint32_t(window.height) && uint32_t(a.column + b.column) < uint32_t(window.width);
}

// The part of column k of the weights.
RSN2_DEVICE Place place_of_column(const ConvWindow& window, const ImageStrides& x, int64_t k) {
  if (k >= window.num_columns()) return {0, kNowhere, 0};
  const int tap = int(k) / window.channels, channel = int(k) - tap * window.channels;
  const int row = tap / window.kernel_width * window.dilation_height;
  const int column = tap % window.kernel_width * window.dilation_width;
  return {channel * x.channel + row * x.row + column * x.column, row, column};
}

// Pixels of one slot's images, image after image in the order of the plan.
struct SlotPixel {
  int64_t image;  // of the batch
  int row, column;
};
RSN2_DEVICE SlotPixel slot_pixel(const Groups& groups, int64_t first_image, int64_t pixel, int height, int width) {
  const int64_t image = pixel / (height * width);
  const int inside = int(pixel - image * (height * width)), row = inside / width;
  return {row_at(groups, first_image + image), row, inside - row * width};
}

RSN2_DEVICE int64_t offset_of(const ImageStrides& images, const SlotPixel& pixel) {
  return pixel.image * images.image + pixel.row * images.row + pixel.column * images.column;
}

// The part of an output pixel.
RSN2_DEVICE Place place_of_pixel(const ConvWindow& window, const ImageStrides& x, const SlotPixel& pixel) {
  const int row = pixel.row * window.stride_height - window.top;
  const int column = pixel.column * window.stride_width - window.left;
  return {pixel.image * x.image + row * x.row + column * x.column, row, column};
}

// Pieces of work on pixels: a tile of the plan's images has `parts` parts of kPixels pixels; small images share a part.
struct PixelPart {
  int slot;             // -1: out of range
  int64_t first_image;  // in the plan's order
  int64_t first, last;  // pixels of the slot from that image on; none when last <= first
};
template <int kPixels>
RSN2_DEVICE PixelPart pixel_part(const Groups& groups, int num_slots, int parts, int pixels_of_image, int64_t item) {
  const RowTile images = row_tile(groups, num_slots, item / parts);
  const int64_t first = item % parts * kPixels;
  return {images.slot, images.first, first, least<int64_t>(first + kPixels, int64_t(images.count) * pixels_of_image)};
}

// Several numbers that are read and written at once.
template <typename A, int kCount>
struct alignas(sizeof(A) * kCount) Several {
  A of[kCount];
};

// Lanes of a warp hold pixels: 8 bytes of them.
template <typename A>
constexpr int kPixelsOfLane = 8 / int(sizeof(A));
template <typename A>
constexpr int kPixelsOfWarp = kWarp * kPixelsOfLane<A>;
template <typename A>
using LanePixels = Several<A, kPixelsOfLane<A>>;

}  // namespace rsn2
