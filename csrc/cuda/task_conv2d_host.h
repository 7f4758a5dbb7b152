// What the convolution's operators share on the host side: checks of arguments, and how the kernels see tensors.
#pragma once

#include <vector>

#include "conv_kernels.h"
#include "tensors.h"

namespace rsn2 {

// The dtypes of images and values; ValueError for a pair without a kernel.
ConvNumbers conv_numbers(const char* op, const char* name, const Tensor& images, const Tensor& values);

// Checks that a tensor of the device has shape [B, channels, height, width].
ImageStrides conv_images(const char* op, const OnDevice& device, const char* name, const Tensor& tensor,
                         int64_t channels, int64_t height, int64_t width);
ImageStrides strides_of(const Tensor& images);

// A new tensor in the memory format of `like`: channels_last where that is channels_last and not contiguous too.
Tensor new_images(const Tensor& like, int64_t batch, int64_t channels, int64_t height, int64_t width);

ConvWindow conv_window(const char* op, int64_t channels, int64_t height, int64_t width, int64_t num_outputs,
                       const std::vector<int64_t>& kernel_size, const std::vector<int64_t>& stride,
                       const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation);

// A second store beside `values`, [] or [values, positions, index].
struct FrozenStore {
  const void* values = nullptr;
  GatherIndex index{nullptr, 0, 0, 0};
};
FrozenStore frozen_store(const char* op, const OnDevice& device, const std::vector<Tensor>& frozen,
                         const Tensor& values, const GatherIndex& own);

// How many images a tile of the plan has, so that pieces of `pixels_of_piece` pixels are nearly full.
struct ImageTiles {
  int images, parts;
};
ImageTiles image_tiles(int pixels_of_image, int pixels_of_piece);

// Blocks of a persistent grid for up to `most_items` pieces of work.
int64_t persistent_blocks(int64_t most_items, int blocks_of_multiprocessor);

}  // namespace rsn2
