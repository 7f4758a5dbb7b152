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

// libtorch's convolution copies all its images into an order of its own and its results back: as many images at a time
// as make those copies small, but not so few that each time the weight's own copy would cost much.
int64_t images_at_once(const ConvShape& shape) {
  constexpr int64_t BYTES = int64_t{2} << 20, WEIGHTS = 4;
  const int64_t weight = shape.O * shape.C * shape.kernel_size[0] * shape.kernel_size[1];
  const int64_t image = shape.C * shape.H * shape.W + shape.O * shape.out_H * shape.out_W;
  return std::max<int64_t>(1, std::max(BYTES, WEIGHTS * 4 * weight) / (4 * image));
}

// Images begin .. end of the grouped order, in the memory format of `like`. batch: all images, in that format.
Tensor images_at(const ConvCall& call, const Tensor& batch, MemoryFormat format, int64_t begin, int64_t end) {
  Tensor images = batch;
  if (call.order == nullptr) return torch::stable::narrow(images, 0, begin, end - begin);
  const Tensor own = torch::stable::empty({end - begin, batch.size(1), batch.size(2), batch.size(3)},
                                          batch.scalar_type(), std::nullopt, batch.device(), std::nullopt, format);
  const int64_t numel = batch.numel() / batch.size(0);
  for (int64_t place = begin; place < end; ++place) {
    std::memcpy(own.mutable_data_ptr<float>() + (place - begin) * numel,
                batch.const_data_ptr<float>() + call.order[place] * numel, sizeof(float) * static_cast<size_t>(numel));
  }
  return own;
}

// Writes images begin .. end of the grouped order into the batch's results, which have this format.
void put_images(const ConvCall& call, const Tensor& images, MemoryFormat format, int64_t begin, int64_t end,
                const Tensor& results) {
  const Tensor own = torch::stable::contiguous(images, format);
  const int64_t numel = results.numel() / results.size(0);
  torch::stable::parallel_for(begin, end, 1, [&](int64_t first, int64_t last) {
    for (int64_t place = first; place < last; ++place) {
      const int64_t row = call.order == nullptr ? place : call.order[place];
      std::memcpy(results.mutable_data_ptr<float>() + row * numel, own.const_data_ptr<float>() + (place - begin) * numel,
                  sizeof(float) * static_cast<size_t>(numel));
    }
  });
}

// Calls compute(some images of a slot, its dense weight, the slot) for all images of the dense route and puts together
// what comes back: images of this size.
template <class Compute>
Tensor dense_product(ConvCall& call, ConvProduct product, const char* counter, const Tensor& images,
                     const std::vector<ConvStore>& stores, const std::vector<int64_t>& size, const Compute& compute) {
  const Tensor results = empty_images(images, size);
  if (images.numel() == 0 || results.numel() == 0) return results;
  const auto groups = take_dense_groups(call, product, counter, stores);
  if (groups.empty()) return results;
  const MemoryFormat format = format_of(images);
  const Tensor batch = torch::stable::contiguous(images, format);
  const int64_t at_once = images_at_once(call.shape);
  for (const auto& [group, place] : groups) {
    const Tensor weight = dense_weight(batch, call.shape, stores, group.slot);
    for (int64_t begin = group.begin; begin < group.end; begin += at_once) {
      const int64_t end = std::min(begin + at_once, group.end);
      put_images(call, compute(images_at(call, batch, format, begin, end), weight, group.slot), format, begin, end,
                 results);
    }
  }
  return results;
}

}  // namespace

Tensor conv_dense_forward(ConvCall& call, const Tensor& x, const std::vector<ConvStore>& stores,
                          const std::optional<Tensor>& bias, bool relu) {
  const ConvShape& shape = call.shape;
  const auto compute = [&](const Tensor& images, const Tensor& weight, int64_t slot) {
    std::optional<Tensor> own_bias;
    if (bias) own_bias = torch::stable::select(*bias, 0, slot);
    Tensor y = convolution(images, weight, own_bias, Window(shape));
    if (relu) relu_in_place(y);
    return y;
  };
  return dense_product(call, CONV_FORWARD, "task_conv2d.dense", x, stores,
                       {x.size(0), shape.O, shape.out_H, shape.out_W}, compute);
}

Tensor conv_dense_grad_input(ConvCall& call, const Tensor& grad_y, const std::vector<ConvStore>& stores) {
  const ConvShape& shape = call.shape;
  const auto compute = [&](const Tensor& images, const Tensor& weight, int64_t) {
    const Tensor unread = empty_images(images, {images.size(0), shape.C, shape.H, shape.W});
    return convolution_backward(images, unread, weight, Window(shape), 0);
  };
  return dense_product(call, CONV_GRAD_INPUT, "task_conv2d_grad_input.dense", grad_y, stores,
                       {grad_y.size(0), shape.C, shape.H, shape.W}, compute);
}

void conv_dense_grad_values(ConvCall& call, const Tensor& x, const Tensor& grad_y, const ConvStore& store,
                            std::vector<void*>& results) {
  if (x.numel() == 0 || grad_y.numel() == 0) return;
  const auto groups = take_dense_groups(call, CONV_GRAD_VALUES, "task_conv2d_grad_values.dense", {store});
  if (groups.empty()) return;
  const MemoryFormat format = format_of(x);
  const Tensor x_batch = torch::stable::contiguous(x, format), grad_batch = torch::stable::contiguous(grad_y, format);
  const Tensor unread = empty_weight(x_batch, call.shape);
  const int64_t at_once = images_at_once(call.shape);
  for (const auto& [group, place] : groups) {
    float* const result = static_cast<float*>(results[place]);
    for (int64_t begin = group.begin; begin < group.end; begin += at_once) {
      const int64_t end = std::min(begin + at_once, group.end);
      const Tensor grad = convolution_backward(images_at(call, grad_batch, format, begin, end),
                                               images_at(call, x_batch, format, begin, end), unread,
                                               Window(call.shape), 1);
      const float* const dense = grad.const_data_ptr<float>();
      const bool is_first = begin == group.begin;
      for_each_weight(store.index, group.slot, grad,
                      [&](int64_t n, int64_t at) { result[n] = is_first ? dense[at] : result[n] + dense[at]; });
    }
  }
  for (auto dense = groups.rbegin(); dense != groups.rend(); ++dense) {
    results.erase(results.begin() + static_cast<std::ptrdiff_t>(dense->second));
  }
}

}  // namespace rsn2
