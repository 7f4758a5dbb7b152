// What the GPU kernels are written in. Compiled by nvcc it is CUDA; compiled by a C++ compiler the same kernels run on
// the emulator, thread by thread, so that tests hold their whole bodies against the reference without a GPU.
//
// A kernel is a struct with
//   struct Arguments;                              plain data, by value
//   static constexpr int kThreads, kMinBlocks;     threads of a block; blocks that must fit into a multiprocessor
//   static RSN2_DEVICE void run(const Arguments&);
// Warp functions are for whole warps: all 32 lanes call them together.
#pragma once

#include <stdint.h>

#ifdef __CUDACC__
#include "platform_cuda.h"
#else
#include "../emulator/platform_emulated.h"
#endif

namespace rsn2 {

constexpr int kWarp = 32;
constexpr uint32_t kAllLanes = 0xffffffffu;

RSN2_DEVICE int lane_index() { return thread_index() % kWarp; }
RSN2_DEVICE int warp_index() { return thread_index() / kWarp; }
RSN2_DEVICE int num_warps() { return num_threads() / kWarp; }
RSN2_DEVICE uint32_t lanes_before() { return (1u << lane_index()) - 1; }

template <typename T>
RSN2_HOST_DEVICE T ceil_div(T a, T b) {
  return (a + (b - 1)) / b;  // a may be as large as 2^31 - b
}
template <typename T>
RSN2_HOST_DEVICE T least(T a, T b) {
  return a < b ? a : b;
}
template <typename T>
RSN2_HOST_DEVICE T most(T a, T b) {
  return a < b ? b : a;
}

// The sum over all lanes, the same in each, in a fixed order.
template <typename A>
RSN2_DEVICE A sum_of_warp(A value) {
  RSN2_UNROLL
  for (int distance = kWarp / 2; distance > 0; distance /= 2) value += shuffle_xor(value, distance);
  return value;
}

// The type in which products of E are summed.
template <typename E>
struct SumOf {
  using type = float;
};
template <>
struct SumOf<double> {
  using type = double;
};

template <typename A>
struct NotANumber;
template <>
struct NotANumber<float> {
  static RSN2_DEVICE float value() { return float_of_bits(0x7fc00000u); }
};
template <>
struct NotANumber<double> {
  static RSN2_DEVICE double value() { return NotANumber<float>::value(); }
};

// max(y, 0) that keeps NaN, as torch's.
template <typename A>
RSN2_DEVICE A positive_part(A y) {
  return y < 0 ? A(0) : y;
}

}  // namespace rsn2
