#include <type_traits>

#include "conv_kernels.h"

namespace rsn2 {
namespace {

template <class E, class V>
using GradInput = std::conditional_t<sizeof(E) == 2, TaskConv2dGradInput16<E, V>, TaskConv2dGradInput<E, V>>;

}  // namespace

ConvCut conv_grad_input_cut(ConvNumbers numbers, int channels_of_block) {
  return for_conv_numbers<GradInput>(numbers, [&](auto kernel) -> ConvCut {
    using Kernel = decltype(kernel);
    static_assert(Kernel::kChannels == kGradInputChannels, "the host cuts the channels");
    return {Kernel::kPixels, Kernel::kPieces, Kernel::kMinBlocks, Kernel::shared_bytes(channels_of_block)};
  });
}

void launch_conv_grad_input(ConvNumbers numbers, const Launch& where, const ConvGradInputArguments& arguments) {
  for_conv_numbers<GradInput>(numbers, [&](auto kernel) { launch<decltype(kernel)>(where, arguments); });
}

}  // namespace rsn2
