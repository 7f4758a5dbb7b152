// Kernels of one pixel, stride 1 and no padding, on images whose channels are whole vectors of adjacent pixels: nothing
// needs a tile, as every source vector is where the result's is. A lane is then a pixel, a tile an image. Torch-free.
#pragma once

#include "task_conv2d_run.h"

namespace rsn2 {

// A block of channels this far apart can still be reached by the 32-bit offset of a weight.
constexpr int64_t CONV_MOST_DIRECT_STRIDE = int64_t{1} << 24;
// Below this, pieces of an image are too small to keep the registers busy.
constexpr int64_t CONV_LEAST_DIRECT_VECTORS = 4;
// Longer copies of images would take too much memory: 64 channels of these take 1 MiB.
constexpr int64_t CONV_MOST_SPAN_VECTORS = 256;
constexpr int64_t CONV_MOST_LANES = 16;  // in the widest vector

inline int64_t conv_lanes(const ConvCall& call) { return call.kernels->vector_bytes / (call.is_double() ? 8 : 4); }

// Whether a convolution of this shape and dtype needs no tiles.
inline bool conv_is_direct(const ConvCall& call) {
  const ConvShape& shape = call.shape;
  const int64_t lanes = conv_lanes(call), pixels = shape.H * shape.W;
  bool is_point = call.image_dtype == CONV_FLOAT32 || call.image_dtype == CONV_FLOAT64;
  for (const int d : {0, 1}) is_point = is_point && shape.kernel_size[d] == 1 && shape.stride[d] == 1;
  for (const int64_t padding : shape.padding) is_point = is_point && padding == 0;
  return is_point && pixels % lanes == 0 && pixels / lanes >= CONV_LEAST_DIRECT_VECTORS;
}

// Whether the images can be read where they are.
inline bool conv_is_plain(const ConvCall& call, const ConvImages& images) {
  return images.stride[3] == 1 && images.stride[2] == images.W && images.stride[1] % conv_lanes(call) == 0 &&
         images.stride[1] < CONV_MOST_DIRECT_STRIDE;
}

// Both. It must not depend on the batch.
inline bool conv_is_direct(const ConvCall& call, const ConvImages& a, const ConvImages& b) {
  return conv_is_direct(call) && conv_is_plain(call, a) && conv_is_plain(call, b);
}

// An image as a tile of one row. Two rows in a piece would need fewer broadcasts, but 64 channels of them more than the
// first-level cache: that takes 1.5 times as long.
inline void make_direct_plan(const ConvCall& call, const ConvImages& source, const ConvImages& result,
                             int64_t num_row_blocks, ConvPlan& plan) {
  const int64_t lanes = conv_lanes(call);
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

// Channels a multiple of 4 KiB apart share so few sets of the cache that a copy is faster.
inline bool conv_is_read_in_place(const ConvCall& call, const ConvImages& images) {
  return conv_is_plain(call, images) && images.stride[1] * (call.is_double() ? 8 : 4) % 4096 != 0;
}

// For the gradient of the values, whose sums have an order: it depends on the shape alone, so that images that are not
// plain are copied, a span of pixels at a time. A tile is a span, its lane's j its first vector.
inline void make_direct_gradient_plan(const ConvCall& call, const ConvImages& x, const ConvImages& grad_y,
                                      int64_t num_row_blocks, ConvPlan& plan) {
  make_direct_plan(call, x, grad_y, num_row_blocks, plan);
  const int64_t most = std::min(plan.columns, CONV_MOST_SPAN_VECTORS);
  plan.tiles_w = (plan.columns + most - 1) / most;
  plan.columns = (plan.columns + plan.tiles_w - 1) / plan.tiles_w;
  if (!conv_is_read_in_place(call, x)) plan.source.channel_pitch = plan.columns | 1;
  if (!conv_is_read_in_place(call, grad_y)) plan.result.pitch = plan.columns | 1;
}

// The pixels of a span, `columns` vectors from lane.j on, in some channels: where they are, or in a copy whose channels
// are plan.columns vectors apart. numbers: 0, 1 .. plan.columns - 1.
template <class A>
A* conv_span(const ConvCall& call, const ConvPlan& plan, const ConvImages& images, const ConvLane& lane,
             int64_t columns, int64_t first_channel, int64_t num_channels, const int32_t* numbers,
             ConvBuffer<A>& buffer) {
  const int64_t lanes = conv_lanes(call), first = lane.j * lanes, end = first + columns * lanes;
  if (conv_is_read_in_place(call, images)) return conv_pixels<A>(images, lane.image, first_channel) + first;
  const int64_t pitch = plan.columns | 1;
  A* const copy = buffer.room_for(num_channels * pitch * lanes);
  if (images.stride[1] == 1 && images.stride[2] == images.W * images.stride[3]) {
    // Adjacent channels, transposed as for a tile: lane l has the pixels l, l + lanes ..
    A* const data = static_cast<A*>(images.data) + first * images.stride[3];
    const int64_t pixel = images.stride[3];
    const ConvImages view{data, {images.stride[0], 1, pixel, lanes * pixel}, lanes, columns};
    const int32_t row = 0;
    const ConvSourceTile form{1, 1, &row, static_cast<int32_t>(columns), numbers, 0, 0, nullptr, 0, 1, 1, 0, 0, pitch};
    ConvLane of_lanes[CONV_MOST_LANES];
    for (int64_t l = 0; l < lanes; ++l) of_lanes[l] = {lane.image, l, 0};
    call.kernels->copy_in[call.image_dtype](view, form, of_lanes, lanes, first_channel, num_channels, copy);
    return copy;
  }
  const bool is_run = images.stride[3] == 1 && images.stride[2] == images.W;
  for (int64_t c = 0; c < num_channels; ++c) {
    const A* const from = conv_pixels<A>(images, lane.image, first_channel + c);
    A* to = copy + c * pitch * lanes;
    for (int64_t pixel = first; pixel < end;) {
      const int64_t w = pixel % images.W;
      const int64_t count = is_run ? end - pixel : std::min(images.W - w, end - pixel);
      const A* const run = from + pixel / images.W * images.stride[2] + w * images.stride[3];
      if (images.stride[3] == 1)
        std::copy(run, run + count, to);
      else
        for (int64_t k = 0; k < count; ++k) to[k] = run[k * images.stride[3]];
      pixel += count;
      to += count;
    }
  }
  return copy;
}

}  // namespace rsn2
