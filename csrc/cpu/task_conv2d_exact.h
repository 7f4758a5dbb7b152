// The gradient of one weight, pixel by pixel, for the sums that the kernels cannot tell. Torch-free.
//
// A kernel multiplies whole tiles: where a tile hangs over the edge of the image or reaches into the padding, an
// infinity meets a zero that is no pixel, and the sum is NaN. Here only pixels are multiplied.
//
// A NaN among the inputs may reach every weight of a slot, so that few images must do: those that hold numbers that are
// not finite come first, and mostly tell the sum.
#pragma once

#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "task_conv2d_run.h"

namespace rsn2 {

// The largest magnitude in an image; infinite or NaN if some number is.
template <class E>
double conv_largest(const ConvImages& images, int64_t image, int64_t num_channels) {
  using Bits = std::conditional_t<sizeof(E) == 8, int64_t, std::conditional_t<sizeof(E) == 4, int32_t, int16_t>>;
  constexpr Bits MAGNITUDE =
      std::numeric_limits<Bits>::max();  // all but the sign: magnitudes are ordered as their bits
  struct Axis {
    int64_t stride, size;
  };
  Axis axes[3] = {{images.stride[1], num_channels}, {images.stride[2], images.H}, {images.stride[3], images.W}};
  for (Axis& axis : axes) axis.size = axis.stride == 0 ? std::min<int64_t>(axis.size, 1) : axis.size;
  std::sort(axes, axes + 3, [](const Axis& a, const Axis& b) { return a.stride > b.stride; });
  if (axes[2].stride == 0) std::rotate(axes, axes + 2, axes + 3);
  const E* const data = static_cast<const E*>(images.data) + image * images.stride[0];
  const auto magnitude = [](const E* at) {
    Bits bits;
    std::memcpy(&bits, at, sizeof(bits));
    return static_cast<Bits>(bits & MAGNITUDE);
  };
  Bits largest = 0;
  for (int64_t i = 0; i < axes[0].size; ++i) {
    for (int64_t j = 0; j < axes[1].size; ++j) {
      const E* const from = data + i * axes[0].stride + j * axes[1].stride;
      const int64_t size = axes[2].size, stride = axes[2].stride;
      if (stride == 1)
        for (int64_t k = 0; k < size; ++k) largest = std::max(largest, magnitude(from + k));
      else
        for (int64_t k = 0; k < size; ++k) largest = std::max(largest, magnitude(from + k * stride));
    }
  }
  E number;
  std::memcpy(&number, &largest, sizeof(number));
  return as_sum(number);
}

// What the sums of a group's weights need to know of its images.
struct ConvOrder {
  std::vector<int64_t> images;  // first those that hold an infinity or a NaN, in x or grad_y
  size_t num_special;
  bool is_rest_finite;  // the sum over the other images cannot overflow
};

template <class E>
ConvOrder conv_special_first(const ConvCall& call, const ConvGroup& group, const ConvImages& x,
                             const ConvImages& grad_y) {
  const int64_t num_images = group.end - group.begin;
  const auto image_at = [&](int64_t n) {
    return call.order == nullptr ? group.begin + n : call.order[group.begin + n];
  };
  std::vector<double> largest_x(static_cast<size_t>(num_images)), largest_grad(largest_x);
  parallel_for(num_images, 1, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      largest_x[n] = conv_largest<E>(x, image_at(n), call.shape.C);
      largest_grad[n] = conv_largest<E>(grad_y, image_at(n), call.shape.O);
    }
  });
  ConvOrder order;
  double bound = 0;
  for (const bool is_special : {true, false}) {
    for (int64_t n = 0; n < num_images; ++n) {
      if ((std::isfinite(largest_x[n]) && std::isfinite(largest_grad[n])) == is_special) continue;
      order.images.push_back(image_at(n));
      const double pixels = static_cast<double>(grad_y.H) * static_cast<double>(grad_y.W);
      if (!is_special) bound += largest_x[n] * largest_grad[n] * pixels * 2;  // 2: more than rounding adds
    }
    if (is_special) order.num_special = order.images.size();
  }
  order.is_rest_finite = std::isfinite(bound);
  return order;
}

