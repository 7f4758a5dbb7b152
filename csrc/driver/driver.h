// What the parts of the driver share: numbers in exactly sized blocks, packed stores for random masks, comparisons.
//
// The driver runs the core of csrc/cpu/ without torch, so that sanitizers and valgrind see nothing but the kernels and
// their host side. tools/check_native.py builds and runs it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "../cpu/host.h"

namespace rsn2::driver {

void set_num_threads(int64_t number);

// Both kinds of kernels number their dtypes like this.
enum Dtype { F32, F64, BF16, F16 };
constexpr const char* DTYPE_NAMES[] = {"float32", "float64", "bfloat16", "float16"};
constexpr int64_t bytes_of(Dtype dtype) { return dtype == F64 ? 8 : dtype == F32 ? 4 : 2; }
constexpr Dtype sum_dtype(Dtype values) { return values == F64 ? F64 : F32; }

// Images or rows, and the values beside them.
struct Dtypes {
  Dtype data, values;
};
constexpr Dtypes DTYPES[] = {{F32, F32}, {F64, F64}, {BF16, F32}, {F16, F32}, {BF16, BF16}, {F16, F16}};

class Random {  // splitmix64
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t bits();
  double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }  // [0, 1)
  int64_t below(int64_t n) { return static_cast<int64_t>(bits() % static_cast<uint64_t>(n)); }

 private:
  uint64_t state_;
};

// Numbers in a heap block of exactly their size: reading a byte more is an error that ASan and valgrind see. A new one
// is filled with NaN, so that an element that nobody wrote is seen.
class Block {
 public:
  Block(Dtype dtype, int64_t size);
  void fill(Random& random);  // with numbers in -1 .. 1, rounded to dtype
  double get(int64_t i) const;
  void set(int64_t i, double number);
  void* data() const { return data_.get(); }
  int64_t size() const { return size_; }
  Dtype dtype() const { return dtype_; }
  bool same_bits(const Block& other) const;

 private:
  Dtype dtype_;
  int64_t size_;
  std::unique_ptr<char[]> data_;
};

// An array [n0, n1, n2, n3] of numbers somewhere in a block: a matrix has one pixel, n2 = n3 = 1.
struct Array {
  int64_t size[4], stride[4];
  Block block;
  int64_t at(int64_t i, int64_t j, int64_t k = 0, int64_t l = 0) const {
    return i * stride[0] + j * stride[1] + k * stride[2] + l * stride[3];
  }
  double get(int64_t i, int64_t j, int64_t k = 0, int64_t l = 0) const { return block.get(at(i, j, k, l)); }
};

enum Layout { CONTIGUOUS, CHANNELS_LAST, STRIDED, NUM_LAYOUTS };  // strided: gaps between all neighbours
constexpr const char* LAYOUT_NAMES[] = {"contiguous", "channels_last", "strided"};
Array make_array(Dtype dtype, Layout layout, int64_t n0, int64_t n1, int64_t n2 = 1, int64_t n3 = 1);

// ---- packed stores --------------------------------------------------------------------------------------------------

struct Weight {
  int64_t row, column;
};

template <class T>
struct Words {  // an exactly sized copy
  explicit Words(const std::vector<T>& from);
  std::unique_ptr<T[]> data;
  int64_t size;
};

// The weights of all slots as rsn2_kernels/formats/packed.py describes them.
struct Store {
  Store(Dtype dtype, int64_t T, int64_t O, int64_t K, std::vector<std::vector<Weight>> owned);
  Positions view(const char* op) const { return parse_positions(op, positions.data.get(), positions.size); }
  int64_t num_owned(int64_t t) const { return static_cast<int64_t>(owned[t].size()); }
  double value(int64_t t, int64_t n) const { return values.get(first[t] + n); }

  int64_t T, O, K;
  std::vector<std::vector<Weight>> owned;  // in value order
  std::vector<int64_t> first;              // place of each slot's first value
  Words<int64_t> positions;
  Block values;
};

// Every weight belongs to one of the slots that own something, each with probability keep, or to nobody.
Store random_store(Random& random, Dtype dtype, int64_t T, int64_t O, int64_t K, double keep,
                   const std::vector<int64_t>& owning_nothing);
// The same weights of slot t, nothing of the others.
Store only(const Store& store, int64_t t);

// ---- who may be read ------------------------------------------------------------------------------------------------

// While it lives, memory from begin to end may be touched by nobody: an error under ASan and valgrind, else no effect.
class Forbidden {
 public:
  Forbidden(const void* begin, const void* end);
  ~Forbidden();
  Forbidden(const Forbidden&) = delete;
  Forbidden& operator=(const Forbidden&) = delete;

 private:
  const char* begin_;
  int64_t size_;
};
using Forbiddens = std::vector<std::unique_ptr<Forbidden>>;
// Values and positions of all slots, and their parts of an index, but slot t's values and index.
Forbiddens forbid_others(const Store& store, const int32_t* index, const int32_t* segment_starts, int64_t t);

// ---- comparing ------------------------------------------------------------------------------------------------------

// A sum in double and what its error is measured by.
struct Exact {
  double sum = 0, magnitude = 0;  // magnitude: sum of the terms' absolute values
  int64_t num_terms = 0;
  void add(double term) {
    sum += term;
    magnitude += term < 0 ? -term : term;
    ++num_terms;
  }
  void relu() { sum = sum > 0 ? sum : 0; }  // brings no two numbers further apart
};

// Prints and counts it when `got` is further from the exact sum than summing in any order and rounding can bring it.
void expect_sum(const std::string& what, double got, const Exact& exact, Dtype sums, Dtype result);
void expect(bool ok, const std::string& what);
int64_t num_failures();

// The case in hand, printed in front of failures.
void set_case(const std::string& name);

// The slot of each row: of one slot, or mixed.
struct Batch {
  Batch(Random& random, int64_t T, int64_t B, bool is_one, int64_t slot);
  int64_t slot(int64_t row) const { return ids.data[is_one ? 0 : 2 * row]; }
  SlotIds view() const { return {ids.data.get(), 2, is_one}; }
  bool is_one;
  Words<int64_t> ids;  // every other word
};

// ---- the cases ------------------------------------------------------------------------------------------------------

// Runs everything at the level in use with each number of threads; is_small leaves out what takes long. Returns
// the number of cases.
int64_t check_linear(const std::vector<int64_t>& threads, bool is_small);
int64_t check_conv2d(const std::vector<int64_t>& threads, bool is_small);
void check_grad_bias(const Array& grad_y, const Batch& batch, int64_t T, const std::vector<int64_t>& threads);

// Positions with words changed at random make an index or a ValueError, whatever the number of threads.
int64_t check_damaged_positions(const std::vector<int64_t>& threads, bool is_small);

// Copies of a slot's part of the index that end where the kernels may no longer read.
int64_t check_segments(const std::vector<int64_t>& threads, bool is_small);

// One call of a headline kernel; returns how many weights it read and with how many vectors each.
double count_linear();
double count_linear_grad_values();
double count_conv2d();

}  // namespace rsn2::driver
