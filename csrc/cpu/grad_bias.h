// The gradient of the bias rows: a sum over the rows of each wanted slot. Torch-free.
#pragma once

#include "host.h"
#include "task_conv2d.h"

namespace rsn2 {

// sums [wanted, num_channels]: float32, or double when grad_y is. A matrix has images of one pixel.
void grad_bias(const ConvImages& grad_y, ConvDtype dtype, int64_t num_channels, const RowGroups& rows,
               const std::vector<int64_t>& wanted, void* sums);

}  // namespace rsn2
