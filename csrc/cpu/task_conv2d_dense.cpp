// The dense route: unpack, call libtorch's convolution, put the images back.
#include "task_conv2d_dense.h"

#include <array>
#include <cstring>

#include "task_conv2d_route.h"

namespace rsn2 {
namespace {

using torch::headeronly::MemoryFormat;
using torch::stable::detail::from;
using torch::stable::detail::to;

int64_t num_owned_by(const ConvStore& store, int64_t slot) {
  return store.value_starts[slot + 1] - store.value_starts[slot];
}

// Takes the groups of the dense route out of the call; returns them with their places in the call's list. 16-bit images
// and float64, for which libtorch's convolution was not measured, stay sparse.
std::vector<std::pair<ConvGroup, size_t>> take_dense_groups(ConvCall& call, ConvProduct product, const char* counter,
                                                            const std::vector<ConvStore>& stores) {
  std::vector<std::pair<ConvGroup, size_t>> dense;
  if (call.image_dtype != CONV_FLOAT32 || call.value_dtype != CONV_FLOAT32) return dense;
  std::vector<ConvGroup> sparse;
  int64_t num_weights = 0;
  for (size_t g = 0; g < call.groups.size(); ++g) {
    int64_t num_owned = 0;
    for (const ConvStore& store : stores) num_owned += num_owned_by(store, call.groups[g].slot);
    if (takes_dense_route(product, call.shape, num_owned)) {
      dense.emplace_back(call.groups[g], g);
      num_weights += num_owned;
    } else {
      sparse.push_back(call.groups[g]);
    }
  }
  if (!dense.empty()) count_weights_read(counter, num_weights);
  call.groups = std::move(sparse);
  return dense;
}

// ---- libtorch's convolution -----------------------------------------------------------------------------------------

struct Window {
  std::vector<int64_t> stride, padding, dilation;
  std::vector<int64_t> output_padding{0, 0};
  explicit Window(const ConvShape& shape)
      : stride{shape.stride[0], shape.stride[1]},
        padding{shape.padding[0], shape.padding[2]},
        dilation{shape.dilation[0], shape.dilation[1]} {}
};

Tensor convolution(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, const Window& window) {
  std::array<StableIValue, 9> stack{from(x),
                                    from(weight),
                                    from(bias),
                                    from(window.stride),
                                    from(window.padding),
                                    from(window.dilation),
                                    from(false),
                                    from(window.output_padding),
                                    from(int64_t{1})};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::convolution", "", stack.data(), TORCH_ABI_VERSION));
  return to<Tensor>(stack[0]);
}

// The gradient of x (which = 0; of x only the shape is used) or of the weight (which = 1; the same of the weight).
Tensor convolution_backward(const Tensor& grad_y, const Tensor& x, const Tensor& weight, const Window& window,
                            size_t which) {
  const std::array<bool, 3> mask{which == 0, which == 1, false};
  std::array<StableIValue, 11> stack{from(grad_y),
                                     from(x),
                                     from(weight),
                                     from(std::nullopt),
                                     from(window.stride),
                                     from(window.padding),
                                     from(window.dilation),
                                     from(false),
                                     from(window.output_padding),
                                     from(int64_t{1}),
                                     from(torch::headeronly::HeaderOnlyArrayRef<bool>(mask.data(), mask.size()))};
  STABLE_TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::convolution_backward", "", stack.data(), TORCH_ABI_VERSION));
  Tensor grads[3] = {to<Tensor>(stack[0]), to<Tensor>(stack[1]), to<Tensor>(stack[2])};
  return grads[which];
}

void relu_in_place(const Tensor& y) {
  std::array<StableIValue, 1> stack{from(y)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::relu_", "", stack.data(), TORCH_ABI_VERSION));
  to<Tensor>(stack[0]);  // the stack's own reference to y
}

// ---- weights --------------------------------------------------------------------------------------------------------

Tensor empty_weight(const Tensor& like, const ConvShape& shape) {
  return empty_images(like, {shape.O, shape.C, shape.kernel_size[0], shape.kernel_size[1]});
}

// Calls visit(n, offset) for a slot's weights: the n-th of its values is at `offset` of the dense weight.
template <class Visit>
void for_each_weight(const ConvIndex& index, int64_t slot, const Tensor& weight, const Visit& visit) {
  const ConvIndex::Slot owned = index.slot(slot);
  if (owned.N == 0) return;
  const int64_t stride_o = weight.stride(0), stride_c = weight.stride(1);
  std::vector<int64_t> offset_of;  // [position, channel in block]
  for (int64_t position = 0; position < index.P * index.Q; ++position) {
    for (int64_t c = 0; c < index.block_c; ++c) {
      offset_of.push_back(position / index.Q * weight.stride(2) + position % index.Q * weight.stride(3) + c * stride_c);
    }
  }
  int64_t n = 0;
  const uint16_t* count = owned.row_counts;
  for (int64_t c_block = 0; c_block < index.num_blocks_c; ++c_block) {
    for (int64_t o = 0; o < index.num_blocks_o * index.block_o; ++o) {
      const int64_t base = o * stride_o + c_block * index.block_c * stride_c;
      for (const int64_t end = n + *count++; n < end; ++n) {
        visit(owned.places[n], base + offset_of[owned.columns[n]]);
      }
    }
  }
}

// What a slot reads, zero elsewhere: [O, C, P, Q] in the memory format of the images.
Tensor dense_weight(const Tensor& images, const ConvShape& shape, const std::vector<ConvStore>& stores, int64_t slot) {
  const Tensor weight = empty_weight(images, shape);
  float* const dense = weight.mutable_data_ptr<float>();
  std::memset(dense, 0, sizeof(float) * static_cast<size_t>(weight.numel()));
  for (const ConvStore& store : stores) {
    const float* const values = static_cast<const float*>(store.values) + store.value_starts[slot];
    for_each_weight(store.index, slot, weight, [&](int64_t n, int64_t offset) { dense[offset] += values[n]; });
  }
  return weight;
}

// ---- images ---------------------------------------------------------------------------------------------------------

MemoryFormat format_of(const Tensor& images) {
  return is_channels_last(images) ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
}

bool is_whole(const ConvCall& call, const ConvGroup& group, const Tensor& images) {
  return group.end - group.begin == images.size(0) && call.order == nullptr;
}

// As libtorch returned them, or with the strides that empty_images gives them: libtorch sees another memory format
// where a dimension is one.
Tensor restrided(const Tensor& images, MemoryFormat format) {
  const int64_t C = images.size(1), H = images.size(2), W = images.size(3);
  const bool last = format == MemoryFormat::ChannelsLast;
  const int64_t strides[] = {C * H * W, last ? 1 : H * W, last ? W * C : W, last ? C : 1};
  bool is_same = true;
  for (int64_t d = 0; d < 4; ++d) is_same = is_same && images.stride(d) == strides[d];
  if (is_same) return images;
  Tensor copy = torch::stable::empty({images.size(0), C, H, W}, images.scalar_type(), std::nullopt, images.device(),
                                     std::nullopt, format);
  torch::stable::copy_(copy, images);
  return copy;
}

// Copies images between a batch and the images of one group; both have their numbers side by side in one format.
template <class Copy>
void for_each_image(const ConvCall& call, const ConvGroup& group, const Tensor& batch, const Copy& copy) {
  const int64_t numel = batch.numel() / batch.size(0);
  torch::stable::parallel_for(0, group.end - group.begin, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t place = group.begin + i, row = call.order == nullptr ? place : call.order[place];
      copy(row * numel, i * numel, sizeof(float) * static_cast<size_t>(numel));
    }
  });
}

// batch: in_format. One slot's images, where that is not all of them in their own order.
Tensor gathered(const ConvCall& call, const ConvGroup& group, const Tensor& batch) {
  if (is_whole(call, group, batch)) return batch;
  const Tensor own = empty_images(batch, {group.end - group.begin, batch.size(1), batch.size(2), batch.size(3)});
  const float* const source = batch.const_data_ptr<float>();
  float* const target = own.mutable_data_ptr<float>();
  for_each_image(call, group, batch, [&](int64_t from_at, int64_t to_at, size_t bytes) {
    std::memcpy(target + to_at, source + from_at, bytes);
  });
  return own;
}

void scatter(const ConvCall& call, const ConvGroup& group, const Tensor& own, const Tensor& batch) {
  const float* const source = own.const_data_ptr<float>();
  float* const target = batch.mutable_data_ptr<float>();
  for_each_image(call, group, batch, [&](int64_t to_at, int64_t from_at, size_t bytes) {
    std::memcpy(target + to_at, source + from_at, bytes);
  });
}

// Calls compute(images of a group, its slot) for each group of the dense route and puts together what comes back:
// images of this size.
template <class Compute>
Tensor dense_groups(ConvCall& call, ConvProduct product, const char* counter, const Tensor& images,
                    const std::vector<ConvStore>& stores, const std::vector<int64_t>& size, const Compute& compute) {
  std::optional<Tensor> results;
  if (images.numel() > 0 && size[0] * size[1] * size[2] * size[3] > 0) {
    const auto groups = take_dense_groups(call, product, counter, stores);
    if (!groups.empty()) {
      const MemoryFormat format = format_of(images);
      const Tensor batch = torch::stable::contiguous(images, format);
      for (const auto& [group, place] : groups) {
        const Tensor own = restrided(compute(gathered(call, group, batch), group.slot), format);
        if (is_whole(call, group, batch)) return own;
        if (!results) results = empty_images(images, size);
        scatter(call, group, own, *results);
      }
    }
  }
  return results ? *results : empty_images(images, size);
}

}  // namespace

