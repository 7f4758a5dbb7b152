#include "task_linear_index.h"

#include "threads.h"

#include <cstring>

namespace rsn2 {
namespace {

constexpr const char* OP = "task_linear_index";
constexpr int32_t KIND_AND_VERSION = 0x103;
constexpr int64_t HEADER = 4;

// The cut into panels and blocks follows from the shape alone, so that two stores of one layer have the same.
TaskLinearMatrix cut(int64_t num_rows, int64_t num_columns) {
  TaskLinearMatrix m{};
  m.num_rows = num_rows;
  m.num_columns = num_columns;
  m.panel_rows = std::clamp<int64_t>(ceil_div(num_rows, 8 * 16) * 16, 16, 256);  // at least 8 panels to share out
  m.block_columns = TASK_LINEAR_BLOCK_COLUMNS;
  m.num_panels = ceil_div(num_rows, m.panel_rows);
  m.num_blocks = ceil_div(num_columns, m.block_columns);
  return m;
}

// Words of so many rows or columns, a byte each.
constexpr int64_t byte_words(int64_t num_bytes) { return (num_bytes + TASK_LINEAR_OVERREAD + 3) / 4; }

// Collects one order of a slot's weights, then writes it.
class OrderBuilder {
 public:
  OrderBuilder(int64_t num_rows, int64_t num_columns, int64_t num_values) : m_(cut(num_rows, num_columns)) {
    columns_.reserve(static_cast<size_t>(num_values));
  }
  const TaskLinearMatrix& shape() const { return m_; }

  // The next weight; those of a row and block come one after another.
  void add(int64_t row, int64_t column) {
    const int64_t block = column / m_.block_columns;
    if (row != row_ || block != block_) {
      const int64_t panel = row / m_.panel_rows;
      runs_.push_back({static_cast<int32_t>(block * m_.num_panels + panel), static_cast<int32_t>(columns_.size()),
                       static_cast<int32_t>(row - panel * m_.panel_rows), 0});
      row_ = row;
      block_ = block;
    }
    ++runs_.back().count;
    columns_.push_back(static_cast<uint8_t>(column - block * m_.block_columns));
  }

  // Without places a piece says where its weights stand in the order they were added. With them that is places[...].
  void write(const std::vector<int32_t>* places, std::vector<int32_t>& words) {
    sort_pieces();
    std::vector<TaskLinearStart> starts(static_cast<size_t>(m_.num_blocks * m_.num_panels + 1));
    std::vector<TaskLinearBunch> bunches;
    int32_t key = 0, num_weights = 0;
    int32_t num_pieces = 0;
    const auto begin_until = [&](int32_t next_key) {
      for (; key <= next_key; ++key) starts[key] = {static_cast<int32_t>(bunches.size()), num_pieces, num_weights};
    };
    for (const Run& piece : pieces_) {
      const bool is_new_panel = piece.key >= key;
      begin_until(piece.key);
      if (is_new_panel || bunches.back().size != piece.count) {
        bunches.push_back({static_cast<uint16_t>(piece.count), 0});
      }
      ++bunches.back().count;
      ++num_pieces;
      num_weights += piece.count;
    }
    begin_until(static_cast<int32_t>(starts.size()) - 1);

    append(starts, words);
    append(bunches, words);
    std::vector<uint8_t> rows, columns;
    std::vector<int32_t> firsts, sorted_places;
    rows.reserve(pieces_.size());
    firsts.reserve(pieces_.size());
    columns.reserve(columns_.size());
    for (const Run& piece : pieces_) {
      rows.push_back(static_cast<uint8_t>(piece.row));
      columns.insert(columns.end(), columns_.begin() + piece.first, columns_.begin() + piece.first + piece.count);
      if (places) {
        sorted_places.insert(sorted_places.end(), places->begin() + piece.first,
                             places->begin() + piece.first + piece.count);
      } else {
        firsts.push_back(piece.first);
      }
    }
    append(places ? sorted_places : firsts, words);
    append_bytes(rows, words);
    append_bytes(columns, words);
  }

 private:
  struct Run {
    int32_t key, first, row, count;
  };

  // Cuts the runs into pieces of nearly the same size each, sorted by panel and block, then size, then row (the rows of
  // a panel and block were added in order).
  void sort_pieces() {
    constexpr int64_t SIZES = TASK_LINEAR_MOST_PIECE + 1;
    std::vector<int32_t> next(static_cast<size_t>(m_.num_blocks * m_.num_panels * SIZES + 1), 0);
    std::vector<Run> pieces;
    pieces.reserve(runs_.size());
    for (const Run& run : runs_) {
      const int32_t num = static_cast<int32_t>(ceil_div(run.count, TASK_LINEAR_MOST_PIECE));
      for (int32_t i = 0; i < num; ++i) {
        const int32_t begin = run.count * i / num, end = run.count * (i + 1) / num;
        pieces.push_back({run.key, run.first + begin, run.row, end - begin});
        ++next[run.key * SIZES + end - begin + 1];
      }
    }
    for (size_t i = 1; i < next.size(); ++i) next[i] += next[i - 1];
    pieces_.resize(pieces.size());
    for (const Run& piece : pieces) pieces_[next[piece.key * SIZES + piece.count]++] = piece;
  }

