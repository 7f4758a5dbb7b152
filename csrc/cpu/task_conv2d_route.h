// Which route a slot's images take through a convolution: the sparse kernels, or the dense weight and libtorch's
// convolution. Torch-free.
#pragma once

#include <cstdint>

#include "levels.h"
#include "task_conv2d_plan.h"

namespace rsn2 {

enum ConvProduct { CONV_FORWARD, CONV_GRAD_INPUT, CONV_GRAD_VALUES };

// The rule: by the slot's density and the kernel alone, so that a row's result does not depend on which other slots are
// in its batch. num_owned: the weights that the slot reads, of O * C * P * Q.
bool takes_dense_route(ConvProduct product, const ConvShape& shape, int64_t num_owned);

// For tests and measurements: 0 by the rule (the default), 1 always sparse, 2 always dense where it is possible.
RSN2_API void force_conv2d_route(int route);
RSN2_API int forced_conv2d_route();

}  // namespace rsn2
