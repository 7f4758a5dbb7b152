#include "task_linear_index.h"

#include "task_linear_store.h"

#include <cstring>
#include <exception>
#include <mutex>

namespace rsn2 {
namespace {

constexpr int32_t KIND_AND_VERSION = 0x101;
constexpr int64_t HEADER = 4;

// The cut into panels and blocks follows from the shape alone, so that two stores of one layer have the same.
TaskLinearMatrix cut(int64_t num_rows, int64_t num_columns) {
  TaskLinearMatrix m{};
  m.num_rows = num_rows;
  m.num_columns = num_columns;
  m.panel_rows = std::clamp<int64_t>(ceil_div(num_rows, 8 * 16) * 16, 16, 128);  // at least 8 panels to share out
  m.block_columns = TILE_COLUMNS;  // a byte per column; runs as long as the order of the values allows
  m.num_panels = ceil_div(num_rows, m.panel_rows);
  m.num_blocks = ceil_div(num_columns, m.block_columns);
  return m;
}

// Collects one order of a slot's weights, then writes it.
class OrderBuilder {
 public:
  OrderBuilder(int64_t num_rows, int64_t num_columns, int64_t num_values) : m_(cut(num_rows, num_columns)) {
    columns_.reserve(static_cast<size_t>(num_values));
  }
  const TaskLinearMatrix& shape() const { return m_; }

  // The next weight in the order of the values; those of a run come one after another.
  void add(int64_t row, int64_t column) {
    const int64_t block = column / m_.block_columns;
    if (row != row_ || block != block_) {
      const int64_t panel = row / m_.panel_rows;
      keyed_.push_back(
          {static_cast<int32_t>(block * m_.num_panels + panel),
           {static_cast<int32_t>(columns_.size()), static_cast<uint16_t>(row - panel * m_.panel_rows), 0}});
      row_ = row;
      block_ = block;
    }
    ++keyed_.back().run.count;
    columns_.push_back(static_cast<uint8_t>(column - block * m_.block_columns));
  }

  void write(std::vector<int32_t>& words) {
    std::sort(keyed_.begin(), keyed_.end(),
              [](const Keyed& a, const Keyed& b) { return a.key != b.key ? a.key < b.key : a.run.row < b.run.row; });
    const int64_t keys = m_.num_blocks * m_.num_panels;
    std::vector<int32_t> starts(static_cast<size_t>(2 * (keys + 1)), 0);
    for (const Keyed& keyed : keyed_) {
      ++starts[keyed.key + 1];
      starts[keys + 1 + keyed.key + 1] += keyed.run.count;
    }
    for (int64_t key = 0; key < keys; ++key) {
      starts[key + 1] += starts[key];
      starts[keys + 1 + key + 1] += starts[keys + 1 + key];
    }
    words.insert(words.end(), starts.begin(), starts.end());
    const size_t runs_at = words.size(), columns_at = runs_at + 2 * keyed_.size();
    words.resize(columns_at + (columns_.size() + 3) / 4);
    static_assert(sizeof(TaskLinearRun) == 2 * sizeof(int32_t));
    for (size_t i = 0; i < keyed_.size(); ++i)
      std::memcpy(&words[runs_at + 2 * i], &keyed_[i].run, sizeof(TaskLinearRun));
    std::memcpy(words.data() + columns_at, columns_.data(), columns_.size());
  }

