#include "conv_kernels.h"

namespace rsn2 {

ConvCut conv_forward_cut(ConvNumbers numbers) {
  return for_conv_numbers<TaskConv2dForward>(numbers, [](auto kernel) -> ConvCut {
    using Kernel = decltype(kernel);
    return {Kernel::kPixels, Kernel::kRows, Kernel::kMinBlocks, Kernel::kSharedBytes};
  });
}

void launch_conv_forward(ConvNumbers numbers, const Launch& where, const ConvForwardArguments& arguments) {
  for_conv_numbers<TaskConv2dForward>(numbers, [&](auto kernel) { launch<decltype(kernel)>(where, arguments); });
}

}  // namespace rsn2
