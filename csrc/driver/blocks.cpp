// Numbers in exactly sized blocks, memory that may not be touched, and comparing.
#include <cmath>
#include <cstdio>
#include <cstring>

#include "../cpu/task_conv2d_numbers.h"
#include "driver.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define RSN2_ASAN
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(RSN2_ASAN)
#include <sanitizer/asan_interface.h>
#define RSN2_FORBID(begin, size) ASAN_POISON_MEMORY_REGION(begin, size)
#define RSN2_ALLOW(begin, size) ASAN_UNPOISON_MEMORY_REGION(begin, size)
#elif defined(__has_include) && __has_include(<valgrind/memcheck.h>)
#include <valgrind/memcheck.h>
#define RSN2_FORBID(begin, size) VALGRIND_MAKE_MEM_NOACCESS(begin, size)
#define RSN2_ALLOW(begin, size) VALGRIND_MAKE_MEM_DEFINED(begin, size)
#else
#define RSN2_FORBID(begin, size) ((void)(begin), (void)(size))
#define RSN2_ALLOW(begin, size) ((void)(begin), (void)(size))
#endif

namespace rsn2::driver {
namespace {

std::string case_name;
int64_t failures = 0;

double unit_of(Dtype dtype) {  // the relative error of rounding
  return dtype == F64 ? 0x1p-53 : dtype == F32 ? 0x1p-24 : dtype == BF16 ? 0x1p-8 : 0x1p-11;
}
double least_of(Dtype dtype) {  // half of the smallest subnormal
  return dtype == F64 ? 0 : dtype == F16 ? 0x1p-25 : dtype == F32 ? 0x1p-150 : 0x1p-134;
}
double gamma(int64_t n, double unit) { return static_cast<double>(n) * unit / (1 - static_cast<double>(n) * unit); }

}  // namespace

Block::Block(Dtype dtype, int64_t size)
    : dtype_(dtype), size_(size), data_(new char[static_cast<size_t>(size * bytes_of(dtype))]) {
  std::memset(data_.get(), 0xff, static_cast<size_t>(size * bytes_of(dtype)));
}

void Block::fill(Random& random) {
  for (int64_t i = 0; i < size_; ++i) set(i, 2 * random.uniform() - 1);
}

double Block::get(int64_t i) const {
  switch (dtype_) {
    case F64: return reinterpret_cast<const double*>(data_.get())[i];
    case F32: return reinterpret_cast<const float*>(data_.get())[i];
    case BF16: return as_sum(reinterpret_cast<const ConvBFloat16*>(data_.get())[i]);
    default: return as_sum(reinterpret_cast<const ConvFloat16*>(data_.get())[i]);
  }
}

void Block::set(int64_t i, double number) {
  switch (dtype_) {
    case F64: return from_sum(number, reinterpret_cast<double*>(data_.get())[i]);
    case F32: return from_sum(static_cast<float>(number), reinterpret_cast<float*>(data_.get())[i]);
    case BF16: return from_sum(static_cast<float>(number), reinterpret_cast<ConvBFloat16*>(data_.get())[i]);
    case F16: return from_sum(static_cast<float>(number), reinterpret_cast<ConvFloat16*>(data_.get())[i]);
  }
}

bool Block::same_bits(const Block& other) const {
  return size_ == other.size_ && std::memcmp(data(), other.data(), static_cast<size_t>(size_ * bytes_of(dtype_))) == 0;
}

Array make_array(Dtype dtype, Layout layout, int64_t n0, int64_t n1, int64_t n2, int64_t n3) {
  Array array{{n0, n1, n2, n3}, {n1 * n2 * n3, n2 * n3, n3, 1}, Block(dtype, 0)};
  const int64_t channels_last[4] = {n1 * n2 * n3, 1, n3 * n1, n1};
  // A matrix has no channels to put last; its columns stand side by side instead.
  const int64_t columns_first[4] = {1, n0, 1, 1};
  const int64_t strided[4] = {((n1 + 1) * (n2 + 1)) * (2 * n3 + 3) + 1, (n2 + 1) * (2 * n3 + 3), 2 * n3 + 3, 2};
  const int64_t strided_rows[4] = {2 * n1 + 3, 2, 1, 1};
  const bool is_matrix = n2 * n3 == 1;
  const int64_t* const chosen =
      layout == CHANNELS_LAST ? (is_matrix ? columns_first : channels_last) : (is_matrix ? strided_rows : strided);
  if (layout != CONTIGUOUS) std::copy(chosen, chosen + 4, array.stride);
  const bool is_empty = n0 * n1 * n2 * n3 == 0;
  array.block = Block(dtype, is_empty ? 0 : array.at(n0 - 1, n1 - 1, n2 - 1, n3 - 1) + 1);
  return array;
}

Forbidden::Forbidden(const void* begin, const void* end)
    : begin_(static_cast<const char*>(begin)), size_(static_cast<const char*>(end) - begin_) {
  RSN2_FORBID(begin_, static_cast<size_t>(size_));
}
Forbidden::~Forbidden() { RSN2_ALLOW(begin_, static_cast<size_t>(size_)); }

void set_case(const std::string& name) { case_name = name; }

void expect(bool ok, const std::string& what) {
  if (ok) return;
  if (++failures <= 50) std::printf("FAILED %s: %s\n", case_name.c_str(), what.c_str());
}

// A term is rounded when it is made and at most once for each addition after it (Higham, Accuracy and Stability of
// Numerical Algorithms, 4.2), by us and by the sum we compare with; then the result is rounded once.
void expect_sum(const std::string& what, double got, const Exact& exact, Dtype sums, Dtype result) {
  const double summing =
      (gamma(exact.num_terms, unit_of(sums)) + gamma(exact.num_terms, unit_of(F64))) * exact.magnitude;
  const double bound = summing + unit_of(result) * (std::fabs(exact.sum) + summing) + least_of(result);
  if (std::fabs(got - exact.sum) <= bound) return;  // false for NaN
  char text[200];
  std::snprintf(text, sizeof(text), " is %.17g, exact %.17g, error %.3g, bound %.3g", got, exact.sum,
                std::fabs(got - exact.sum), bound);
  expect(false, what + text);
}

int64_t num_failures() { return failures; }

}  // namespace rsn2::driver
