// From tensors to what kernels take: checks, the device's stream, workspace, the plan of a batch.
//
// Compiled with RSN2_EMULATED the same host code serves tensors on the CPU and starts the emulator.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>

#include "../errors.h"
#include "kernels.h"

#ifdef RSN2_EMULATED
#define RSN2_CUDA_OPS(m) STABLE_TORCH_LIBRARY_IMPL(rsn2_emulated, CPU, m)
#else
#define RSN2_CUDA_OPS(m) STABLE_TORCH_LIBRARY_IMPL(rsn2_kernels, CUDA, m)
#endif

namespace rsn2 {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The device of an op's first tensor is the current one while this lives; its stream as PyTorch has it now.
class OnDevice {
 public:
  OnDevice(const char* op, const char* name, const Tensor& tensor);
  // Throws ValueError when the tensor is elsewhere.
  void check(const char* name, const Tensor& tensor) const;
  Launch launch(int64_t num_blocks, int64_t shared_bytes = 0) const { return {num_blocks, shared_bytes, stream_}; }

 private:
  const char* op_;
  int32_t device_;
  void* stream_ = nullptr;
#ifndef RSN2_EMULATED
  std::optional<torch::stable::accelerator::DeviceGuard> guard_;
#endif
};

// A tensor for results or scratch beside `like`. The emulator fills it with 0xFF, which is NaN: what a kernel leaves
// out shows.
Tensor new_tensor(const Tensor& like, torch::headeronly::IntHeaderOnlyArrayRef size, ScalarType dtype);

// A tensor that a kernel reads by pointer: one dimension, contiguous, of this dtype, on the device.
void check_flat(const char* op, const OnDevice& device, const char* name, const Tensor& tensor, ScalarType dtype);

// The index of a packed weight of this shape, which formats/gather_index.py makes.
GatherIndex gather_index_of(const char* op, const OnDevice& device, const Tensor& index, const Tensor& positions,
                            int64_t num_rows, int64_t num_columns);

// A batch's rows by slot. No more than `most_tiles` tiles, whatever the slots are; nothing waits for the device.
struct PlannedRows {
  Groups groups;
  int64_t most_tiles;
  Tensor slots, workspace;  // kept alive
};
PlannedRows plan_rows(const char* op, const OnDevice& device, const Tensor& slots,  // [] or [B] int64
                      int64_t num_rows,                                             // B
                      GatherIndex index, int tile_rows);

}  // namespace rsn2
