#include <type_traits>

#include "conv_kernels.h"

namespace rsn2 {
namespace {

template <class E, class V>
using Forward = std::conditional_t<sizeof(E) == 2, TaskConv2dForward16<E, V>, TaskConv2dForward<E, V>>;

}  // namespace

ConvCut conv_forward_cut(ConvNumbers numbers) {
  return for_conv_numbers<Forward>(numbers, [](auto kernel) -> ConvCut {
    using Kernel = decltype(kernel);
    return {Kernel::kPixels, Kernel::kRows, Kernel::kMinBlocks, Kernel::kSharedBytes};
  });
}

void launch_conv_forward(ConvNumbers numbers, const Launch& where, const ConvForwardArguments& arguments) {
  for_conv_numbers<Forward>(numbers, [&](auto kernel) { launch<decltype(kernel)>(where, arguments); });
}

}  // namespace rsn2
