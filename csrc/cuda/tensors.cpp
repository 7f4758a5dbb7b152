#include "tensors.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <vector>

#ifndef RSN2_EMULATED
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#endif

namespace rsn2 {
namespace {

bool debug_is_set() {
  static const bool is_set = [] {
    const char* debug = std::getenv("RSN2_DEBUG");
    return debug != nullptr && std::strcmp(debug, "1") == 0;
  }();
  return is_set;
}

}  // namespace

OnDevice::OnDevice(const char* op, const char* name, const Tensor& tensor)
    : op_(op), device_(tensor.get_device_index()) {
#ifdef RSN2_EMULATED
  check_value(tensor.is_cpu(), op, ": ", name, " must be on the CPU");
#else
  check_value(tensor.is_cuda(), op, ": ", name, " must be on a GPU");
  guard_.emplace(device_);
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device_, &stream_));
#endif
}

void OnDevice::check(const char* name, const Tensor& tensor) const {
#ifdef RSN2_EMULATED
  const bool is_here = tensor.is_cpu();
#else
  const bool is_here = tensor.is_cuda() && tensor.get_device_index() == device_;
#endif
  check_value(is_here, op_, ": ", name, " must be on the same device as the first argument, number ", device_);
}

Tensor new_tensor(const Tensor& like, torch::headeronly::IntHeaderOnlyArrayRef size, ScalarType dtype) {
  Tensor result = torch::stable::new_empty(like, size, dtype);
#ifdef RSN2_EMULATED
  const size_t num_bytes = static_cast<size_t>(result.numel() * result.element_size());
  if (num_bytes > 0) std::memset(result.mutable_data_ptr(), 0xff, num_bytes);
#endif
  return result;
}

void check_flat(const char* op, const OnDevice& device, const char* name, const Tensor& tensor, ScalarType dtype) {
  device.check(name, tensor);
  check_value(tensor.dim() == 1 && tensor.is_contiguous() && tensor.scalar_type() == dtype, op, ": ", name,
              " must be a contiguous 1-D ", torch::headeronly::toString(dtype), " tensor");
}

GatherIndex gather_index_of(const char* op, const OnDevice& device, const Tensor& index, const Tensor& positions,
                            int64_t num_rows, int64_t num_columns) {
  check_flat(op, device, "index", index, ScalarType::Int);
  check_value(index.numel() >= 8, op, ": index must come from the gather index of this device, got ", index.numel(),
              " words");
  constexpr int64_t MOST = INT32_MAX - kSpanColumns;  // kernels go on to the end of a tile
  check_value(num_rows <= MOST && num_columns <= MOST, op, ": at most ", MOST, " rows and columns of weights, got [",
              num_rows, ", ", num_columns, "]");
  // Positions begin with a header of 6 words and two for each slot.
  const int64_t most_slots = std::clamp<int64_t>((positions.numel() - 6) / 2, 0, kMostSlots);
  return {index.const_data_ptr<int32_t>(), int32_t(num_rows), int32_t(num_columns), int32_t(most_slots)};
}

PlannedRows plan_rows(const char* op, const OnDevice& device, const Tensor& slots, int64_t num_rows, GatherIndex index,
                      int tile_rows) {
  device.check("slots", slots);
  check_value(slots.scalar_type() == ScalarType::Long, op, ": slots must be int64");
  check_value(slots.dim() == 0 || (slots.dim() == 1 && slots.size(0) == num_rows), op,
              ": slots must have shape [] or [", num_rows, "]");
  check_value(num_rows <= INT32_MAX, op, ": at most ", INT32_MAX, " rows, got ", num_rows);
  const int64_t* ids = slots.const_data_ptr<int64_t>();
  const int64_t full = ceil_div<int64_t>(num_rows, tile_rows);
  if (slots.dim() == 0) {
    if (debug_is_set()) launch_slot_check(device.launch(1), {ids, index});
    return {{ids, nullptr, nullptr, nullptr, num_rows, tile_rows}, full, slots, slots};
  }

  const int64_t most_slots = index.most_slots;
  const Tensor workspace = new_tensor(slots, {2 * (most_slots + 2) + num_rows}, ScalarType::Int);
  int32_t* offsets = workspace.mutable_data_ptr<int32_t>();
  int32_t *tiles = offsets + most_slots + 2, *order = tiles + most_slots + 2;
  launch_plan(device.launch(1, Plan::kSharedBytes),
              {ids, slots.stride(0), num_rows, index, tile_rows, debug_is_set(), offsets, tiles, order});
  return {
      {ids, offsets, tiles, order, num_rows, tile_rows}, std::min(num_rows, full + most_slots + 1), slots, workspace};
}

#ifdef RSN2_EMULATED
namespace {

// For tests: the plan of a batch, [2 (most_slots + 2) + B].
Tensor plan_of(const Tensor& slots, const Tensor& positions, const Tensor& index, int64_t tile_rows) {
  const OnDevice device("plan", "slots", slots);
  const int32_t* words = index.const_data_ptr<int32_t>();
  const GatherIndex own = gather_index_of("plan", device, index, positions, words[2], words[3]);
  return plan_rows("plan", device, slots, slots.numel(), own, int(tile_rows)).workspace;
}

void set_order(int64_t order) { emulator::set_order(uint64_t(order)); }
void set_most_shared_bytes(int64_t bytes) { emulator::set_most_shared_bytes(bytes); }

}  // namespace
#endif

}  // namespace rsn2

#ifdef RSN2_EMULATED
STABLE_TORCH_LIBRARY_IMPL(rsn2_emulated, CompositeExplicitAutograd, m) {
  m.impl("plan", TORCH_BOX(&rsn2::plan_of));
  m.impl("set_order", TORCH_BOX(&rsn2::set_order));
  m.impl("set_most_shared_bytes", TORCH_BOX(&rsn2::set_most_shared_bytes));
}
#endif
