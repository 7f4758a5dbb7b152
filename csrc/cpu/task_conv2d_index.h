// The convolution's index: for each slot its owned weights in an order in which a block of them works on a few
// channels, whose pixels stay in the first-level cache, and which serves the products both ways. Torch-free.
//
// The matrix [O, (kernel position, C)] is cut into bricks of block_o output channels x block_c input channels x all
// kernel positions. A slot's weights stand brick after brick (input channel block major), in a brick by output channel,
// then by column. int32 words:
//   0..7        1 (version), T, O, C, P, Q, block_c, block_o
//   8..8+T      segment_starts[T + 1], in words
// Segment of a slot (none if it owns nothing), num_bricks = ceil(C / block_c) * ceil(O / block_o):
//   brick_starts[num_bricks + 1]                 first weight of each brick
//   row_counts[num_bricks * block_o]   uint16    weights of each output channel in the brick
//   columns[N]                         uint16    kernel position * block_c + input channel in the block
//   places[N]                                    where the weight's value is among the slot's values
// uint16 parts are padded to whole words.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

namespace rsn2 {

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct ConvIndex {
  int64_t T, O, C, P, Q, block_c, block_o;
  int64_t num_blocks_c, num_blocks_o;
  const int32_t* words;

  struct Slot {
    int64_t N;  // 0: nothing else is set
    const int32_t* brick_starts;
    const uint16_t* row_counts;
    const uint16_t* columns;
    const int32_t* places;
  };
  Slot slot(int64_t t) const;
  int64_t brick(int64_t c_block, int64_t o_block) const { return c_block * num_blocks_o + o_block; }
};

constexpr int64_t CONV_INDEX_HEADER = 8;

// Channels per block: about 150 columns, few enough for the first-level cache, enough to be worth loading the sums.
inline int64_t conv_block(int64_t num_positions, int64_t num_channels) {
  int64_t block = 64;
  while (block > 1 && block * num_positions > 208) block /= 2;
  return std::max<int64_t>(1, std::min(block, num_channels));
}

// Checks the header against the number of words; throws std::invalid_argument.
ConvIndex parse_conv_index(const char* op, const int32_t* words, int64_t num_words);

// Checks that the index holds N weights of slot t, inside its words; throws std::invalid_argument. Call it before
// slot(t).
void check_conv_slot(const char* op, const ConvIndex& index, int64_t t, int64_t N);

// Makes the index. for_each_owned(t, visit) calls visit(row, column) in value order; it is called twice per slot.
class ConvIndexBuilder {
 public:
  ConvIndexBuilder(const char* op, int64_t T, int64_t O, int64_t K, int64_t P, int64_t Q);

  template <class ForEachOwned>
  void add_slot(int64_t t, int64_t N, const ForEachOwned& for_each_owned) {
    begin_slot(t, N);
    if (N > 0) {
      for_each_owned(t, [&](int64_t o, int64_t k) { count(o, k); });
      begin_places();
      for_each_owned(t, [&](int64_t o, int64_t k) { place(o, k); });
    }
    words_[CONV_INDEX_HEADER + t + 1] = as_word(static_cast<int64_t>(words_.size()));
  }
  const std::vector<int32_t>& words() const { return words_; }

 private:
  void begin_slot(int64_t t, int64_t N);
  void begin_places();
  int32_t as_word(int64_t n) const;
  int64_t row_of(int64_t o, int64_t c) const {  // rows of bricks, in the order of the index
    return ((c / block_c_) * num_blocks_o_ + o / block_o_) * block_o_ + o % block_o_;
  }
  void count(int64_t o, int64_t k) { ++row_counts()[row_of(o, k % C_)]; }
  void place(int64_t o, int64_t k) {
    const int64_t position = k / C_, c = k % C_, at = next_[row_of(o, c)]++;
    columns()[at] = static_cast<uint16_t>(position * block_c_ + c % block_c_);
    words_[places_at_ + at] = next_value_++;
  }
  uint16_t* row_counts() { return reinterpret_cast<uint16_t*>(words_.data() + row_counts_at_); }
  uint16_t* columns() { return reinterpret_cast<uint16_t*>(words_.data() + columns_at_); }

  std::string op_;
  int64_t C_, block_c_, block_o_, num_blocks_o_, num_bricks_;
  int64_t brick_starts_at_ = 0, row_counts_at_ = 0, columns_at_ = 0, places_at_ = 0;
  int32_t next_value_ = 0;
  std::vector<int32_t> words_, next_;  // next_: the place of each brick row's next weight
};

}  // namespace rsn2
