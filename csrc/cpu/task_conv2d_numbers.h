// Values of any dtype and the type sums are held in: as_sum(value), from_sum(sum, value). Torch-free.
#pragma once

#include <cstdint>

namespace rsn2 {

struct ConvBFloat16 {
  uint16_t bits;
};
struct ConvFloat16 {
  uint16_t bits;
};

inline float as_sum(float v) { return v; }
inline double as_sum(double v) { return v; }

inline float as_sum(ConvBFloat16 v) {
  const uint32_t bits = static_cast<uint32_t>(v.bits) << 16;
  float result;
  __builtin_memcpy(&result, &bits, sizeof(result));
  return result;
}

inline float as_sum(ConvFloat16 v) {
  const uint32_t sign = (v.bits & 0x8000u) << 16, exponent = v.bits >> 10 & 31, fraction = v.bits & 0x3ffu;
  uint32_t bits = sign | (exponent + 112) << 23 | fraction << 13;
  if (exponent == 31) bits = sign | 0x7f800000u | fraction << 13;
  float result;
  __builtin_memcpy(&result, &bits, sizeof(result));
  if (exponent == 0) result = (sign != 0 ? -1.0f : 1.0f) * static_cast<float>(fraction) * 0x1p-24f;
  return result;
}

// To nearest, ties to even.
inline void from_sum(float v, float& to) { to = v; }
inline void from_sum(double v, double& to) { to = v; }

inline void from_sum(float v, ConvBFloat16& to) {
  uint32_t bits;
  __builtin_memcpy(&bits, &v, sizeof(bits));
  to.bits = static_cast<uint16_t>(v != v ? bits >> 16 | 0x40u : (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

inline void from_sum(float v, ConvFloat16& to) {
  uint32_t bits;
  __builtin_memcpy(&bits, &v, sizeof(bits));
  const uint32_t sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u | (magnitude >> 13 & 0x3ffu);
  } else if (magnitude >= 0x477ff000u) {  // 65520 and above round to infinity
    half = 0x7c00u;
  } else if (magnitude < 113u << 23) {  // adding 0.5 puts the unit of a subnormal half into the last bit of the sum
    float sum;
    __builtin_memcpy(&sum, &magnitude, sizeof(sum));
    sum += 0.5f;
    __builtin_memcpy(&half, &sum, sizeof(half));
    half -= 0x3f000000u;
  } else {
    half = (magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  }
  to.bits = static_cast<uint16_t>(half | sign);
}

}  // namespace rsn2
