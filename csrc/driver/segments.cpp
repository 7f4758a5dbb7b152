// How far task_linear's kernels read: on a copy of one order of a slot's weights that ends TASK_LINEAR_OVERREAD bytes
// after the last column, the kernels give the bits that they give on the index.
#include <cstring>

#include "../cpu/levels.h"
#include "../cpu/task_linear_run.h"
#include "driver.h"

namespace rsn2::driver {
namespace {

// One order by itself, without places: its values stand in its own order.
struct Segment {
  Segment(const TaskLinearMatrix& m, const Store& store, int64_t t)
      : matrix(m), values(store.values.dtype(), m.num_values) {
    const char* const begin = reinterpret_cast<const char*>(m.starts);
    const int64_t size = reinterpret_cast<const char*>(m.columns) + m.num_values + TASK_LINEAR_OVERREAD - begin;
    words.reset(new char[static_cast<size_t>(size)]);
    std::memcpy(words.get(), begin, static_cast<size_t>(size));
    const auto moved = [&](const void* p) { return words.get() + (static_cast<const char*>(p) - begin); };
    matrix.starts = reinterpret_cast<const TaskLinearStart*>(moved(m.starts));
    matrix.bunches = reinterpret_cast<const TaskLinearBunch*>(moved(m.bunches));
    matrix.rows = reinterpret_cast<const uint8_t*>(moved(m.rows));
    if (m.firsts) matrix.firsts = reinterpret_cast<const int32_t*>(moved(m.firsts));
    matrix.columns = reinterpret_cast<const uint8_t*>(moved(m.columns));
    matrix.places = nullptr;
    for (int64_t n = 0; n < m.num_values; ++n) values.set(n, store.value(t, m.places ? m.places[n] : n));
    matrix.values = values.data();
    matrix.value_type = static_cast<TaskLinearType>(values.dtype());
  }
  TaskLinearMatrix matrix;
  std::unique_ptr<char[]> words;
  Block values;
};

Array product(const TaskLinearMatrix& m, const Array& x) {
  const TaskLinearKernels& kernels = cpu_kernels().linear;
  const auto type = static_cast<TaskLinearType>(x.block.dtype());
  Array y = make_array(x.block.dtype(), CONTIGUOUS, x.size[0], m.num_rows);
  const int64_t lanes = kernels.vector_bytes / sum_bytes_of(type);
  Scratch<char> scratch(task_linear_product_bytes(kernels, m.block_columns, m.num_panels * m.panel_rows,
                                                  ceil_div(x.size[0], lanes * kernels.max_vectors)));
  TaskLinearProduct task{};
  task.stores[0] = &m;
  task.in = {x.block.data(), x.stride[0], x.stride[1], nullptr, 0, x.size[0], type};
  task.out = {y.block.data(), y.stride[0], y.stride[1], nullptr, 0, y.size[0], type};
  task.last_panel = m.num_panels;
  task.scratch = scratch.data();
  kernels.product(task);
  return y;
}

Block sampled(const TaskLinearMatrix& m, const Array& x, const Array& grad_y) {
  const TaskLinearKernels& kernels = cpu_kernels().linear;
  const auto type = static_cast<TaskLinearType>(x.block.dtype());
  Block grads(x.block.dtype(), m.num_values);
  const TaskLinearStart& total = m.starts[m.num_blocks * m.num_panels];
  Scratch<char> scratch(task_linear_sampled_bytes(kernels, m.block_columns, m.num_panels * m.panel_rows, total.weight,
                                                  total.piece, sum_bytes_of(type)));
  kernels.sampled({&m,
                   {x.block.data(), x.stride[0], x.stride[1], nullptr, 0, x.size[0], type},
                   {grad_y.block.data(), grad_y.stride[0], grad_y.stride[1], nullptr, 0, grad_y.size[0], type},
                   grads.data(),
                   type,
                   0,
                   m.num_panels,
                   0,
                   m.num_blocks,
                   scratch.data()});
  return grads;
}

}  // namespace

int64_t check_segments(const std::vector<int64_t>&, bool) {
  int64_t num_cases = 0;
  for (const Dtype dtype : {F32, F64, BF16, F16}) {
    for (const double keep : {0.004, 0.05, 0.3, 1.0}) {  // the last fills every piece
      Random random(4);
      const Store store = random_store(random, dtype, 1, 53, 150, keep, {});
      const TaskLinearIndexBuilder builder(store.view("index"));
      std::vector<int32_t> words(static_cast<size_t>(builder.num_words()));
      builder.write(words.data());
      const TaskLinearIndex index("index", words.data(), builder.num_words(), store.view("index"));
      for (const int64_t num_rows : {1, 5, 40}) {
        set_case("segment of " + std::to_string(num_rows) + " rows, " + DTYPE_NAMES[dtype] + ", keep " +
                 std::to_string(keep));
        Array x = make_array(dtype, CONTIGUOUS, num_rows, 150), grad_y = make_array(dtype, CONTIGUOUS, num_rows, 53);
        x.block.fill(random);
        grad_y.block.fill(random);
        for (const bool transposed : {false, true}) {
          TaskLinearMatrix m = index.matrix(0, transposed);
          m.values = store.values.data();
          m.value_type = static_cast<TaskLinearType>(dtype);
          const Segment segment(m, store, 0);
          const Array& in = transposed ? grad_y : x;
          expect(product(segment.matrix, in).block.same_bits(product(m, in).block), "a copy gives another product");
          if (!transposed) {
            expect(sampled(segment.matrix, x, grad_y).same_bits(sampled(m, x, grad_y)), "a copy gives other gradients");
          }
          ++num_cases;
        }
      }
    }
  }
  return num_cases;
}

}  // namespace rsn2::driver
