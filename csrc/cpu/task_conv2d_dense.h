// The dense route of a convolution: where a slot owns so much of the kernels that libtorch's dense convolution is
// faster than the sparse kernels, its weights are unpacked into scratch of one layer for the time of the call.
//
// Each function computes the groups that take this route, alone or not, and takes them out of call.groups; the others
// are left to the sparse kernels.
#pragma once

#include <optional>

#include "task_conv2d_checks.h"

namespace rsn2 {

// Returns y [B, O, H', W'], new; the dense groups' images are written.
Tensor conv_dense_forward(ConvCall& call, const Tensor& x, const std::vector<ConvStore>& stores,
                          const std::optional<Tensor>& bias, bool relu);
// Returns grad_x [B, C, H, W], new; the dense groups' images are written.
Tensor conv_dense_grad_input(ConvCall& call, const Tensor& grad_y, const std::vector<ConvStore>& stores);
// Writes the dense groups' gradients and takes their results out of the list, too.
void conv_dense_grad_values(ConvCall& call, const Tensor& x, const Tensor& grad_y, const ConvStore& store,
                            std::vector<void*>& results);

}  // namespace rsn2
