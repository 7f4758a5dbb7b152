// 16-bit numbers and TF32 for the emulator.
#pragma once

#include <stdint.h>
#include <string.h>

namespace rsn2 {

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

inline float float_of_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof(x));
  return x;
}
inline uint32_t bits_of_float(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof(bits));
  return bits;
}

inline float to_float(float x) { return x; }
inline float to_float(BFloat16 x) { return float_of_bits(uint32_t(x.bits) << 16); }
inline float to_float(Float16 x) {
  const uint32_t sign = uint32_t(x.bits & 0x8000u) << 16, exponent = x.bits >> 10 & 31u, fraction = x.bits & 1023u;
  if (exponent == 31) return float_of_bits(sign | 0x7f800000u | fraction << 13);
  if (exponent == 0) {  // subnormal: fraction * 2^-24, exact in float
    const float size = float(fraction) * float_of_bits(0x33800000u);
    return sign ? -size : size;
  }
  return float_of_bits(sign | (exponent + 112) << 23 | fraction << 13);
}

inline BFloat16 round_to_bfloat16(float x) {
  const uint32_t bits = bits_of_float(x);
  if (x != x) return {uint16_t(0x7fff)};
  return {uint16_t((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
}

inline Float16 round_to_float16(float x) {
  const uint32_t bits = bits_of_float(x), sign = bits >> 16 & 0x8000u, size = bits & 0x7fffffffu;
  if (x != x) return {uint16_t(0x7fff)};
  if (size >= 0x47800000u) return {uint16_t(sign | 0x7c00u)};  // 2^16 and more
  if (size < 0x38800000u) {  // below 2^-14: a multiple of 2^-24, rounded by an addition
    const uint32_t rounded = bits_of_float(float_of_bits(size) + 0.5f) - bits_of_float(0.5f);
    return {uint16_t(sign | rounded)};
  }
  return {uint16_t(sign | (size - 0x38000000u + 0xfffu + (size >> 13 & 1u)) >> 13)};
}

inline uint32_t to_tf32(float x) {
  const uint32_t bits = bits_of_float(x);
  return (bits & 0x7f800000u) == 0x7f800000u ? bits : (bits + 0x1000u) & 0xffffe000u;
}

}  // namespace rsn2
