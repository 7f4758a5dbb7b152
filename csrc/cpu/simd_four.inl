// Four neighbouring weights by one load, each of which can then be broadcast; and four sums over lanes at a time.

#define RSN2_ALWAYS inline __attribute__((always_inline))

// Four weights of type E in memory. Loads bound the kernels: one fetches all four, and the shuffles that broadcast each
// cost nothing beside the loads of the tile.
template <typename A, typename E>
struct Four {
  const E* from;
  explicit RSN2_ALWAYS Four(const E* p) : from(p) {}
  template <int I>
  RSN2_ALWAYS Vec<A> weight() const {
    return broadcast<A>(load_one<A, E>(from + I));
  }
};
#if RSN2_VECTOR_BYTES > 16  // else a shuffle costs as much as the load
typedef float Float4 __attribute__((vector_size(16)));
typedef uint16_t U16x4 __attribute__((vector_size(8)));
typedef uint32_t U32x4 __attribute__((vector_size(16)));

RSN2_INLINE Float4 load_float4(const float* from) {
  Float4 v;
  __builtin_memcpy(&v, from, sizeof(v));
  return v;
}
RSN2_INLINE Float4 load_float4(const BFloat16* from) {
  U16x4 h;
  __builtin_memcpy(&h, from, sizeof(h));
  return bit_cast<Float4>(__builtin_convertvector(h, U32x4) << 16);
}
RSN2_INLINE Float4 load_float4(const Float16* from) {
  return bit_cast<Float4>(_mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
}

// The four of them in each quarter of a vector.
RSN2_INLINE Vec<float> repeat(Float4 v) {
#if RSN2_VECTOR_BYTES == 64
  return bit_cast<Vec<float>>(_mm512_maskz_broadcast_f32x4(0xffff, bit_cast<__m128>(v)));
#else
  return bit_cast<Vec<float>>(_mm256_set_m128(bit_cast<__m128>(v), bit_cast<__m128>(v)));
#endif
}

// Lane I of each quarter, in all of the quarter.
template <int I, int... L>
RSN2_INLINE Vec<float> quarter_lane(Vec<float> v, Lanes<L...>) {
#if defined(__clang__)
  return __builtin_shufflevector(v, v, ((L & ~3) + I)...);
#else
  return __builtin_shuffle(v, VecI32{((L & ~3) + I)...});
#endif
}

template <typename E>
struct Four<float, E> {
  Vec<float> repeated;
  explicit RSN2_ALWAYS Four(const E* p) : repeated(repeat(load_float4(p))) {}
  template <int I>
  RSN2_ALWAYS Vec<float> weight() const {
    return quarter_lane<I>(repeated, FirstLanes<kLanes<float>>());
  }
};
#endif

// to[j] = or += the sum of all lanes of v[j], j in 0 .. 3. Every j adds its lanes in the same order. Overwrites v.
template <typename A>
RSN2_INLINE void put_four_sums(Vec<A>* v, bool is_first, A* to) {
  constexpr int L = kLanes<A>;
  if constexpr (L == 2) {
    for (int half = 0; half < 2; ++half) {
      const Vec<A> sum = Butterfly<A, 1>::sum(v + 2 * half);
      store<A>(to + 2 * half, is_first ? sum : load<A>(to + 2 * half) + sum);
    }
  } else {
    typedef A Sums __attribute__((vector_size(4 * sizeof(A))));
    const Vec<A> partial = Butterfly<A, 2>::sum(v);  // four sums over some lanes in each quarter
    Sums quarter[L / 4];
    __builtin_memcpy(quarter, &partial, sizeof(partial));
    RSN2_UNROLL
    for (int step = L / 8; step > 0; step /= 2) {
      for (int q = 0; q < step; ++q) quarter[q] += quarter[q + step];
    }
    Sums before = {};
    if (!is_first) __builtin_memcpy(&before, to, sizeof(before));
    quarter[0] = is_first ? quarter[0] : before + quarter[0];
    __builtin_memcpy(to, &quarter[0], sizeof(Sums));
  }
}
