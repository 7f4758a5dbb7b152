// The gradients of task_linear on a GPU: tensors checked, results allocated, kernels started.
#include <algorithm>
#include <optional>
#include <type_traits>
#include <vector>

#include "grad_kernels.h"
#include "task_linear_dense.h"

namespace rsn2 {
namespace {

constexpr int kPlanRows = 64;        // of a tile, where only whole slots are asked for
constexpr int64_t kLeastRows = 256;  // of the batch in a part of a sum
constexpr int64_t kLeastPanels = 8;  // of the weight in a part of a sum
constexpr int64_t kFewSlots = 8;     // of a mixed batch, when parts of sums are reckoned

// run(number of x, number of values) for the dtypes of x and values.
template <class Run>
void with_dtypes(const char* op, const char* name, ScalarType x, ScalarType values, const Run& run) {
  const bool is_mixed = values == ScalarType::Float;
  if (x == ScalarType::Float && values == x) {
    run(float{}, float{});
  } else if (x == ScalarType::Double && values == x) {
    run(double{}, double{});
  } else if (x == ScalarType::BFloat16 && values == x) {
    run(BFloat16{}, BFloat16{});
  } else if (x == ScalarType::BFloat16 && is_mixed) {
    run(BFloat16{}, float{});
  } else if (x == ScalarType::Half && values == x) {
    run(Float16{}, Float16{});
  } else if (x == ScalarType::Half && is_mixed) {
    run(Float16{}, float{});
  } else {
    throw_value_error(op, ": ", name, " and values must both be float32, float64, bfloat16 or float16, or ", name,
                      " 16-bit beside float32 values, got ", torch::headeronly::toString(x), " and ",
                      torch::headeronly::toString(values));
  }
}

template <typename E, typename V>
struct ValuesKernel {
  using type = GradValuesTiles<E, V>;
};
template <typename E>
struct ValuesKernel<E, E> {
  using type = std::conditional_t<sizeof(E) == 2, GradValuesTiles<E, E>, GradValuesExact<E>>;
};
template <typename E, typename V>
struct InputKernel {
  using type = GradInputTiles<E, V>;
};
template <typename E>
struct InputKernel<E, E> {
  using type = std::conditional_t<sizeof(E) == 2, GradInputTiles<E, E>, GradInputExact<E>>;
};

// The tensor itself, or a copy, such that a row's numbers lie side by side.
Tensor with_dense_rows(const char* op, const OnDevice& device, const char* name, const Tensor& tensor) {
  device.check(name, tensor);
  check_value(tensor.dim() == 2, op, ": ", name, " must be a matrix, got ", tensor.dim(), " dimensions");
  return tensor.size(1) > 1 && tensor.stride(1) != 1 ? torch::stable::contiguous(tensor) : tensor;
}

template <typename E>
RowMatrix<E> row_matrix(const Tensor& tensor) {
  const auto* data = static_cast<const E*>(tensor.const_data_ptr());
  const bool is_aligned =
      reinterpret_cast<uintptr_t>(data) % 16 == 0 && tensor.stride(0) * int64_t(sizeof(E)) % 16 == 0;
  return {data, tensor.stride(0), tensor.size(1), is_aligned};
}

// Into how many parts sums are cut so that this much work fills the device.
template <class Kernel>
int num_parts_for(int64_t num_items, int64_t most_parts) {
  const int64_t room = int64_t(multiprocessors_of_device()) * Kernel::kMinBlocks;
  return int(std::clamp<int64_t>(room / num_items, 1, std::max<int64_t>(most_parts, 1)));
}
template <class Kernel>
Launch launch_for(const OnDevice& device, int64_t most_items) {
  const int64_t room = int64_t(multiprocessors_of_device()) * Kernel::kMinBlocks;
  return device.launch(std::min(most_items, room), Kernel::kSharedBytes);
}

// Room for the parts of sums [num_rows, num_columns], and their sum in the end.
template <typename E, typename A>
class Parts {
 public:
  Parts(const OnDevice& device, const Tensor& result, int64_t num_rows, int64_t num_columns, int num_parts)
      : device_(device),
        sum_{nullptr, num_parts, num_rows, num_columns, nullptr, static_cast<E*>(result.mutable_data_ptr())} {
    if (num_parts == 1) return;
    workspace_ = new_tensor(result, {num_parts * num_rows * num_columns},
                            sizeof(A) == sizeof(double) ? ScalarType::Double : ScalarType::Float);
    sum_.parts = data();
  }
  A* data() const { return workspace_ ? static_cast<A*>(workspace_->mutable_data_ptr()) : nullptr; }
  void sum_up(const int32_t* order) {
    if (!workspace_) return;
    sum_.order = order;
    const int64_t pieces = ceil_div<int64_t>(sum_.num_rows * sum_.num_columns, SumOfParts<E, A>::kThreads);
    const int64_t room = int64_t(multiprocessors_of_device()) * 2 * SumOfParts<E, A>::kMinBlocks;
    launch_sum_of_parts(device_.launch(std::min(pieces, room)), sum_);
  }

