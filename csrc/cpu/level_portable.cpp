// The kernels compiled for the plainest machine. All of it has internal linkage except the table at the end: an inline
// function shared with another file could be merged by the linker and then run on a machine that lacks these
// instructions.
#include <cstdint>

#include "levels.h"

#define RSN2_VECTOR_BYTES 16

namespace rsn2 {
namespace portable {
namespace {

#include "simd.inl"
#include "task_conv2d.inl"
#include "task_linear.inl"

}  // namespace
}  // namespace portable

extern const CpuKernels kernels_portable;
constexpr CpuKernels kernels_portable = {
    portable::task_linear_kernels,
    portable::task_conv2d_kernels,
};

}  // namespace rsn2
