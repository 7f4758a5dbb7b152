#include "conv_kernels.h"

namespace rsn2 {

ConvCut conv_grad_input_cut(ConvNumbers numbers, int channels_of_block) {
  return for_conv_numbers<TaskConv2dGradInput>(numbers, [&](auto kernel) -> ConvCut {
    using Kernel = decltype(kernel);
    return {Kernel::kPixels, Kernel::kWarps, Kernel::kMinBlocks, Kernel::shared_bytes(channels_of_block)};
  });
}

void launch_conv_grad_input(ConvNumbers numbers, const Launch& where, const ConvGradInputArguments& arguments) {
  for_conv_numbers<TaskConv2dGradInput>(numbers, [&](auto kernel) { launch<decltype(kernel)>(where, arguments); });
}

}  // namespace rsn2
