// task_conv2d and its gradients against plain loops.
#include <algorithm>
#include <limits>
#include <optional>

#include "../cpu/levels.h"
#include "../cpu/task_conv2d_run.h"
#include "conv2d_shapes.h"
#include "driver.h"

namespace rsn2::driver {
namespace {

struct Case {
  const ConvCase& shape;
  Dtypes dtypes;
  Layout layout;
  bool is_one, has_bias, has_frozen, relu;
};

ConvShape shape_of(const ConvCase& s) {
  ConvShape shape{s.C, s.H, s.W, s.O, 0, 0, {}, {}, {}, {}};
  std::copy(s.kernel, s.kernel + 2, shape.kernel_size);
  std::copy(s.stride, s.stride + 2, shape.stride);
  std::copy(s.padding, s.padding + 4, shape.padding);
  std::copy(s.dilation, s.dilation + 2, shape.dilation);
  shape.out_H = (s.H + s.padding[0] + s.padding[1] - s.dilation[0] * (s.kernel[0] - 1) - 1) / s.stride[0] + 1;
  shape.out_W = (s.W + s.padding[2] + s.padding[3] - s.dilation[1] * (s.kernel[1] - 1) - 1) / s.stride[1] + 1;
  return shape;
}

struct Indexed {
  Indexed(const Store& from, const int64_t* kernel)
      : store(from), index([&] {
          const Positions positions = from.view("index");
          ConvIndexBuilder builder("index", from.T, from.O, from.K, kernel[0], kernel[1]);
          for (int64_t t = 0; t < from.T; ++t) {
            check_slot("index", positions, t, std::numeric_limits<int64_t>::max());
            builder.add_slot(t, positions.num_values(t),
                             [&](int64_t slot, const auto& visit) { for_each_owned("index", positions, slot, visit); });
          }
          return builder.words();
        }()) {}
  ConvStore view() const {
    return {store.values.data(), store.view("op").value_starts, parse_conv_index("op", index.data.get(), index.size)};
  }
  const Store& store;
  Words<int32_t> index;
};

ConvImages images_of(const Array& array) {
  return {array.block.data(),
          {array.stride[0], array.stride[1], array.stride[2], array.stride[3]},
          array.size[2],
          array.size[3]};
}

struct Inputs {
  ConvShape shape;
  const Batch& batch;
  const Indexed& store;
  const Indexed* frozen;
  const Block* bias;
  bool relu;