 private:
  struct Keyed {
    int32_t key;
    TaskLinearRun run;
  };
  TaskLinearMatrix m_;
  std::vector<Keyed> keyed_;
  std::vector<uint8_t> columns_;
  int64_t row_ = -1, block_ = -1;
};

void append_slot(const Positions& positions, int64_t t, std::vector<int32_t>& words) {
  constexpr const char* OP = "task_linear_index";
  const int64_t num_values = positions.num_values(t), O = positions.O, K = positions.K;
  check_value(num_values <= INT32_MAX, OP, ": slot ", t, " owns ", num_values, " weights, more than an index can hold");
  OrderBuilder forward(O, K, num_values), transposed(K, O, num_values);
  std::vector<int32_t> places;
  places.reserve(static_cast<size_t>(num_values));

  // Weights arrive by panels of 16 rows; once a whole block of the transpose's columns is there, it is sorted by row.
  const int64_t block_columns = transposed.shape().block_columns;
  struct Weight {
    int32_t row, column;
  };
  std::vector<Weight> waiting;  // of one block, in the order of the values
  std::vector<int32_t> order, next(static_cast<size_t>(K + 1));
  int64_t waiting_block = 0, num_sorted = 0;
  const auto sort_waiting = [&] {
    std::fill(next.begin(), next.end(), 0);
    for (const Weight& w : waiting) ++next[w.column + 1];
    for (int64_t k = 0; k < K; ++k) next[k + 1] += next[k];
    order.resize(waiting.size());
    for (size_t i = 0; i < waiting.size(); ++i) order[next[waiting[i].column]++] = static_cast<int32_t>(i);
    for (const int32_t i : order) {
      transposed.add(waiting[i].column, waiting[i].row);
      places.push_back(static_cast<int32_t>(num_sorted + i));
    }
    num_sorted += static_cast<int64_t>(waiting.size());
    waiting.clear();
  };
  for_each_owned(OP, positions, t, [&](int64_t row, int64_t column) {
    forward.add(row, column);
    if (row / block_columns != waiting_block) {
      sort_waiting();
      waiting_block = row / block_columns;
    }
    waiting.push_back({static_cast<int32_t>(row), static_cast<int32_t>(column)});
  });
  sort_waiting();
  forward.write(words);
  transposed.write(words);
  words.insert(words.end(), places.begin(), places.end());
}

}  // namespace

Tensor task_linear_index(const Tensor& positions_tensor) {
  constexpr const char* OP = "task_linear_index";
  const Positions positions = parse_positions(OP, positions_tensor);
  const int64_t T = positions.T;
  check_value(std::max({T, positions.O, positions.K}) <= INT32_MAX, OP, ": a matrix of ", T, " slots, ", positions.O,
              " rows and ", positions.K, " columns is too large");
  for (int64_t t = 0; t < T; ++t) check_slot(OP, positions, t, INT64_MAX);

  std::vector<std::vector<int32_t>> parts(static_cast<size_t>(T));
  std::exception_ptr error;  // parallel_for would make another type of it
  std::mutex error_mutex;
  torch::stable::parallel_for(0, T, 1, [&](int64_t first, int64_t last) {
    try {
      for (int64_t t = first; t < last; ++t) {
        if (positions.num_segment_words(t) > 0) append_slot(positions, t, parts[t]);
      }
    } catch (...) {
      const std::lock_guard<std::mutex> lock(error_mutex);
      error = std::current_exception();
    }
  });
  if (error) std::rethrow_exception(error);

  int64_t num_words = HEADER + T + 1;
  for (const auto& part : parts) num_words += static_cast<int64_t>(part.size());
  check_value(num_words <= INT32_MAX, OP, ": ", num_words, " words are more than an index can hold");
  const Tensor index = torch::stable::new_empty(positions_tensor, {num_words}, ScalarType::Int);
  int32_t* words = index.mutable_data_ptr<int32_t>();
  words[0] = KIND_AND_VERSION;
  words[1] = static_cast<int32_t>(T);
  words[2] = static_cast<int32_t>(positions.O);
  words[3] = static_cast<int32_t>(positions.K);
  int64_t at = HEADER + T + 1;
  for (int64_t t = 0; t < T; ++t) {
    words[HEADER + t] = static_cast<int32_t>(at);
    std::copy(parts[t].begin(), parts[t].end(), words + at);
    at += static_cast<int64_t>(parts[t].size());
  }
  words[HEADER + T] = static_cast<int32_t>(at);
  return index;
}

TaskLinearIndex::TaskLinearIndex(const char* op, const char* name, const Tensor& index, const Positions& positions)
    : op_(op), name_(name), positions_(positions) {
  check_flat(op, name, index, ScalarType::Int);
  words_ = index.const_data_ptr<int32_t>();
  num_words_ = index.numel();
  check_value(num_words_ >= HEADER + positions.T + 1 && words_[0] == KIND_AND_VERSION && words_[1] == positions.T &&
                  words_[2] == positions.O && words_[3] == positions.K,
              op, ": ", name, " must be task_linear_index of the positions of ", positions.T, " x ", positions.O, " x ",
              positions.K);
}

TaskLinearMatrix TaskLinearIndex::matrix(int64_t t, bool transposed) const {
  const int64_t O = positions_.O, K = positions_.K, N = positions_.num_values(t);
  int64_t at = words_[HEADER + t];
  const int64_t end = words_[HEADER + t + 1];
  check_value(HEADER + positions_.T + 1 <= at && at <= end && end <= num_words_ && (at == end) == (N == 0), op_, ": ",
              name_, " of slot ", t, " does not fit its positions");
  TaskLinearMatrix m = transposed ? cut(K, O) : cut(O, K);
  if (N == 0) return m;
  for (int order = 0; order <= int(transposed); ++order) {
    m = order == 1 ? cut(K, O) : cut(O, K);
    const int64_t keys = m.num_blocks * m.num_panels;
    check_value(at + 2 * (keys + 1) <= end, op_, ": ", name_, " of slot ", t, " is truncated");
    m.run_starts = words_ + at;
    m.value_starts = m.run_starts + keys + 1;
    at += 2 * (keys + 1);
    check_value(m.value_starts[keys] == N, op_, ": ", name_, " of slot ", t, " holds ", m.value_starts[keys],
                " weights, its positions ", N);
    const int64_t num_runs = m.run_starts[keys];
    check_value(0 < num_runs && num_runs <= N, op_, ": ", name_, " of slot ", t, " holds ", num_runs,
                " runs, its positions ", N, " weights");
    m.runs = reinterpret_cast<const TaskLinearRun*>(words_ + at);
    at += 2 * num_runs;
    m.columns = reinterpret_cast<const uint8_t*>(words_ + at);
    at += (N + 3) / 4;
    if (order == 1) m.places = words_ + at, at += N;
    check_value(at <= end, op_, ": ", name_, " of slot ", t, " is truncated");
  }
  m.num_values = N;
  return m;
}

}  // namespace rsn2

STABLE_TORCH_LIBRARY_IMPL(rsn2_kernels, CPU, m) { m.impl("task_linear_index", TORCH_BOX(&rsn2::task_linear_index)); }
