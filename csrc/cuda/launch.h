// How host code starts kernels. A .cu file is compiled by nvcc for the GPU and, as C++, for the emulator.
#pragma once

#include <stdint.h>

#include "../device/platform.h"

namespace rsn2 {

struct Launch {
  int64_t num_blocks;    // at least 1
  int64_t shared_bytes;  // dynamic
  void* stream;          // cudaStream_t
};

}  // namespace rsn2

#ifdef __CUDACC__
#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace rsn2 {

inline void check_cuda(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  throw std::runtime_error(std::string("rsn2_kernels: ") + what + ": " + cudaGetErrorString(error));
}

template <class Kernel>
__global__ void __launch_bounds__(Kernel::kThreads, Kernel::kMinBlocks)
    kernel_entry(const __grid_constant__ typename Kernel::Arguments arguments) {
  Kernel::run(arguments);
}

// What a block may have.
inline int64_t most_shared_bytes() {
  int device = 0, bytes = 0;
  check_cuda(cudaGetDevice(&device), "device");
  check_cuda(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "device");
  return bytes;
}

template <class Kernel>
void launch(const Launch& launch, const typename Kernel::Arguments& arguments) {
  if (launch.shared_bytes > 48 * 1024) {
    check_cuda(cudaFuncSetAttribute(kernel_entry<Kernel>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    int(launch.shared_bytes)),
               "shared memory");
  }
  kernel_entry<Kernel><<<unsigned(launch.num_blocks), Kernel::kThreads, size_t(launch.shared_bytes),
                         static_cast<cudaStream_t>(launch.stream)>>>(arguments);
  check_cuda(cudaGetLastError(), "launch");
}

inline int num_multiprocessors() {
  int device = 0, count = 0;
  check_cuda(cudaGetDevice(&device), "device");
  check_cuda(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), "device");
  return count;
}

}  // namespace rsn2
#elif defined(RSN2_EMULATED)
namespace rsn2 {

template <class Kernel>
void launch(const Launch& launch, const typename Kernel::Arguments& arguments) {
  emulator::run(launch.num_blocks, Kernel::kThreads, launch.shared_bytes, [&] { Kernel::run(arguments); });
}

inline int64_t most_shared_bytes() { return emulator::most_shared_bytes(); }
inline int num_multiprocessors() { return 3; }  // few, so that blocks of the tests have several pieces of work

}  // namespace rsn2
#endif