 private:
  const OnDevice& device_;
  typename SumOfParts<E, A>::Arguments sum_;
  std::optional<Tensor> workspace_;
};

Tensor task_linear_grad_input(const Tensor& grad_y,        // [B, O], any strides
                              const Tensor& values,        // [sum of N], all slots
                              const Tensor& positions,     // [words] int64
                              const Tensor& index,         // [words] int32, the gather index
                              const Tensor& slots,         // [] or [B] int64
                              std::vector<Tensor> frozen,  // [] or [values, positions, index]
                              int64_t in_features          // I
) {
  constexpr const char* OP = "task_linear_grad_input";
  const OnDevice device(OP, "grad_y", grad_y);
  const Tensor from = with_dense_rows(OP, device, "grad_y", grad_y);
  check_flat(OP, device, "values", values, values.scalar_type());
  GatherIndex own = gather_index_of(OP, device, index, positions, grad_y.size(1), in_features);
  check_value(frozen.empty() || frozen.size() == 3, OP, ": frozen must be [] or [values, positions, index], got ",
              frozen.size(), " tensors");
  if (!frozen.empty()) check_flat(OP, device, "the frozen store's values", frozen[0], values.scalar_type());
  const GatherIndex second = frozen.empty()
                                 ? GatherIndex{nullptr, 0, 0, 0}
                                 : gather_index_of(OP, device, frozen[2], frozen[1], grad_y.size(1), in_features);
  own.beside_words = second.words;
  const int64_t B = grad_y.size(0);
  if (triton_serves(grad_y, index, frozen, in_features)) {
    return served_by_triton(OP, grad_y, values, positions, index, slots, frozen, in_features);
  }
  Tensor grad_x = new_tensor(grad_y, {B, in_features}, grad_y.scalar_type());
  with_dtypes(OP, "grad_y", grad_y.scalar_type(), values.scalar_type(), [&](auto number, auto value) {
    using E = decltype(number);
    using V = decltype(value);
    using Kernel = typename InputKernel<E, V>::type;
    if (grad_x.numel() == 0) return;
    const PlannedRows rows = plan_rows(OP, device, slots, B, own, Kernel::kTileRows);
    const auto* frozen_values = frozen.empty() ? nullptr : static_cast<const V*>(frozen[0].const_data_ptr());
    const PackedStore<V> weight = {static_cast<const V*>(values.const_data_ptr()), own};
    if constexpr (!std::is_same_v<E, double>) {
      if (is_dense_product(grad_y.scalar_type(), slots, B, grad_y.size(1), in_features)) {
        const DenseSlot dense = unpack_slot<E, V>(device, grad_y, weight, {frozen_values, second}, slots, nullptr,
                                                  grad_y.size(1), in_features);
        return multiply_dense(from, dense.weight, grad_x);
      }
    }
    const int64_t spans = ceil_div<int64_t>(in_features, kSpanColumns);
    const int64_t panels = ceil_div<int64_t>(grad_y.size(1), kPanelRows);
    // How many slots there are, and which occur, is known on the device alone.
    const int64_t tiles = std::min(rows.most_tiles, ceil_div<int64_t>(B, Kernel::kTileRows) + kFewSlots);
    const int num_parts = num_parts_for<Kernel>(tiles * spans, panels / kLeastPanels);
    Parts<E, typename SumOf<E>::type> parts(device, grad_x, B, in_features, num_parts);
    launch_grad_input(launch_for<Kernel>(device, rows.most_tiles * spans * num_parts),
                      {row_matrix<E>(from),
                       weight,
                       {frozen_values, second},
                       rows.groups,
                       static_cast<E*>(grad_x.mutable_data_ptr()),
                       num_parts,
                       parts.data()});
    parts.sum_up(rows.groups.order);
  });
  return grad_x;
}

// The wanted slots from `first` on, as many as a launch takes.
WantedSlots wanted_slots(const char* op, const std::vector<int64_t>& wanted, const std::vector<int64_t>& num_owned,
                         size_t first, int64_t& start) {
  WantedSlots some;
  some.count = int(std::min<size_t>(WantedSlots::kMost, wanted.size() - first));
  for (int w = 0; w < some.count; ++w) {
    const int64_t slot = wanted[first + w], count = num_owned[first + w];
    check_value(slot >= 0 && slot < kMostSlots, op, ": wanted slots must be in 0..", kMostSlots - 1, ", got ", slot);
    check_value(count >= 0, op, ": num_owned must not be negative, got ", count);
    some.slots[w] = int32_t(slot);
    some.starts[w] = start;
    start += count;
  }
  some.starts[some.count] = start;
  return some;
}

Tensor task_linear_grad_values(const Tensor& x,                // [B, I], any strides
                               const Tensor& grad_y,           // [B, O], any strides
                               const Tensor& values,           // [sum of N], all slots; only its dtype matters
                               const Tensor& positions,        // [words] int64
                               const Tensor& index,            // [words] int32, the gather index
                               const Tensor& slots,            // [] or [B] int64
                               std::vector<int64_t> wanted,    // slots whose values want a gradient
                               std::vector<int64_t> num_owned  // how many weights each of them owns
) {
  constexpr const char* OP = "task_linear_grad_values";
  const OnDevice device(OP, "x", x);
  const Tensor left = with_dense_rows(OP, device, "grad_y", grad_y), right = with_dense_rows(OP, device, "x", x);
  const int64_t B = x.size(0), I = x.size(1), O = grad_y.size(1);
  check_value(grad_y.size(0) == B && grad_y.scalar_type() == x.scalar_type(), OP,
              ": x and grad_y must have the same rows and dtype");
  if (triton_serves(x, index, {}, I)) {
    return served_by_triton(OP, x, grad_y, values, positions, index, slots, wanted, num_owned);
  }
  const GatherIndex own = gather_index_of(OP, device, index, positions, O, I);
  check_value(wanted.size() == num_owned.size(), OP, ": wanted and num_owned must be equally long, got ", wanted.size(),
              " and ", num_owned.size());
  std::vector<WantedSlots> launches;
  int64_t num_wanted = 0;
  for (size_t first = 0; first < wanted.size(); first += WantedSlots::kMost) {
    launches.push_back(wanted_slots(OP, wanted, num_owned, first, num_wanted));
  }
  check_value(O * I > 0 || num_wanted == 0, OP, ": a weight without elements has no values");
  device.check("values", values);  // results lie where it does
  const Tensor grads = new_tensor(values, {num_wanted}, values.scalar_type());
  with_dtypes(OP, "x", x.scalar_type(), values.scalar_type(), [&](auto number, auto value) {
    using E = decltype(number);
    using V = decltype(value);
    using Kernel = typename ValuesKernel<E, V>::type;
    if (num_wanted == 0) return;
    const PlannedRows rows = plan_rows(OP, device, slots, B, own, kPlanRows);
    if constexpr (!std::is_same_v<E, double>) {
      if (is_dense_product(x.scalar_type(), slots, B, O, I)) {
        Tensor dense = new_tensor(values, {O, I}, values.scalar_type());
        multiply_dense(torch::stable::transpose(left, 0, 1), right, dense);
        const V* numbers = static_cast<const V*>(dense.const_data_ptr());
        const int64_t* slot = slots.const_data_ptr<int64_t>();
        for (const WantedSlots& some : launches) {
          launch_compress_grads(launch_for<CompressGrads<V>>(device, CompressGrads<V>::num_items(some.count, O, I)),
                                {numbers, I, own, slot, some, static_cast<V*>(grads.mutable_data_ptr())});
        }
        return;
      }
    }
    const int num_parts = num_parts_for<Kernel>(Kernel::num_items(int64_t(wanted.size()), O, I), B / kLeastRows);
    Parts<V, typename SumOf<V>::type> parts(device, grads, 1, num_wanted, num_parts);
    for (const WantedSlots& some : launches) {
      launch_grad_values(launch_for<Kernel>(device, Kernel::num_items(some.count, O, I) * num_parts),
                         {row_matrix<E>(right), row_matrix<E>(left), own, rows.groups, some,
                          static_cast<V*>(grads.mutable_data_ptr()), num_parts, parts.data(), num_wanted});
    }
    parts.sum_up(nullptr);
  });
  return grads;
}

}  // namespace
}  // namespace rsn2

RSN2_CUDA_OPS(m) {
  m.impl("task_linear_grad_input", TORCH_BOX(&rsn2::task_linear_grad_input));
  m.impl("task_linear_grad_values", TORCH_BOX(&rsn2::task_linear_grad_values));
}
