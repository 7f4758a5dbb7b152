// What the convolution's operators share on the host side: checks of arguments, and how the kernels see tensors.
#pragma once

#include "../task_conv2d_run.h"
#include "tensors.h"

namespace rsn2 {

ConvDtype conv_dtype(const char* op, const char* name, const Tensor& tensor);

// Images have the dtype of the values, or 16 bits beside float32 values.
void check_dtypes(const char* op, const char* name, ConvDtype images, ConvDtype values);

// Checks that a tensor has shape [B, channels, H, W].
ConvImages images_of(const char* op, const char* name, const Tensor& tensor, int64_t channels);

// channels_last and not at the same time contiguous, as torch sees it.
bool is_channels_last(const Tensor& tensor);

// A new tensor of this shape in the memory format of `like`, and how the kernels see it.
Tensor empty_images(const Tensor& like, const std::vector<int64_t>& size);
ConvImages result_images(const Tensor& tensor);

ConvShape shape_of(const char* op, const Positions& positions, int64_t H, int64_t W,
                   const std::vector<int64_t>& kernel_size, const std::vector<int64_t>& stride,
                   const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation);

// A store, checked for the slots that occur; adds the weights they read.
ConvStore store_of(const char* op, const Tensor& values, const Tensor& index, const Positions& positions,
                   const ConvShape& shape, const std::vector<RowGroup>& groups, int64_t& num_weights);

// A call on the kernels of the level in use.
ConvCall call_of(const ConvShape& shape, ConvDtype images, ConvDtype values, const RowGroups& rows);

}  // namespace rsn2
