// Which route a slot's images take through a convolution: the sparse kernels, or the slot's dense weight and libtorch's
// convolution. Torch-free.
#pragma once

#include <cstdint>

#include "levels.h"
#include "task_conv2d_plan.h"

namespace rsn2 {

enum ConvProduct { CONV_FORWARD, CONV_GRAD_INPUT };

// The rule. By the slot's density, the kernel and the size of an image alone, so that an image's result depends neither
// on the other images of its batch nor on the number of threads. num_read: the weights that the slot reads, of
// O * C * P * Q.
bool takes_dense_route(ConvProduct product, const ConvShape& shape, int64_t num_read);

enum ConvRoute { CONV_BY_RULE, CONV_SPARSE, CONV_DENSE };

// For tests and measurements: another route than the rule's. CONV_DENSE goes wherever the dense route is able to.
RSN2_API void set_conv2d_route(ConvRoute route);
RSN2_API ConvRoute conv2d_route();

}  // namespace rsn2
