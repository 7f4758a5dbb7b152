// The convolution's kernels as host code calls them, by the dtypes of images and values.
#pragma once

#include "../device/task_conv2d_forward_16.h"
#include "../device/task_conv2d_grad_input_16.h"
#include "../device/task_conv2d_grad_values_16.h"
#include "launch.h"

namespace rsn2 {

// Images, then values where they differ.
enum class ConvNumbers { FLOAT32, FLOAT64, BFLOAT16, FLOAT16, BFLOAT16_FLOAT32, FLOAT16_FLOAT32 };

// How a kernel wants its work cut: set before its arguments are.
struct ConvCut {
  int pixels;  // of a piece of work
  int rows;    // of the weights; gradient of the input: pieces that a block has at once
  int blocks;  // that a multiprocessor holds
  int64_t shared_bytes;
};

ConvCut conv_forward_cut(ConvNumbers numbers);
void launch_conv_forward(ConvNumbers numbers, const Launch& where, const ConvForwardArguments& arguments);

// Pieces have up to 64 channels of the input.
constexpr int kGradInputChannels = 64;
ConvCut conv_grad_input_cut(ConvNumbers numbers, int channels_of_block);
void launch_conv_grad_input(ConvNumbers numbers, const Launch& where, const ConvGradInputArguments& arguments);

ConvCut conv_grad_values_cut(ConvNumbers numbers);
void launch_conv_grad_values(ConvNumbers numbers, const Launch& where, const ConvGradValuesArguments& arguments);
void launch_conv_grad_finish(ConvNumbers numbers, const Launch& where, const ConvGradFinishArguments& arguments);

// function(Kernel<E, V>()) for the kernel of these numbers.
template <template <class, class> class Kernel, class Function>
auto for_conv_numbers(ConvNumbers numbers, const Function& function) {
  switch (numbers) {
    case ConvNumbers::FLOAT32: return function(Kernel<float, float>());
    case ConvNumbers::FLOAT64: return function(Kernel<double, double>());
    case ConvNumbers::BFLOAT16: return function(Kernel<BFloat16, BFloat16>());
    case ConvNumbers::FLOAT16: return function(Kernel<Float16, Float16>());
    case ConvNumbers::BFLOAT16_FLOAT32: return function(Kernel<BFloat16, float>());
    default: return function(Kernel<Float16, float>());
  }
}

}  // namespace rsn2
