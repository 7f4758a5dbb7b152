// The rule that chooses between the sparse and the dense route of a convolution.
#include "task_conv2d_route.h"

#include <atomic>

namespace rsn2 {
namespace {

// Measured with AVX-512: time of the sparse route over that of the dense one, unpacking included, float32, padding of
// half the kernel, as many channels out as in; 1|16 images (64 3x3: 1|16|64) of the size after the @.
//
//                     one thread                              two threads
//   density           .8              1                       .8             1
//   forward
//   64 3x3 @28        1.01|.92|1.26   1.20|1.24|1.48          .84|1.00|1.05  .92|1.21|1.22
//   64 3x3 @28 / 2    .91|1.27|1.40   1.03|1.69|1.74          .62|.92|.86    .67|1.14|1.04
//   32 3x3 @28        .79|.98         .91|1.26                .62|.96        .66|1.12
//   256 3x3 @14       .99|1.16        1.17|1.34               .73|1.09       .64|.86
//   64 5x5 @28        1.10|1.33       1.29|1.63               .93|1.23       1.07|1.63
//   gradient of the input
//   64 3x3 @28        1.09|.99|1.11   1.27|1.28|1.49          .78|1.02|1.02  .95|1.28|1.38
//   64 3x3 @28 / 2    .82|.66|.65     .92|.73|.78             .58|.71|.65    .57|.81|.76
//   32 3x3 @28        .84|1.03        .97|1.30                .67|.93        .63|1.11
//   256 3x3 @14       1.24|1.22       1.25|1.42               .90|.84        .93|1.20
//   64 5x5 @28        1.19|1.35       1.44|1.64               .94|1.24       1.15|1.52
//
// Batches gain, one image alone may lose: it is too little work to pay for the unpacking. To tell them apart would let
// an image's bits depend on how many there are.
//
// channels_last images gain 1.05 to 1.3 times as much. Left to the sparse kernels:
// - 1x1: at density 1 the dense route takes 1.5 to 2 times as long with 32 and 64 channels; with 256 it is slower up to
//   .85 and gains 1.75 at 1, from 16 images on only. Other kernels of fewer than 9 positions were not measured.
// - Small images (256 3x3 @7 .69 at density 1, one image): unpacking takes longer than is gained; and libtorch computes
//   one image of up to 20480 numbers in another way than many, so that its bits would depend on how many there are.
// - The gradient of the input of a strided convolution: see above.
// - The gradient of an input of few channels: dense it takes 3 to 4 times as long for 3.
// - The gradient of the values: dense it is 1.3 to 2 times as fast at density 1, but its bits depend on the number of
//   threads.
// - float64 and 16 bits, dilation: not measured. Uneven padding, which libtorch's convolution does not have.
//
// task_linear has no dense route. At density 1, 1000x1000, one thread, to unpack and call F.linear takes 2.1, 4.8, 3
// and 1.7 times as long as the sparse product of 1, 16, 64 and 512 rows (256x256: 2.9, 2.8, 2.2, 1.5). F.linear alone
// is faster at one row only (0.26), where reading the packed weights into scratch is most of the work; were unpacking
// no more than a copy, dense would win there (0.6) and nowhere else (1.06 and more).
constexpr double LEAST_DENSITY_3X3 = 0.8;  // kernels of 9 positions or more
constexpr double LEAST_DENSITY_5X5 = 0.7;  // of 25 or more
constexpr int64_t LARGEST_SMALL_IMAGE = 20480;
constexpr int64_t LEAST_GRAD_CHANNELS = 32;

std::atomic<ConvRoute> chosen{CONV_BY_RULE};

}  // namespace

bool takes_dense_route(ConvProduct product, const ConvShape& shape, int64_t num_read) {
  const bool is_even = shape.padding[0] == shape.padding[1] && shape.padding[2] == shape.padding[3];
  if (!is_even || num_read == 0) return false;
  const ConvRoute route = conv2d_route();
  if (route != CONV_BY_RULE) return route == CONV_DENSE;
  const bool is_strided = shape.stride[0] != 1 || shape.stride[1] != 1;
  const bool is_dilated = shape.dilation[0] != 1 || shape.dilation[1] != 1;
  const int64_t num_positions = shape.kernel_size[0] * shape.kernel_size[1];
  if (num_positions < 9 || shape.C * shape.H * shape.W <= LARGEST_SMALL_IMAGE || is_dilated ||
      (product == CONV_GRAD_INPUT && (is_strided || shape.C < LEAST_GRAD_CHANNELS))) {
    return false;
  }
  const double least = num_positions >= 25 ? LEAST_DENSITY_5X5 : LEAST_DENSITY_3X3;
  return double(num_read) >= least * double(shape.O * shape.C * num_positions);
}

void set_conv2d_route(ConvRoute route) { chosen.store(route, std::memory_order_relaxed); }
ConvRoute conv2d_route() { return chosen.load(std::memory_order_relaxed); }

}  // namespace rsn2