  Dtype values() const { return store.store.values.dtype(); }
  ConvCall call(Dtype images, const RowGroups& rows) const {
    ConvCall result{&cpu_kernels().conv2d,
                    shape,
                    static_cast<ConvDtype>(images),
                    static_cast<ConvDtype>(values()),
                    {},
                    rows.rows()};
    for (const RowGroup& group : rows.groups) result.groups.push_back({group.slot, group.begin, group.end});
    return result;
  }
  std::vector<ConvStore> stores() const {
    std::vector<ConvStore> result{store.view()};
    if (frozen) result.push_back(frozen->view());
    return result;
  }
};

// Results are made in the memory format of the input, as the operators do.
Array forward(const Inputs& in, const Array& x, Layout layout) {
  const RowGroups rows = group_rows("forward", in.batch.view(), x.size[0], in.store.store.T);
  Array y = make_array(x.block.dtype(), layout == CHANNELS_LAST ? layout : CONTIGUOUS, x.size[0], in.shape.O,
                       in.shape.out_H, in.shape.out_W);
  if (y.block.size() == 0) return y;
  conv_forward(in.call(x.block.dtype(), rows), images_of(x), in.stores(), in.bias ? in.bias->data() : nullptr, in.relu,
               images_of(y));
  return y;
}

Array grad_input(const Inputs& in, const Array& grad_y, Layout layout) {
  const RowGroups rows = group_rows("grad_input", in.batch.view(), grad_y.size[0], in.store.store.T);
  Array grad_x = make_array(grad_y.block.dtype(), layout == CHANNELS_LAST ? layout : CONTIGUOUS, grad_y.size[0],
                            in.shape.C, in.shape.H, in.shape.W);
  if (grad_x.block.size() == 0) return grad_x;
  conv_grad_input(in.call(grad_y.block.dtype(), rows), images_of(grad_y), in.stores(), images_of(grad_x));
  return grad_x;
}

// Of the slots that have images, one after another.
Block grad_values(const Inputs& in, const Array& x, const Array& grad_y) {
  const RowGroups rows = group_rows("grad_values", in.batch.view(), x.size[0], in.store.store.T);
  int64_t total = 0;
  std::vector<int64_t> first;
  for (const RowGroup& group : rows.groups) {
    first.push_back(total);
    total += in.store.store.num_owned(group.slot);
  }
  Block grads(in.values(), total);
  std::vector<void*> results;
  for (const int64_t at : first) results.push_back(static_cast<char*>(grads.data()) + at * bytes_of(in.values()));
  if (total > 0) {
    conv_grad_values(in.call(x.block.dtype(), rows), images_of(x), images_of(grad_y), in.store.view(), results);
  }
  return grads;
}

// Calls visit(output pixel h, w, input pixel h, w) for the pairs that one kernel position joins.
template <class Visit>
void for_each_pair(const ConvShape& s, int64_t column, const Visit& visit) {
  const int64_t position = column / s.C, p = position / s.kernel_size[1], q = position % s.kernel_size[1];
  for (int64_t oh = 0; oh < s.out_H; ++oh) {
    const int64_t h = oh * s.stride[0] + p * s.dilation[0] - s.padding[0];
    if (h < 0 || h >= s.H) continue;
    for (int64_t ow = 0; ow < s.out_W; ++ow) {
      const int64_t w = ow * s.stride[1] + q * s.dilation[1] - s.padding[2];
      if (w >= 0 && w < s.W) visit(oh, ow, h, w);
    }
  }
}

// y forward, or grad_x when transposed.
void compare_product(const char* what, const Inputs& in, const Array& x, bool transposed, const Array& y) {
  const ConvShape& s = in.shape;
  const int64_t pixels = y.size[2] * y.size[3];
  for (int64_t b = 0; b < x.size[0]; ++b) {
    const int64_t t = in.batch.slot(b);
    std::vector<Exact> exact(static_cast<size_t>(y.size[1] * pixels));
    for (const Indexed* indexed : {&in.store, in.frozen}) {
      if (!indexed) continue;
      const Store& store = indexed->store;
      for (int64_t n = 0; n < store.num_owned(t); ++n) {
        const Weight& weight = store.owned[t][n];
        const double value = store.value(t, n);
        const int64_t o = weight.row, c = weight.column % s.C;
        for_each_pair(s, weight.column, [&](int64_t oh, int64_t ow, int64_t h, int64_t w) {
          if (transposed) {
            exact[c * pixels + h * s.W + w].add(value * x.get(b, o, oh, ow));
          } else {
            exact[o * pixels + oh * s.out_W + ow].add(value * x.get(b, c, h, w));
          }
        });
      }
    }
    for (int64_t i = 0; i < y.size[1] * pixels; ++i) {
      const int64_t o = i / pixels, h = i % pixels / y.size[3], w = i % y.size[3];
      if (in.bias && !transposed) exact[i].add(in.bias->get(t * s.O + o));
      if (in.relu && !transposed) exact[i].relu();
      expect_sum(std::string(what) + " image " + std::to_string(b) + " at " + std::to_string(i), y.get(b, o, h, w),
                 exact[i], sum_dtype(in.values()), x.block.dtype());
    }
  }
}

void compare_grad_values(const Inputs& in, const Array& x, const Array& grad_y, const Block& grads) {
  const Store& store = in.store.store;
  const RowGroups rows = group_rows("compare", in.batch.view(), x.size[0], store.T);
  int64_t at = 0;
  for (const RowGroup& group : rows.groups) {
    for (const Weight& weight : store.owned[group.slot]) {
      Exact exact;
      for (int64_t place = group.begin; place < group.end; ++place) {
        const int64_t b = rows.row(place);
        for_each_pair(in.shape, weight.column, [&](int64_t oh, int64_t ow, int64_t h, int64_t w) {
          exact.add(grad_y.get(b, weight.row, oh, ow) * x.get(b, weight.column % in.shape.C, h, w));
        });
      }
      expect_sum("grad_values " + std::to_string(at), grads.get(at), exact, sum_dtype(in.values()), in.values());
      ++at;
    }
  }
}

// Slots by themselves, from stores that hold nothing else: the same bits in the types that promise it.
void check_alone(const Case& c, const Inputs& in, const Array& x, const Array& grad_y, const Array& y,
                 const Array& grad_x) {
  const Store& store = in.store.store;
  for (int64_t t = 0; t < std::min<int64_t>(store.T, 3); ++t) {
    Random random(0);
    const Batch batch(random, store.T, x.size[0], true, t);
    const Store alone = only(store, t);
    const Indexed indexed(alone, c.shape.kernel);
    const Inputs own{in.shape, batch, indexed, in.frozen, in.bias, in.relu};
    const Array own_y = forward(own, x, c.layout), own_grad_x = grad_input(own, grad_y, c.layout);
    compare_product("alone", own, x, false, own_y);
    compare_product("alone grad_input", own, grad_y, true, own_grad_x);
    compare_grad_values(own, x, grad_y, grad_values(own, x, grad_y));
    if (bytes_of(c.dtypes.data) < 4) continue;
    const auto same_images = [&](const Array& a, const Array& b) {
      bool is_same = true;
      for (int64_t i = 0; i < a.size[0] * a.size[1] * a.size[2] * a.size[3]; ++i) {
        const int64_t w = i % a.size[3], h = i / a.size[3] % a.size[2], channel = i / (a.size[3] * a.size[2]);
        const int64_t image = channel / a.size[1];
        if (in.batch.slot(image) != t) continue;
        is_same = is_same && a.get(image, channel % a.size[1], h, w) == b.get(image, channel % a.size[1], h, w);
      }
      return is_same;
    };
    expect(same_images(own_y, y) && same_images(own_grad_x, grad_x),
           "slot " + std::to_string(t) + " has other bits in a mixed batch than alone");
  }
}

void check_case(const Case& c, const std::vector<int64_t>& threads) {
  const ConvCase& s = c.shape;
  Random random(1);
  const ConvShape shape = shape_of(s);
  const int64_t K = s.kernel[0] * s.kernel[1] * s.C;
  const Store store = random_store(random, c.dtypes.values, s.T, s.O, K, s.keep, s.owning_nothing);
  const Store second = random_store(random, c.dtypes.values, s.T, s.O, K, s.keep / 2, {});
  const Batch batch(random, s.T, s.B, c.is_one, s.T / 2);
  Block bias(c.dtypes.values, s.T * s.O);
  bias.fill(random);
  Array x = make_array(c.dtypes.data, c.layout, s.B, s.C, s.H, s.W);
  Array grad_y = make_array(c.dtypes.data, c.layout, s.B, s.O, shape.out_H, shape.out_W);
  x.block.fill(random);
  grad_y.block.fill(random);

  std::optional<Array> y, grad_x;
  std::optional<Block> grads;
  for (const int64_t number : threads) {
    set_num_threads(number);
    const Indexed indexed(store, s.kernel), frozen(second, s.kernel);
    const Inputs in{shape, batch, indexed, c.has_frozen ? &frozen : nullptr, c.has_bias ? &bias : nullptr, c.relu};
    Forbiddens forbidden;
    const int32_t* words = indexed.index.data.get();
    if (c.is_one) forbidden = forbid_others(store, words, words + CONV_INDEX_HEADER, s.T / 2);
    Array next_y = forward(in, x, c.layout), next_grad_x = grad_input(in, grad_y, c.layout);
    Block next_grads = grad_values(in, x, grad_y);
    forbidden.clear();
    if (y) {
      expect(next_y.block.same_bits(y->block) && next_grad_x.block.same_bits(grad_x->block) &&
                 next_grads.same_bits(*grads),
             std::to_string(number) + " threads give other bits than " + std::to_string(threads.front()));
      continue;
    }
    compare_product("y", in, x, false, next_y);
    compare_product("grad_x", in, grad_y, true, next_grad_x);
    compare_grad_values(in, x, grad_y, next_grads);
    if (!c.is_one && !s.is_large) check_alone(c, in, x, grad_y, next_y, next_grad_x);
    y = std::move(next_y), grad_x = std::move(next_grad_x), grads = std::move(next_grads);
  }
  check_grad_bias(grad_y, batch, s.T, threads);
}

}  // namespace

int64_t check_conv2d(const std::vector<int64_t>& threads, bool is_small) {
  int64_t i = 0;
  for (const ConvCase& shape : CONV_CASES) {
    if (shape.is_large && is_small) continue;
    for (const Dtypes& dtypes : DTYPES) {
      const int64_t num_variants = shape.is_large ? (dtypes.values <= F64 ? 1 : 0) : is_small ? 2 : 6;
      for (int64_t variant = 0; variant < num_variants; ++variant, ++i) {
        const Case c{shape,      dtypes,    static_cast<Layout>((i + i / 6) % NUM_LAYOUTS), variant == 1, i % 4 != 1,
                     i % 3 != 0, i % 4 >= 2};
        set_case(std::string("conv2d ") + shape.name + " " + DTYPE_NAMES[dtypes.data] + " beside " +
                 DTYPE_NAMES[dtypes.values] + " " + LAYOUT_NAMES[c.layout] + (c.is_one ? " one slot" : " mixed") +
                 (c.has_bias ? " bias" : "") + (c.has_frozen ? " frozen" : "") + (c.relu ? " relu" : ""));
        check_case(c, threads);
      }
    }
  }
  return i;
}

double count_conv2d() {  // 3 x 3, 64 to 64 channels, a tenth of them, four images of 16 x 16
  const ConvCase s{"headline", 4, 64, 16, 16, 64, {3, 3}, 1, 0.1, {1, 1}, {1, 1, 1, 1}, {1, 1}, {}, false};
  Random random(2);
  const Store store = random_store(random, F32, 1, s.O, 9 * s.C, s.keep, {});
  const Indexed indexed(store, s.kernel);
  const Batch batch(random, 1, s.B, true, 0);
  Array x = make_array(F32, CONTIGUOUS, s.B, s.C, s.H, s.W);
  x.block.fill(random);
  forward({shape_of(s), batch, indexed, nullptr, nullptr, false}, x, CONTIGUOUS);
  const double lanes = static_cast<double>(cpu_kernels().conv2d.vector_bytes) / 4;
  return static_cast<double>(store.num_owned(0) * s.B * s.H * s.W) / lanes;
}

}  // namespace rsn2::driver