  template <class T>
  static void append(const std::vector<T>& from, std::vector<int32_t>& words) {
    static_assert(sizeof(T) % sizeof(int32_t) == 0);
    const size_t at = words.size(), num_bytes = from.size() * sizeof(T);
    words.resize(at + num_bytes / sizeof(int32_t));
    if (num_bytes > 0) std::memcpy(words.data() + at, from.data(), num_bytes);
  }

  // Whole words, with room for reading too far.
  static void append_bytes(const std::vector<uint8_t>& from, std::vector<int32_t>& words) {
    const size_t at = words.size();
    words.resize(at + static_cast<size_t>(byte_words(static_cast<int64_t>(from.size()))), 0);
    std::memcpy(words.data() + at, from.data(), from.size());
  }

  TaskLinearMatrix m_;
  std::vector<Run> runs_, pieces_;
  std::vector<uint8_t> columns_;
  int64_t row_ = -1, block_ = -1;
};

void append_slot(const Positions& positions, int64_t t, std::vector<int32_t>& words) {
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
  forward.write(nullptr, words);
  transposed.write(&places, words);
}

}  // namespace

TaskLinearIndexBuilder::TaskLinearIndexBuilder(const Positions& positions)
    : positions_(positions), parts_(static_cast<size_t>(positions.T)), num_words_(HEADER + positions.T + 1) {
  const int64_t T = positions.T;
  check_value(std::max({T, positions.O, positions.K}) <= INT32_MAX, OP, ": a matrix of ", T, " slots, ", positions.O,
              " rows and ", positions.K, " columns is too large");
  for (int64_t t = 0; t < T; ++t) check_slot(OP, positions, t, INT64_MAX);

  parallel_for(T, 1, [&](int64_t first, int64_t last) {
    for (int64_t t = first; t < last; ++t) {
      if (positions.num_segment_words(t) > 0) append_slot(positions, t, parts_[t]);
    }
  });

  for (const auto& part : parts_) num_words_ += static_cast<int64_t>(part.size());
  check_value(num_words_ <= INT32_MAX, OP, ": ", num_words_, " words are more than an index can hold");
}

void TaskLinearIndexBuilder::write(int32_t* words) const {
  const int64_t T = positions_.T;
  words[0] = KIND_AND_VERSION;
  words[1] = static_cast<int32_t>(T);
  words[2] = static_cast<int32_t>(positions_.O);
  words[3] = static_cast<int32_t>(positions_.K);
  int64_t at = HEADER + T + 1;
  for (int64_t t = 0; t < T; ++t) {
    words[HEADER + t] = static_cast<int32_t>(at);
    std::copy(parts_[t].begin(), parts_[t].end(), words + at);
    at += static_cast<int64_t>(parts_[t].size());
  }
  words[HEADER + T] = static_cast<int32_t>(at);
}

TaskLinearIndex::TaskLinearIndex(const char* op, const int32_t* words, int64_t num_words, const Positions& positions)
    : op_(op), positions_(positions), words_(words), num_words_(num_words) {
  check_value(num_words_ >= HEADER + positions.T + 1 && words_[0] == KIND_AND_VERSION && words_[1] == positions.T &&
                  words_[2] == positions.O && words_[3] == positions.K,
              op, ": index must be task_linear_index of the positions of ", positions.T, " x ", positions.O, " x ",
              positions.K);
}

TaskLinearMatrix TaskLinearIndex::matrix(int64_t t, bool transposed) const {
  const int64_t O = positions_.O, K = positions_.K, N = positions_.num_values(t);
  int64_t at = words_[HEADER + t];
  const int64_t end = words_[HEADER + t + 1];
  check_value(HEADER + positions_.T + 1 <= at && at <= end && end <= num_words_ && (at == end) == (N == 0), op_,
              ": index of slot ", t, " does not fit its positions");
  TaskLinearMatrix m = transposed ? cut(K, O) : cut(O, K);
  if (N == 0) return m;
  for (int order = 0; order <= int(transposed); ++order) {
    m = order == 1 ? cut(K, O) : cut(O, K);
    const int64_t keys = m.num_blocks * m.num_panels;
    const auto check_room = [&] { check_value(at <= end, op_, ": index of slot ", t, " is truncated"); };
    m.starts = reinterpret_cast<const TaskLinearStart*>(words_ + at);
    at += 3 * (keys + 1);
    check_room();
    const TaskLinearStart& total = m.starts[keys];
    check_value(total.weight == N, op_, ": index of slot ", t, " holds ", total.weight, " weights, its positions ", N);
    check_value(0 < total.bunch && total.bunch <= total.piece && total.piece <= N, op_, ": index of slot ", t,
                " holds ", total.bunch, " bunches of ", total.piece, " pieces, its positions ", N, " weights");
    m.bunches = reinterpret_cast<const TaskLinearBunch*>(words_ + at);
    at += total.bunch;
    (order == 1 ? m.places : m.firsts) = words_ + at;
    at += order == 1 ? N : int64_t{total.piece};
    m.rows = reinterpret_cast<const uint8_t*>(words_ + at);
    at += byte_words(total.piece);
    m.columns = reinterpret_cast<const uint8_t*>(words_ + at);
    at += byte_words(N);
    check_room();
  }
  m.num_values = N;
  return m;
}

}  // namespace rsn2
