// What the host sides of the CPU kernels share: positions, rows grouped by slot, scratch, debug counters.
// Torch-free, as all of csrc/cpu/ but ops/.
//
// Never included by the level files: std inline code must not be compiled with wider instructions.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "../errors.h"

namespace rsn2 {

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// ---- positions ----------------------------------------------------------------------------------------------------

constexpr int64_t TILE_ROWS = 16;
constexpr int64_t TILE_COLUMNS = 256;

// A view of the packed positions (rsn2_kernels/formats/packed.py describes the words). Making one reads only the first
// four words, so it costs the same however many slots there are.
struct Positions {
  int64_t T, O, K;       // slots, rows and columns of the matrix
  const int64_t* words;  // [num_words]
  int64_t num_words;
  const int64_t* word_starts;   // [T + 1]
  const int64_t* value_starts;  // [T + 1]

  int64_t num_values(int64_t t) const { return value_starts[t + 1] - value_starts[t]; }
  const int64_t* segment(int64_t t) const { return words + word_starts[t]; }
  int64_t num_segment_words(int64_t t) const { return word_starts[t + 1] - word_starts[t]; }
};

// Checks the header; throws ValueError.
Positions parse_positions(const char* op, const int64_t* words, int64_t num_words);

// Checks that slot t's segment lies inside positions and its values inside `num_values` values, and that the one is not
// too short for the other. Call it for the slots
// that occur, before reading them.
void check_slot(const char* op, const Positions& positions, int64_t t, int64_t num_values);

namespace detail {
inline int64_t short_at(const int64_t* words, int64_t i) {
  return static_cast<int64_t>((static_cast<uint64_t>(words[i / 4]) >> (16 * (i % 4))) & 0xffff);
}
}  // namespace detail

// Calls visit(row, column) for each weight that slot t owns, in value order: tile, then row, then column. Checks all
// that is read, so that visit gets num_values(t) pairs inside the matrix or a ValueError is thrown. Not for hot paths.
template <class Visit>
void for_each_owned(const char* op, const Positions& positions, int64_t t, const Visit& visit) {
  const int64_t num_words = positions.num_segment_words(t);
  if (num_words == 0) {
    check_value(positions.num_values(t) == 0, op, ": positions of slot ", t, " are empty, but it has values");
    return;
  }
  const int64_t* words = positions.segment(t);
  const int64_t spans = (positions.K + TILE_COLUMNS - 1) / TILE_COLUMNS;
  const int64_t num_tiles = (positions.O + TILE_ROWS - 1) / TILE_ROWS * spans;
  int64_t at = (num_tiles + 3) / 4;  // word of the next tile's payload
  check_value(at <= num_words, op, ": positions of slot ", t, " are truncated");
  int64_t num_visited = 0;
  for (int64_t tile = 0; tile < num_tiles; ++tile) {
    const int64_t n = detail::short_at(words, tile);
    if (n == 0) continue;
    const int64_t first_row = tile / spans * TILE_ROWS, first_column = tile % spans * TILE_COLUMNS;
    const int64_t rows = std::min(TILE_ROWS, positions.O - first_row);
    const int64_t columns = std::min(TILE_COLUMNS, positions.K - first_column);
    const int64_t words_as_bits = (rows * columns + 63) / 64, words_as_offsets = (n + 3) / 4;
    const bool as_offsets = words_as_offsets < words_as_bits;
    const int64_t payload_words = as_offsets ? words_as_offsets : words_as_bits;
    check_value(at + payload_words <= num_words, op, ": positions of slot ", t, " are truncated");
    const int64_t* payload = words + at;
    at += payload_words;
    int64_t num_in_tile = 0;
    if (as_offsets) {
      for (; num_in_tile < n; ++num_in_tile) {
        const int64_t offset = detail::short_at(payload, num_in_tile);
        const int64_t r = offset / TILE_COLUMNS, c = offset % TILE_COLUMNS;
        check_value(r < rows && c < columns, op, ": positions of slot ", t, " name a weight outside the matrix");
        visit(first_row + r, first_column + c);
      }
    } else {
      for (int64_t word = 0; word < payload_words; ++word) {
        for (uint64_t bits = static_cast<uint64_t>(payload[word]); bits != 0; bits &= bits - 1) {
          const int64_t j = word * 64 + __builtin_ctzll(bits);
          check_value(j < rows * columns && num_in_tile < n, op, ": positions of slot ", t, " have bits too many");
          visit(first_row + j / columns, first_column + j % columns);
          ++num_in_tile;
        }
      }
    }
    check_value(num_in_tile == n, op, ": positions of slot ", t, " have bits too few");
    num_visited += n;
  }
  check_value(num_visited == positions.num_values(t), op, ": positions of slot ", t, " name ", num_visited,
              " weights, but it has ", positions.num_values(t), " values");
}

// ---- rows grouped by slot -----------------------------------------------------------------------------------------

// The rows of one slot stand at begin .. end of the grouped order.
struct RowGroup {
  int64_t slot, begin, end;
};

// The batch's rows, grouped by slot; inside a group they keep their order in the batch.
struct RowGroups {
  std::vector<RowGroup> groups;  // ascending slots; only those that occur
  std::vector<int64_t> order;    // [B] batch row at each place; empty when that is the batch's own order

  int64_t row(int64_t place) const { return order.empty() ? place : order[place]; }
  const int64_t* rows() const { return order.empty() ? nullptr : order.data(); }  // nullptr: rows are in order
};

// The slot of each row of a batch, or the one slot of all of them.
struct SlotIds {
  const int64_t* ids;
  int64_t stride;  // in numbers
  bool is_one;
};

// Throws IndexError for an id outside 0 .. num_slots - 1. A counting sort, unless there are far more slots than rows; a
// batch in slot order needs none.
RowGroups group_rows(const char* op, const SlotIds& slots, int64_t num_rows, int64_t num_slots);

// The group of this slot's rows, nullptr when none has any.
const RowGroup* group_of(const RowGroups& rows, int64_t slot);

// ---- scratch ------------------------------------------------------------------------------------------------------

// Uninitialised memory for a kernel, aligned to a cache line and so to the widest vector. A thread keeps the blocks
// that it gives back, one for each that it has in use at once: malloc would put them into the holes that activations
// leave, the next activation would not fit there any more, and the heap would grow with every training step.
void* take_scratch(int64_t num_bytes);
void give_scratch_back(void* block) noexcept;

template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t size) : data_(static_cast<T*>(take_scratch(static_cast<int64_t>(sizeof(T)) * size))) {}
  T* data() { return data_.get(); }

 private:
  struct Free {
    void operator()(T* data) const { give_scratch_back(data); }
  };
  std::unique_ptr<T, Free> data_;
};

// ---- debug counters -----------------------------------------------------------------------------------------------

// Adds a call that read this many weights. Costs one load unless RSN2_DEBUG=1 (or set_counting) turned counting on.
void count_weights_read(const char* op, int64_t num_weights);

}  // namespace rsn2
