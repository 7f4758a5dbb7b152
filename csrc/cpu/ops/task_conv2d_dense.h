// The dense route of a convolution: where a slot owns so much of the kernels that libtorch's dense convolution is
// faster than the sparse kernels (task_conv2d_route.h), its weights are unpacked into scratch for the time of the call.
//
// Each function computes the groups that take this route and takes them out of call.groups; what is left there is for
// the sparse kernels.
#pragma once

#include <optional>

#include "task_conv2d_checks.h"

namespace rsn2 {

// Returns y [B, O, H', W'], new; the dense groups' images are written.
Tensor conv_dense_forward(ConvCall& call, const Tensor& x, const std::vector<ConvStore>& stores,
                          const std::optional<Tensor>& bias, bool relu);
// Returns grad_x [B, C, H, W], new; the dense groups' images are written.
Tensor conv_dense_grad_input(ConvCall& call, const Tensor& grad_y, const std::vector<ConvStore>& stores);

}  // namespace rsn2
