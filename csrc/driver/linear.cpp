// task_linear and its gradients against triple loops.
#include <optional>

#include "../cpu/levels.h"
#include "../cpu/task_linear_run.h"
#include "driver.h"

namespace rsn2::driver {
namespace {

struct Shape {
  const char* name;
  int64_t B, I, O, T;
  double keep;
  std::vector<int64_t> owning_nothing;
  bool is_large;
};

const Shape SHAPES[] = {
    {"divides_nothing", 37, 301, 163, 3, 0.1, {}, false},
    {"size_one", 1, 1, 1, 1, 1.0, {}, false},
    {"one_column", 19, 1, 50, 2, 0.5, {}, false},
    {"one_row", 19, 400, 1, 2, 0.4, {}, false},
    {"one_batch_row", 1, 300, 170, 2, 0.15, {}, false},
    {"one_batch_row_of_many_weights", 1, 200, 75, 1, 0.95, {}, false},
    {"no_rows", 0, 40, 30, 2, 0.2, {}, false},
    {"owns_nothing", 23, 45, 33, 4, 0.2, {1, 3}, false},
    {"all_weights", 20, 140, 37, 1, 1.0, {}, false},
    {"many_slots", 230, 60, 50, 200, 0.005, {7}, false},
    {"many_rows", 421, 150, 70, 2, 0.15, {}, false},  // more than are read through places, and several tiles
    {"large_matrix", 150, 700, 640, 2, 0.5, {}, true},
};

struct Case {
  const Shape& shape;
  Dtypes dtypes;
  Layout layout;
  bool is_one, has_bias, has_frozen, relu;
};

struct Indexed {
  explicit Indexed(const Store& from)
      : store(from), index([&] {
          const TaskLinearIndexBuilder builder(from.view("index"));
          std::vector<int32_t> words(static_cast<size_t>(builder.num_words()));
          builder.write(words.data());
          return words;
        }()) {}
  TaskLinearPacked packed() const {
    const auto type = static_cast<TaskLinearType>(store.values.dtype());
    return {store.values.data(), store.values.size(), type, store.view("op"), index.data.get(), index.size};
  }
  const Store& store;
  Words<int32_t> index;
};

TaskLinearRows rows_of(const Array& array) {
  const auto type = static_cast<TaskLinearType>(array.block.dtype());
  return {array.block.data(), array.stride[0], array.stride[1], nullptr, 0, array.size[0], type};
}

struct Inputs {
  const Batch& batch;
  const Indexed& store;
  const Indexed* frozen;
  const Block* bias;
  bool relu;
};

Array product(const Inputs& in, const Array& x, bool transposed) {
  const Store& store = in.store.store;
  const RowGroups groups = group_rows("product", in.batch.view(), x.size[0], store.T);
  const TaskLinearStore matrices("product", in.store.packed(), groups, transposed);
  std::optional<TaskLinearStore> frozen;
  if (in.frozen) {
    frozen.emplace("product", in.frozen->packed(), groups, transposed);
    check_frozen("product", *frozen, matrices);
  }
  std::optional<Scratch<char>> bias;
  if (in.bias && !transposed) bias.emplace(bias_of_groups(in.bias->data(), groups, matrices));
  Array y = make_array(x.block.dtype(), CONTIGUOUS, x.size[0], transposed ? store.K : store.O);
  task_linear_product({"product", rows_of(x), rows_of(y), groups, matrices, frozen ? &*frozen : nullptr,
                       bias ? bias->data() : nullptr, in.relu && !transposed});
  return y;
}

Block grad_values(const Inputs& in, const Array& x, const Array& grad_y, const std::vector<int64_t>& wanted) {
  const TaskLinearPacked packed = in.store.packed();
  const RowGroups groups = group_rows("sampled", in.batch.view(), x.size[0], in.store.store.T);
  const TaskLinearIndex index("sampled", packed.index, packed.num_index_words, packed.positions);
  std::vector<int64_t> num_owned;
  for (const int64_t t : wanted) num_owned.push_back(in.store.store.num_owned(t));
  const int64_t total = count_wanted("sampled", packed.positions, packed.num_values, wanted, num_owned);
  Block grads(in.store.store.values.dtype(), total);
  task_linear_sampled(
      {"sampled", rows_of(x), rows_of(grad_y), groups, packed.positions, index, packed.type, wanted, grads.data()});
  return grads;
}

void compare_product(const char* what, const Inputs& in, const Array& x, bool transposed, const Array& y) {
  const int64_t width = y.size[1];
  for (int64_t b = 0; b < x.size[0]; ++b) {
    const int64_t t = in.batch.slot(b);
    std::vector<Exact> exact(static_cast<size_t>(width));
    for (const Indexed* indexed : {&in.store, in.frozen}) {
      if (!indexed) continue;
      const Store& store = indexed->store;
      for (int64_t n = 0; n < store.num_owned(t); ++n) {
        const Weight& w = store.owned[t][n];
        exact[transposed ? w.column : w.row].add(store.value(t, n) * x.get(b, transposed ? w.row : w.column));
      }
    }
    for (int64_t o = 0; o < width; ++o) {
      if (in.bias && !transposed) exact[o].add(in.bias->get(t * width + o));
      if (in.relu && !transposed) exact[o].relu();
      expect_sum(std::string(what) + " row " + std::to_string(b) + " column " + std::to_string(o), y.get(b, o),
                 exact[o], sum_dtype(in.store.store.values.dtype()), x.block.dtype());
    }
  }
}

void compare_grad_values(const Inputs& in, const Array& x, const Array& grad_y, const std::vector<int64_t>& wanted,
                         const Block& grads) {
  const Store& store = in.store.store;
  int64_t at = 0;
  for (const int64_t t : wanted) {
    std::vector<Exact> exact(static_cast<size_t>(store.num_owned(t)));
    for (int64_t b = 0; b < x.size[0]; ++b) {
      if (in.batch.slot(b) != t) continue;
      for (int64_t n = 0; n < store.num_owned(t); ++n) {
        exact[n].add(grad_y.get(b, store.owned[t][n].row) * x.get(b, store.owned[t][n].column));
      }
    }
    for (const Exact& sum : exact) {
      expect_sum("grad_values " + std::to_string(at), grads.get(at), sum, sum_dtype(store.values.dtype()),
                 store.values.dtype());
      ++at;
    }
  }
}

// Slots by themselves, from stores that hold nothing else: the same bits in the types that promise it.
void check_alone(const Case& c, const Inputs& in, const Array& x, const Array& grad_y, const Array& y,
                 const Array& grad_x) {
  const Store& store = in.store.store;
  for (int64_t t = 0; t < std::min<int64_t>(store.T, 4); ++t) {
    Random random(0);
    const Batch batch(random, store.T, x.size[0], true, t);
    const Store alone = only(store, t);
    const Indexed indexed(alone);
    const Inputs own{batch, indexed, in.frozen, in.bias, in.relu};
    const Array own_y = product(own, x, false), own_grad_x = product(own, grad_y, true);
    compare_product("alone", own, x, false, own_y);
    compare_product("alone grad_input", own, grad_y, true, own_grad_x);
    compare_grad_values(own, x, grad_y, {t}, grad_values(own, x, grad_y, {t}));
    if (bytes_of(c.dtypes.data) < 4) continue;
    bool is_same = true;
    for (int64_t b = 0; b < x.size[0]; ++b) {
      if (in.batch.slot(b) != t) continue;
      for (int64_t o = 0; o < store.O; ++o) is_same = is_same && own_y.get(b, o) == y.get(b, o);
      for (int64_t k = 0; k < store.K; ++k) is_same = is_same && own_grad_x.get(b, k) == grad_x.get(b, k);
    }
    expect(is_same, "slot " + std::to_string(t) + " has other bits in a mixed batch than alone");
  }
}

void check_case(const Case& c, const std::vector<int64_t>& threads) {
  const Shape& s = c.shape;
  Random random(1);
  const Store store = random_store(random, c.dtypes.values, s.T, s.O, s.I, s.keep, s.owning_nothing);
  const Store second = random_store(random, c.dtypes.values, s.T, s.O, s.I, s.keep / 2, {});
  const Batch batch(random, s.T, s.B, c.is_one, s.T / 2);
  Block bias(c.dtypes.values, s.T * s.O);
  bias.fill(random);
  Array x = make_array(c.dtypes.data, c.layout, s.B, s.I), grad_y = make_array(c.dtypes.data, c.layout, s.B, s.O);
  x.block.fill(random);
  grad_y.block.fill(random);
  std::vector<int64_t> wanted;
  for (int64_t t = s.T - 1; t >= 0; t -= s.T > 10 ? 3 : 1) wanted.push_back(t);

  std::optional<Array> y, grad_x;
  std::optional<Block> grads;
  for (const int64_t number : threads) {
    set_num_threads(number);
    const Indexed indexed(store), frozen(second);
    const Inputs in{batch, indexed, c.has_frozen ? &frozen : nullptr, c.has_bias ? &bias : nullptr, c.relu};
    Forbiddens forbidden;
    // The header of a task_linear index has four words.
    if (c.is_one) forbidden = forbid_others(store, indexed.index.data.get(), indexed.index.data.get() + 4, s.T / 2);
    Array next_y = product(in, x, false), next_grad_x = product(in, grad_y, true);
    const std::vector<int64_t> asked = c.is_one ? std::vector<int64_t>{s.T / 2} : wanted;
    Block next_grads = grad_values(in, x, grad_y, asked);
    forbidden.clear();
    if (y) {
      expect(next_y.block.same_bits(y->block) && next_grad_x.block.same_bits(grad_x->block) &&
                 next_grads.same_bits(*grads),
             std::to_string(number) + " threads give other bits than " + std::to_string(threads.front()));
      continue;
    }
    compare_product("y", in, x, false, next_y);
    compare_product("grad_x", in, grad_y, true, next_grad_x);
    compare_grad_values(in, x, grad_y, asked, next_grads);
    if (!c.is_one && !s.is_large) check_alone(c, in, x, grad_y, next_y, next_grad_x);
    y = std::move(next_y), grad_x = std::move(next_grad_x), grads = std::move(next_grads);
  }
  check_grad_bias(grad_y, batch, s.T, threads);
}

}  // namespace

int64_t check_linear(const std::vector<int64_t>& threads, bool is_small) {
  int64_t i = 0;
  for (const Shape& shape : SHAPES) {
    if (shape.is_large && is_small) continue;
    for (const Dtypes& dtypes : DTYPES) {
      const int64_t num_variants = shape.is_large ? (dtypes.values <= F64 ? 1 : 0) : is_small ? 2 : 6;
      for (int64_t variant = 0; variant < num_variants; ++variant, ++i) {
        const Case c{shape,      dtypes,    static_cast<Layout>((i + i / 6) % NUM_LAYOUTS), variant == 1, i % 4 != 1,
                     i % 3 != 0, i % 4 >= 2};
        set_case(std::string("linear ") + shape.name + " " + DTYPE_NAMES[dtypes.data] + " beside " +
                 DTYPE_NAMES[dtypes.values] + " " + LAYOUT_NAMES[c.layout] + (c.is_one ? " one slot" : " mixed") +
                 (c.has_bias ? " bias" : "") + (c.has_frozen ? " frozen" : "") + (c.relu ? " relu" : ""));
        check_case(c, threads);
      }
    }
  }
  return i;
}

namespace {

struct Headline {  // 1000 x 1000, a tenth of it, 64 rows
  Headline()
      : store(random_store(random, F32, 1, 1000, 1000, 0.1, {})),
        indexed(store),
        batch(random, 1, 64, true, 0),
        x(make_array(F32, CONTIGUOUS, 64, 1000)),
        grad_y(make_array(F32, CONTIGUOUS, 64, 1000)) {
    x.block.fill(random);
    grad_y.block.fill(random);
  }
  double work() const {
    const double lanes = static_cast<double>(cpu_kernels().linear.vector_bytes) / 4;
    return static_cast<double>(store.num_owned(0)) * 64 / lanes;
  }
  Random random{2};
  Store store;
  Indexed indexed;
  Batch batch;
  Array x, grad_y;
};

}  // namespace

double count_linear() {
  const Headline h;
  product({h.batch, h.indexed, nullptr, nullptr, false}, h.x, false);
  return h.work();
}

double count_linear_grad_values() {
  const Headline h;
  grad_values({h.batch, h.indexed, nullptr, nullptr, false}, h.x, h.grad_y, {0});
  return h.work();
}

}  // namespace rsn2::driver
