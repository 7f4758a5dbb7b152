// Many rows of one slot: its weights are unpacked into a dense matrix, which torch's own product (cuBLAS) multiplies.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>

#include "dense_kernels.h"
#include "dispatcher.h"

namespace rsn2 {

// Whether a product, forward or of a gradient, is computed so. From shapes and types alone:
//
// One slot, for a mixed batch would need as many dense matrices as slots occur in it: its rows are grouped by the
// kernels for tiles. 1024 rows, where unpacking (which depends on the weight alone) has become a small part. Types that
// cuBLAS multiplies on tensor cores, TF32 included where torch allows it; in float32 without it and in float64 the
// kernels that work in proportion to the owned weights do less.
bool is_dense_product(ScalarType x, const Tensor& slots, int64_t num_rows, int64_t num_outputs, int64_t num_inputs);

// A slot's weights [O, I] in the dtype of the batch, and its bias [O] where there is one; a new tensor each call.
struct DenseSlot {
  Tensor weight;
  std::optional<Tensor> bias;
};
template <typename E, typename V>
DenseSlot unpack_slot(const OnDevice& device, const Tensor& like, const PackedStore<V>& weight,
                      const PackedStore<V>& frozen, const Tensor& slots, const Tensor* bias, int64_t num_outputs,
                      int64_t num_inputs) {
  using Kernel = UnpackSlot<E, V>;
  DenseSlot dense{new_tensor(like, {num_outputs, num_inputs}, like.scalar_type()), std::nullopt};
  typename Kernel::Arguments a = {weight,      frozen,     slots.const_data_ptr<int64_t>(),
                                  num_outputs, num_inputs, static_cast<E*>(dense.weight.mutable_data_ptr()),
                                  nullptr,     0,          nullptr};
  if (bias) {
    dense.bias = new_tensor(like, {num_outputs}, like.scalar_type());
    a.bias = static_cast<const V*>(bias->const_data_ptr());
    a.bias_slots = int(std::min<int64_t>(bias->size(0), INT32_MAX));
    a.dense_bias = static_cast<E*>(dense.bias->mutable_data_ptr());
  }
  const int64_t room = int64_t(multiprocessors_of_device()) * Kernel::kMinBlocks;
  launch_unpack_slot(device.launch(least(room, Kernel::num_items(num_outputs, num_inputs)), Kernel::kSharedBytes), a);
  return dense;
}

// y = x W^T + bias, and its positive part.
void multiply_dense(const OnDevice& device, const Tensor& x, const DenseSlot& dense, bool relu, Tensor& y);

// result = left right. A float32 result of 16-bit factors is not rounded to them in between.
void multiply_dense(const Tensor& left, const Tensor& right, Tensor& result);

}  // namespace rsn2