Tensor conv_dense_forward(ConvCall& call, const Tensor& x, const std::vector<ConvStore>& stores,
                          const std::optional<Tensor>& bias, bool relu) {
  const ConvShape& shape = call.shape;
  return dense_groups(call, CONV_FORWARD, "task_conv2d.dense", x, stores,
                      {x.size(0), shape.O, shape.out_H, shape.out_W}, [&](const Tensor& own, int64_t slot) {
                        std::optional<Tensor> own_bias;
                        if (bias) own_bias = torch::stable::select(*bias, 0, slot);
                        Tensor y = convolution(own, dense_weight(own, shape, stores, slot), own_bias, Window(shape));
                        if (relu) relu_in_place(y);
                        return y;
                      });
}

Tensor conv_dense_grad_input(ConvCall& call, const Tensor& grad_y, const std::vector<ConvStore>& stores) {
  const ConvShape& shape = call.shape;
  return dense_groups(call, CONV_GRAD_INPUT, "task_conv2d_grad_input.dense", grad_y, stores,
                      {grad_y.size(0), shape.C, shape.H, shape.W}, [&](const Tensor& own, int64_t slot) {
                        const Tensor x = empty_images(own, {own.size(0), shape.C, shape.H, shape.W});  // never read
                        const Tensor weight = dense_weight(own, shape, stores, slot);
                        return convolution_backward(own, x, weight, Window(shape), 0);
                      });
}