// Adds one image's products for the weight of output channel o, input channel c and kernel position (p, q). A NaN is
// final, so that the row with the first one is the last.
template <class E>
double conv_exact_products(const ConvShape& shape, const ConvImages& x, const ConvImages& grad_y, int64_t image,
                           int64_t o, int64_t c, int64_t p, int64_t q) {
  const E* const from = static_cast<const E*>(x.data) + image * x.stride[0] + c * x.stride[1];
  const E* const grad = static_cast<const E*>(grad_y.data) + image * grad_y.stride[0] + o * grad_y.stride[1];
  const int64_t left = q * shape.dilation[1] - shape.padding[2], step = shape.stride[1];
  const int64_t begin = left < 0 ? (-left + step - 1) / step : 0;
  const int64_t end = left < shape.W ? std::min(shape.out_W, (shape.W - 1 - left) / step + 1) : 0;
  double sums[4] = {0, 0, 0, 0};  // four chains of additions do not wait for each other
  double sum = 0;
  for (int64_t i = 0; i < shape.out_H; ++i) {
    const int64_t h = i * shape.stride[0] + p * shape.dilation[0] - shape.padding[0];
    if (h < 0 || h >= shape.H) continue;
    const E* const a = from + h * x.stride[2] + left * x.stride[3];
    const E* const b = grad + i * grad_y.stride[2];
    const auto product = [&](int64_t j) {
      return static_cast<double>(as_sum(a[j * step * x.stride[3]])) * as_sum(b[j * grad_y.stride[3]]);
    };
    int64_t j = begin;
    for (; j + 4 <= end; j += 4) {
      for (int k = 0; k < 4; ++k) sums[k] += product(j + k);
    }
    for (; j < end; ++j) sums[0] += product(j);
    sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    if (sum != sum) break;
  }
  return sum;
}

template <class E>
double conv_exact_gradient(const ConvShape& shape, const ConvOrder& order, const ConvImages& x,
                           const ConvImages& grad_y, int64_t o, int64_t c, int64_t p, int64_t q) {
  double sum = 0;
  for (size_t n = 0; n < order.images.size(); ++n) {
    if (n == order.num_special && order.is_rest_finite && std::isinf(sum)) return sum;
    sum += conv_exact_products<E>(shape, x, grad_y, order.images[n], o, c, p, q);
    if (sum != sum) return sum;
  }
  return sum;
}

// Replaces the NaNs among a slot's sums, which stand in the order of the index. On all threads.
template <class E, class A>
void conv_replace_nans_of(const ConvCall& call, const ConvGroup& group, const ConvIndex& index,
                          const ConvIndex::Slot& slot, const ConvImages& x, const ConvImages& grad_y, A* sums) {
  struct Weight {
    int64_t n, o, c, position;
  };
  std::vector<Weight> weights;
  int64_t n = 0;
  for (int64_t row = 0; row < index.num_blocks_c * index.num_blocks_o * index.block_o; ++row) {
    const int64_t brick = row / index.block_o;
    const int64_t o = brick % index.num_blocks_o * index.block_o + row % index.block_o;
    for (const int64_t end = n + slot.row_counts[row]; n < end; ++n) {
      if (sums[n] == sums[n]) continue;
      const int64_t c = brick / index.num_blocks_o * index.block_c + slot.columns[n] % index.block_c;
      weights.push_back({n, o, c, slot.columns[n] / index.block_c});
    }
  }
  const ConvOrder order = conv_special_first<E>(call, group, x, grad_y);
  struct Nothing {};
  constexpr int64_t WEIGHTS_PER_JOB = 16;
  const int64_t num_weights = static_cast<int64_t>(weights.size());
  share_jobs<Nothing>((num_weights + WEIGHTS_PER_JOB - 1) / WEIGHTS_PER_JOB, [&](Nothing&, int64_t job) {
    const int64_t end = std::min(num_weights, (job + 1) * WEIGHTS_PER_JOB);
    for (int64_t i = job * WEIGHTS_PER_JOB; i < end; ++i) {
      const Weight& at = weights[i];
      sums[at.n] = static_cast<A>(conv_exact_gradient<E>(call.shape, order, x, grad_y, at.o, at.c,
                                                         at.position / index.Q, at.position % index.Q));
    }
  });
}

template <class A>
void conv_replace_nans(const ConvCall& call, const ConvGroup& group, const ConvIndex& index,
                       const ConvIndex::Slot& slot, const ConvImages& x, const ConvImages& grad_y, A* sums) {
  switch (call.image_dtype) {
    case CONV_FLOAT64: return conv_replace_nans_of<double>(call, group, index, slot, x, grad_y, sums);
    case CONV_BFLOAT16: return conv_replace_nans_of<ConvBFloat16>(call, group, index, slot, x, grad_y, sums);
    case CONV_FLOAT16: return conv_replace_nans_of<ConvFloat16>(call, group, index, slot, x, grad_y, sums);
    default: return conv_replace_nans_of<float>(call, group, index, slot, x, grad_y, sums);
  }
}

}  // namespace rsn2
