// The kernels compiled for AVX-512. All of it has internal linkage except the table at the end: an inline function
// shared with another file could be merged by the linker and then run on a machine that lacks these instructions.
#include <immintrin.h>

#include <cstdint>

#include "levels.h"

#define RSN2_VECTOR_BYTES 64

namespace rsn2 {
namespace avx512 {
namespace {

#include "simd.inl"
#include "task_conv2d.inl"
#include "task_linear.inl"

}  // namespace
}  // namespace avx512

extern const CpuKernels kernels_avx512;
constexpr CpuKernels kernels_avx512 = {
    avx512::task_linear_kernels,
    avx512::task_conv2d_kernels,
};

}  // namespace rsn2
