// The convolution's index: checks and the parts of its making that are not in the header. Torch-free.
#include "task_conv2d_index.h"

namespace rsn2 {

ConvIndex::Slot ConvIndex::slot(int64_t t) const {
  const int64_t first = words[CONV_INDEX_HEADER + t], end = words[CONV_INDEX_HEADER + t + 1];
  if (first == end) return {};
  const int64_t num_bricks = num_blocks_c * num_blocks_o;
  Slot slot;
  slot.brick_starts = words + first;
  slot.N = slot.brick_starts[num_bricks];
  slot.row_counts = reinterpret_cast<const uint16_t*>(slot.brick_starts + num_bricks + 1);
  slot.columns = slot.row_counts + 2 * divide_up(num_bricks * block_o, 2);
  slot.places = reinterpret_cast<const int32_t*>(slot.columns + 2 * divide_up(slot.N, 2));
  return slot;
}

ConvIndex parse_conv_index(const char* op, const int32_t* words, int64_t num_words) {
  const auto check = [&](bool ok) {
    if (!ok) throw std::invalid_argument(std::string(op) + ": index is not one that task_conv2d_index made");
  };
  check(num_words > CONV_INDEX_HEADER && words[0] == 1);
  ConvIndex index{words[1], words[2], words[3], words[4], words[5], words[6], words[7], 0, 0, words};
  check(index.T >= 0 && CONV_INDEX_HEADER + index.T < num_words && index.P > 0 && index.Q > 0);
  check(index.block_c == conv_block(index.P * index.Q, index.C) &&
        index.block_o == conv_block(index.P * index.Q, index.O));
  check(words[CONV_INDEX_HEADER + index.T] == num_words);
  index.num_blocks_c = divide_up(index.C, index.block_c);
  index.num_blocks_o = divide_up(index.O, index.block_o);
  return index;
}

void check_conv_slot(const char* op, const ConvIndex& index, int64_t t, int64_t N) {
  const int32_t* const starts = index.words + CONV_INDEX_HEADER;
  const int64_t first = starts[t], end = starts[t + 1], num_bricks = index.num_blocks_c * index.num_blocks_o;
  const int64_t size = N == 0 ? 0 : num_bricks + 1 + divide_up(num_bricks * index.block_o, 2) + divide_up(N, 2) + N;
  if (first < CONV_INDEX_HEADER + index.T + 1 || end > starts[index.T] || end - first != size ||
      (N > 0 && index.words[first + num_bricks] != N)) {
    throw std::invalid_argument(std::string(op) + ": index does not hold the " + std::to_string(N) +
                                " weights that slot " + std::to_string(t) + " owns");
  }
}

int32_t ConvIndexBuilder::as_word(int64_t n) const {
  if (n > std::numeric_limits<int32_t>::max()) {
    throw std::invalid_argument(op_ + ": the index would have " + std::to_string(n) + " words, more than int32 counts");
  }
  return static_cast<int32_t>(n);
}

ConvIndexBuilder::ConvIndexBuilder(const char* op, int64_t T, int64_t O, int64_t K, int64_t P, int64_t Q) : op_(op) {
  if (P < 1 || Q < 1 || K % (P * Q) != 0) {
    throw std::invalid_argument(op_ + ": kernel_size [" + std::to_string(P) + ", " + std::to_string(Q) +
                                "] does not divide the " + std::to_string(K) + " columns of positions");
  }
  if (P * Q > std::numeric_limits<uint16_t>::max()) {
    throw std::invalid_argument(op_ + ": kernel_size must have at most 65535 positions, got " + std::to_string(P * Q));
  }
  C_ = K / (P * Q);
  block_c_ = conv_block(P * Q, C_);
  block_o_ = conv_block(P * Q, O);
  num_blocks_o_ = divide_up(O, block_o_);
  num_bricks_ = divide_up(C_, block_c_) * num_blocks_o_;
  words_ = {1, as_word(T), as_word(O), as_word(C_), as_word(P), as_word(Q), as_word(block_c_), as_word(block_o_)};
  words_.resize(static_cast<size_t>(CONV_INDEX_HEADER + T + 1));
  words_[CONV_INDEX_HEADER] = as_word(static_cast<int64_t>(words_.size()));
}

void ConvIndexBuilder::begin_slot(int64_t t, int64_t N) {
  if (N == 0) return;
  brick_starts_at_ = words_[CONV_INDEX_HEADER + t];
  row_counts_at_ = brick_starts_at_ + num_bricks_ + 1;
  columns_at_ = row_counts_at_ + divide_up(num_bricks_ * block_o_, 2);
  places_at_ = columns_at_ + divide_up(N, 2);
  as_word(places_at_ + N);
  words_.resize(static_cast<size_t>(places_at_ + N), 0);
}

void ConvIndexBuilder::begin_places() {
  next_.assign(static_cast<size_t>(num_bricks_ * block_o_), 0);
  const uint16_t* counts = row_counts();
  int32_t n = 0;
  for (int64_t row = 0; row < num_bricks_ * block_o_; ++row) {
    if (row % block_o_ == 0) words_[brick_starts_at_ + row / block_o_] = n;
    next_[row] = n;
    n += counts[row];
  }
  words_[brick_starts_at_ + num_bricks_] = n;
  next_value_ = 0;
}

}  // namespace rsn2
