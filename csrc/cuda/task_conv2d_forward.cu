#include <type_traits>

#include "conv_kernels.h"

namespace rsn2 {
namespace {

template <class E, class V>
using Forward = std::conditional_t<sizeof(E) == 2, TaskConv2dForward16<E, V, 128>, TaskConv2dForward<E, V>>;
// For GPUs with less shared memory.
template <class E, class V>
using SmallForward = std::conditional_t<sizeof(E) == 2, TaskConv2dForward16<E, V, 64>, TaskConv2dForward<E, V>>;

// function(the kernel of these numbers that the device has room for)
template <class Function>
auto for_forward(ConvNumbers numbers, const Function& function) {
  const bool is_large = for_conv_numbers<Forward>(
      numbers, [](auto kernel) { return decltype(kernel)::kSharedBytes <= most_shared_bytes(); });
  return is_large ? for_conv_numbers<Forward>(numbers, function) : for_conv_numbers<SmallForward>(numbers, function);
}

}  // namespace

ConvCut conv_forward_cut(ConvNumbers numbers) {
  return for_forward(numbers, [](auto kernel) -> ConvCut {
    using Kernel = decltype(kernel);
    return {Kernel::kPixels, Kernel::kRows, Kernel::kMinBlocks, Kernel::kSharedBytes};
  });
}

void launch_conv_forward(ConvNumbers numbers, const Launch& where, const ConvForwardArguments& arguments) {
  for_forward(numbers, [&](auto kernel) { launch<decltype(kernel)>(where, arguments); });
}

}  // namespace rsn2
