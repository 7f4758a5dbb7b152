// The dense route: unpack a slot's weights, call libtorch's convolution on its images, put what comes back into place.
//
// float32 sums as libtorch is set to make them. An unowned weight is a zero here: it turns an infinite pixel into NaN.
#include "task_conv2d_dense.h"

#include <array>
#include <cstring>
#include <utility>

#include "../task_conv2d_route.h"

namespace rsn2 {
namespace {

using torch::headeronly::MemoryFormat;
using torch::stable::detail::from;
using torch::stable::detail::to;

// Takes the groups of the dense route out of the call.
std::vector<ConvGroup> take_dense_groups(ConvCall& call, ConvProduct product, const char* counter,
                                         const std::vector<ConvStore>& stores) {
  std::vector<ConvGroup> dense, sparse;
  if (call.image_dtype != CONV_FLOAT32 || call.value_dtype != CONV_FLOAT32) return dense;
  int64_t num_weights = 0;
  for (const ConvGroup& group : call.groups) {
    int64_t num_read = 0;
    for (const ConvStore& store : stores)
      num_read += store.value_starts[group.slot + 1] - store.value_starts[group.slot];
    const bool is_dense = takes_dense_route(product, call.shape, num_read);
    (is_dense ? dense : sparse).push_back(group);
    if (is_dense) num_weights += num_read;
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
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::convolution", "", stack.data(), TORCH_ABI_VERSION));
  return to<Tensor>(stack[0]);
}

// The gradient of x, of which only the shape is used.
Tensor convolution_grad_input(const Tensor& grad_y, const Tensor& x, const Tensor& weight, const Window& window) {
  const std::array<bool, 3> only_x{true, false, false};
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
                                     from(torch::headeronly::HeaderOnlyArrayRef<bool>(only_x.data(), only_x.size()))};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::convolution_backward", "", stack.data(), TORCH_ABI_VERSION));
  const Tensor grads[] = {to<Tensor>(stack[0]), to<Tensor>(stack[1]), to<Tensor>(stack[2])};
  return grads[0];
}

void relu_in_place(const Tensor& y) {
  std::array<StableIValue, 1> stack{from(y)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::relu_", "", stack.data(), TORCH_ABI_VERSION));
  to<Tensor>(stack[0]);  // the stack's own reference to y
}

// ---- weights --------------------------------------------------------------------------------------------------------

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
  const Tensor weight = empty_images(images, {shape.O, shape.C, shape.kernel_size[0], shape.kernel_size[1]});
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

// Calls copy(place among the group's images, row of the batch) for images begin .. end of the grouped order.
template <class Copy>
void for_each_image(const ConvCall& call, int64_t begin, int64_t end, const Copy& copy) {
  torch::stable::parallel_for(begin, end, 1, [&](int64_t first, int64_t last) {
    for (int64_t place = first; place < last; ++place) {
      copy(place - begin, call.order == nullptr ? place : call.order[place]);
    }
  });
}

// Images begin .. end of the grouped order. batch: all images, in this format.
Tensor images_at(const ConvCall& call, const Tensor& batch, MemoryFormat format, int64_t begin, int64_t end) {
  Tensor all = batch;
  if (call.order == nullptr) return torch::stable::narrow(all, 0, begin, end - begin);
  const Tensor images = torch::stable::empty({end - begin, batch.size(1), batch.size(2), batch.size(3)},
                                             ScalarType::Float, std::nullopt, batch.device(), std::nullopt, format);
  const int64_t numel = batch.numel() / batch.size(0);
  const float* const source = batch.const_data_ptr<float>();
  float* const target = images.mutable_data_ptr<float>();
  for_each_image(call, begin, end,
                 [=](int64_t place, int64_t row) { std::copy_n(source + row * numel, numel, target + place * numel); });
  return images;
}

// Writes images begin .. end of the grouped order into the batch's results, which have this format.
void put_images(const ConvCall& call, const Tensor& images, MemoryFormat format, int64_t begin, int64_t end,
                const Tensor& results) {
  const Tensor dense = torch::stable::contiguous(images, format);
  const int64_t numel = results.numel() / results.size(0);
  const float* const source = dense.const_data_ptr<float>();
  float* const target = results.mutable_data_ptr<float>();
  for_each_image(call, begin, end,
                 [=](int64_t place, int64_t row) { std::copy_n(source + place * numel, numel, target + row * numel); });
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
  for (const ConvGroup& group : groups) {
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
    return convolution_grad_input(images, unread, weight, Window(shape));
  };
  return dense_product(call, CONV_GRAD_INPUT, "task_conv2d_grad_input.dense", grad_y, stores,
                       {grad_y.size(0), shape.C, shape.H, shape.W}, compute);
}

}  // namespace rsn2
