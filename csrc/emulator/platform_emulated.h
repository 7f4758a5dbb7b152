// platform.h for a C++ compiler: what platform_cuda.h does by instructions, by the emulator.
#pragma once

#include <string.h>

#include "emulator.h"
#include "numbers.h"

#define RSN2_DEVICE inline
#define RSN2_HOST_DEVICE inline
#define RSN2_UNROLL
#define RSN2_NO_UNROLL

namespace rsn2 {

inline int thread_index() { return emulator::thread_index(); }
inline int num_threads() { return emulator::num_threads(); }
inline int64_t block_index() { return emulator::block_index(); }
inline int64_t num_blocks() { return emulator::num_blocks(); }
inline char* shared_memory() { return emulator::shared_memory(); }
template <typename T>
inline T* in_global(T* pointer) {
  return pointer;
}
inline void sync_threads() { emulator::sync_threads(); }
inline void sync_warp() { emulator::exchange(nullptr, 0); }

template <typename T>
inline T shuffle(T value, int from) {
  T result;
  memcpy(&result, emulator::exchange(&value, sizeof(T)).of_lane(from & 31), sizeof(T));
  return result;
}
template <typename T>
inline T shuffle_xor(T value, int mask) {
  return shuffle(value, (emulator::thread_index() & 31) ^ mask);
}
template <typename T>
inline T shuffle_up(T value, int distance) {
  const int lane = emulator::thread_index() & 31;
  return shuffle(value, lane < distance ? lane : lane - distance);
}
inline uint32_t match_any(uint32_t value) {
  const emulator::Lanes all = emulator::exchange(&value, sizeof(value));
  uint32_t mask = 0;
  for (int l = 0; l < 32; ++l) mask |= uint32_t(memcmp(all.of_lane(l), &value, sizeof(value)) == 0) << l;
  return mask;
}
inline uint32_t ballot(bool vote) {
  const uint32_t same = match_any(vote);
  return vote ? same : ~same;
}
inline int count_bits(uint32_t bits) { return __builtin_popcount(bits); }
inline int lowest_bit(uint32_t bits) { return __builtin_ffs(int(bits)) - 1; }

inline int atomic_add_shared(int* counter, int more) {
  const int before = *counter;
  *counter += more;
  return before;
}
inline void fail(const char* what) { emulator::fail(what); }

template <typename A, typename E>
struct Convert {
  static A from(E x) { return to_float(x); }
};
template <>
struct Convert<double, double> {
  static double from(double x) { return x; }
};
template <>
struct Convert<BFloat16, float> {
  static BFloat16 from(float x) { return round_to_bfloat16(x); }
};
template <>
struct Convert<Float16, float> {
  static Float16 from(float x) { return round_to_float16(x); }
};

inline void load_matrices(const void* row, uint32_t (&out)[4]) { emulator::load_matrices(row, false, out); }
inline void load_matrices_transposed(const void* row, uint32_t (&out)[4]) { emulator::load_matrices(row, true, out); }

template <typename E>
inline void multiply_16x8x16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  emulator::multiply(d, a, b, [](uint32_t two, int i) { return to_float(E{uint16_t(two >> (16 * i))}); }, 2);
}
inline void multiply_16x8x8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  emulator::multiply(d, a, b, [](uint32_t one, int) { return float_of_bits(one & 0xffffe000u); }, 1);
}

inline void copy_async(void* shared, const void* global, bool is_there) {
  emulator::copy_async(shared, global, is_there);
}
inline void commit_copies() { emulator::commit_copies(); }
template <int left>
inline void wait_for_copies() {
  emulator::wait_for_copies(left);
}

}  // namespace rsn2
