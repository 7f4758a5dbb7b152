#include <type_traits>

#include "conv_kernels.h"

namespace rsn2 {
namespace {

template <class E, class V>
using GradValues = std::conditional_t<sizeof(E) == 2, TaskConv2dGradValues16<E, V>, TaskConv2dGradValues<E, V>>;

template <class E, class V>
using Finish = ConvGradFinish<typename SumOf<E>::type, V>;

}  // namespace

ConvCut conv_grad_values_cut(ConvNumbers numbers) {
  return for_conv_numbers<GradValues>(numbers, [](auto kernel) -> ConvCut {
    using Kernel = decltype(kernel);
    return {Kernel::kPixels, Kernel::kRows, Kernel::kMinBlocks, Kernel::kSharedBytes};
  });
}

void launch_conv_grad_values(ConvNumbers numbers, const Launch& where, const ConvGradValuesArguments& arguments) {
  for_conv_numbers<GradValues>(numbers, [&](auto kernel) { launch<decltype(kernel)>(where, arguments); });
}

void launch_conv_grad_finish(ConvNumbers numbers, const Launch& where, const ConvGradFinishArguments& arguments) {
  for_conv_numbers<Finish>(numbers, [&](auto kernel) { launch<decltype(kernel)>(where, arguments); });
}

}  // namespace rsn2
