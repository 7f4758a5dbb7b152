// Kernels of one pixel, stride 1 and no padding, on images whose channels are whole vectors of adjacent pixels: nothing
// needs a tile, as every source vector is where the result's is. A lane is then a pixel, a tile an image. Torch-free.
#pragma once

#include "task_conv2d_run.h"

namespace rsn2 {

// A block of channels this far apart can still be reached by the 32-bit offset of a weight.
constexpr int64_t CONV_MOST_DIRECT_STRIDE = int64_t{1} << 24;
// Below this, pieces of an image are too small to keep the registers busy.
constexpr int64_t CONV_LEAST_DIRECT_VECTORS = 4;

// Whether images of these two forms need no tiles. It must not depend on the batch: so may the order of a sum.
inline bool conv_is_direct(const ConvCall& call, const ConvImages& a, const ConvImages& b) {
  const ConvShape& shape = call.shape;
  const int64_t lanes = call.kernels->vector_bytes / (call.is_double() ? 8 : 4);
  const auto is_plain = [&](const ConvImages& images) {
    return images.stride[3] == 1 && images.stride[2] == images.W && images.stride[1] % lanes == 0 &&
           images.stride[1] < CONV_MOST_DIRECT_STRIDE;
  };
  bool is_point = call.image_dtype == CONV_FLOAT32 || call.image_dtype == CONV_FLOAT64;
  for (const int d : {0, 1}) is_point = is_point && shape.kernel_size[d] == 1 && shape.stride[d] == 1;
  for (const int64_t padding : shape.padding) is_point = is_point && padding == 0;
  const int64_t pixels = shape.H * shape.W;
  return is_point && is_plain(a) && is_plain(b) && pixels % lanes == 0 && pixels / lanes >= CONV_LEAST_DIRECT_VECTORS;
}

// An image as a tile of one row. Two rows in a piece would need fewer broadcasts, but 64 channels of them more than the
// first-level cache: that takes 1.5 times as long.
inline void make_direct_plan(const ConvCall& call, const ConvImages& source, const ConvImages& result,
                             int64_t num_row_blocks, ConvPlan& plan) {
  const int64_t lanes = call.kernels->vector_bytes / (call.is_double() ? 8 : 4);
  plan.is_direct = true;
  plan.rows = plan.num_groups = plan.tiles_h = plan.tiles_w = 1;
  plan.columns = plan.source_row_pitch = call.shape.H * call.shape.W / lanes;
  plan.panel_blocks = std::max<int64_t>(1, num_row_blocks);
  plan.tap = {0};
  plan.source.num_groups = 1;
  plan.source.channel_pitch = source.stride[1] / lanes;
  plan.result.pitch = result.stride[1] / lanes;
}

// An image's pixels from a channel on.
template <class A>
A* conv_pixels(const ConvImages& images, int64_t image, int64_t channel) {
  return static_cast<A*>(images.data) + image * images.stride[0] + channel * images.stride[1];
}

}  // namespace rsn2