void conv_dense_grad_values(ConvCall& call, const Tensor& x, const Tensor& grad_y, const ConvStore& store,
                            std::vector<void*>& results) {
  if (x.numel() == 0 || grad_y.numel() == 0) return;
  const auto groups = take_dense_groups(call, CONV_GRAD_VALUES, "task_conv2d_grad_values.dense", {store});
  if (groups.empty()) return;
  const MemoryFormat format = format_of(x);
  const Tensor x_batch = torch::stable::contiguous(x, format), grad_batch = torch::stable::contiguous(grad_y, format);
  for (const auto& [group, place] : groups) {
    const Tensor own_x = gathered(call, group, x_batch), own_grad = gathered(call, group, grad_batch);
    const Tensor unread = empty_weight(own_x, call.shape);
    const Tensor grad = convolution_backward(own_grad, own_x, unread, Window(call.shape), 1);
    const float* const dense = grad.const_data_ptr<float>();
    float* const result = static_cast<float*>(results[place]);
    for_each_weight(store.index, group.slot, grad, [&](int64_t n, int64_t offset) { result[n] = dense[offset]; });
  }
  for (auto dense = groups.rbegin(); dense != groups.rend(); ++dense) {
    results.erase(results.begin() + static_cast<std::ptrdiff_t>(dense->second));
  }
}

}  // namespace rsn2
