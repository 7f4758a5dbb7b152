// The gradient of one weight, pixel by pixel, for the sums that the kernels cannot tell. Torch-free.
//
// A kernel multiplies whole tiles: where a tile hangs over the edge of the image or reaches into the padding, an
// infinity meets a zero that is no pixel, and the sum is NaN. Here only pixels are multiplied.
#pragma once

#include "task_conv2d_run.h"

namespace rsn2 {

inline double conv_number(const ConvImages& images, ConvDtype dtype, int64_t at) {
  switch (dtype) {
    case CONV_FLOAT64: return static_cast<const double*>(images.data)[at];
    case CONV_BFLOAT16: return as_sum(static_cast<const ConvBFloat16*>(images.data)[at]);
    case CONV_FLOAT16: return as_sum(static_cast<const ConvFloat16*>(images.data)[at]);
    default: return static_cast<const float*>(images.data)[at];
  }
}

// The weight of output channel o, input channel c and kernel position (p, q), over the images of a group. A NaN is
// final, so that the first one ends the sum.
inline double conv_exact_gradient(const ConvCall& call, const ConvGroup& group, const ConvImages& x,
                                  const ConvImages& grad_y, int64_t o, int64_t c, int64_t p, int64_t q) {
  const ConvShape& shape = call.shape;
  double sum = 0;
  for (int64_t place = group.begin; place < group.end; ++place) {
    const int64_t image = call.order == nullptr ? place : call.order[place];
    for (int64_t i = 0; i < shape.out_H; ++i) {
      const int64_t h = i * shape.stride[0] + p * shape.dilation[0] - shape.padding[0];
      if (h < 0 || h >= shape.H) continue;
      for (int64_t j = 0; j < shape.out_W; ++j) {
        const int64_t w = j * shape.stride[1] + q * shape.dilation[1] - shape.padding[2];
        if (w < 0 || w >= shape.W) continue;
        const auto number = [&](const ConvImages& images, int64_t channel, int64_t row, int64_t column) {
          return conv_number(images, call.image_dtype,
                             image * images.stride[0] + channel * images.stride[1] + row * images.stride[2] +
                                 column * images.stride[3]);
        };
        sum += number(x, c, h, w) * number(grad_y, o, i, j);
        if (sum != sum) return sum;
      }
    }
  }
  return sum;
}

// Replaces the NaNs among a slot's sums, which stand in the order of the index.
template <class A>
void conv_replace_nans(const ConvCall& call, const ConvGroup& group, const ConvIndex& index,
                       const ConvIndex::Slot& slot, const ConvImages& x, const ConvImages& grad_y, A* sums) {
  int64_t n = 0;
  for (int64_t row = 0; row < index.num_blocks_c * index.num_blocks_o * index.block_o; ++row) {
    const int64_t brick = row / index.block_o;
    const int64_t o = brick % index.num_blocks_o * index.block_o + row % index.block_o;
    for (const int64_t end = n + slot.row_counts[row]; n < end; ++n) {
      if (sums[n] == sums[n]) continue;
      const int64_t position = slot.columns[n] / index.block_c;
      const int64_t c = brick / index.num_blocks_o * index.block_c + slot.columns[n] % index.block_c;
      sums[n] =
          static_cast<A>(conv_exact_gradient(call, group, x, grad_y, o, c, position / index.Q, position % index.Q));
    }
  }
}

}  // namespace rsn2
