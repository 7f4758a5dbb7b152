// The rule that chooses between the sparse and the dense route of a convolution.
#include "task_conv2d_route.h"

#include <atomic>

namespace rsn2 {
namespace {

std::atomic<int> forced{0};

double least_density(ConvProduct product, const ConvShape& shape) {
  (void)product;
  (void)shape;
  return 0.8;
}

}  // namespace

bool takes_dense_route(ConvProduct product, const ConvShape& shape, int64_t num_owned) {
  // libtorch pads both sides alike; a slot without weights leaves nothing to multiply.
  if (shape.padding[0] != shape.padding[1] || shape.padding[2] != shape.padding[3] || num_owned == 0) return false;
  const int route = forced.load(std::memory_order_relaxed);
  if (route != 0) return route == 2;
  const double numel = double(shape.O) * double(shape.C) * double(shape.kernel_size[0] * shape.kernel_size[1]);
  return double(num_owned) >= least_density(product, shape) * numel;
}

void force_conv2d_route(int route) { forced = route; }
int forced_conv2d_route() { return forced; }

}  // namespace rsn2
