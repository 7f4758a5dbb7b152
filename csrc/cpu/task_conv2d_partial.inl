// Loads and stores of part of a vector.

RSN2_INLINE uint32_t bits_between(int64_t first, int64_t end) {  // bits first .. end - 1, 0 <= first, end <= 16
  return end <= first ? 0 : ((1u << end) - 1) & ~((1u << first) - 1);
}

// The elements whose bit of mask is set; zero elsewhere, where nothing is read.
template <typename A, typename E>
RSN2_INLINE Vec<A> load_masked(const E* from, uint32_t mask) {
  E part[kLanes<A>];
  __builtin_memset(part, 0, sizeof(part));
  for (int l = 0; l < kLanes<A>; ++l) {
    if (mask >> l & 1) part[l] = from[l];
  }
  return load_as<A, E>(part);
}

#if RSN2_VECTOR_BYTES == 64 && defined(__AVX512BW__)
template <>
inline __attribute__((always_inline)) Vec<float> load_masked<float, float>(const float* from, uint32_t mask) {
  return Vec<float>(_mm512_maskz_loadu_ps(__mmask16(mask), from));
}
template <>
inline __attribute__((always_inline)) Vec<double> load_masked<double, double>(const double* from, uint32_t mask) {
  return Vec<double>(_mm512_maskz_loadu_pd(__mmask8(mask), from));
}
template <>
inline __attribute__((always_inline)) Vec<float> load_masked<float, BFloat16>(const BFloat16* from, uint32_t mask) {
  return widen_bfloat16(bit_cast<HalfVecU16>(_mm256_maskz_loadu_epi16(__mmask16(mask), from)));
}
template <>
inline __attribute__((always_inline)) Vec<float> load_masked<float, Float16>(const Float16* from, uint32_t mask) {
  return widen_float16(bit_cast<HalfVecU16>(_mm256_maskz_loadu_epi16(__mmask16(mask), from)));
}
RSN2_INLINE void store_masked(float* to, Vec<float> v, uint32_t mask) {
  _mm512_mask_storeu_ps(to, __mmask16(mask), __m512(v));
}
RSN2_INLINE void store_masked(double* to, Vec<double> v, uint32_t mask) {
  _mm512_mask_storeu_pd(to, __mmask8(mask), __m512d(v));
}
RSN2_INLINE void store_masked(BFloat16* to, Vec<float> v, uint32_t mask) {
  _mm256_mask_storeu_epi16(to, __mmask16(mask), bit_cast<__m256i>(narrow_bfloat16(v)));
}
RSN2_INLINE void store_masked(Float16* to, Vec<float> v, uint32_t mask) {
  _mm256_mask_storeu_epi16(to, __mmask16(mask), bit_cast<__m256i>(narrow_float16(v)));
}
// The first n elements, or all of them.
template <typename A, typename E>
RSN2_INLINE void store_first(E* to, A v, int64_t n) {
  constexpr int L = int(sizeof(A) / sizeof(v[0]));
  store_masked(to, v, bits_between(0, n < L ? n : L));
}
#else
#if RSN2_VECTOR_BYTES == 32 && defined(__AVX2__)
template <>
inline __attribute__((always_inline)) Vec<float> load_masked<float, float>(const float* from, uint32_t mask) {
  const VecI32 lanes = (VecI32{} + int32_t(mask)) >> VecI32{0, 1, 2, 3, 4, 5, 6, 7} & 1;
  return Vec<float>(_mm256_maskload_ps(from, __m256i(-lanes)));
}
template <>
inline __attribute__((always_inline)) Vec<double> load_masked<double, double>(const double* from, uint32_t mask) {
  typedef typename MaskOf<double>::type VecI64;
  const VecI64 lanes = (VecI64{} + int64_t(mask)) >> VecI64{0, 1, 2, 3} & 1;
  return Vec<double>(_mm256_maskload_pd(from, __m256i(-lanes)));
}
#endif
template <typename A, typename E>
RSN2_INLINE void store_first(E* to, A v, int64_t n) {
  constexpr int L = int(sizeof(A) / sizeof(v[0]));
  if (n >= L) {
    store_as(to, v);
    return;
  }
  E part[L];
  store_as(part, v);
  for (int64_t l = 0; l < n; ++l) to[l] = part[l];
}
#endif
