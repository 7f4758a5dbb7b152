// Vectors for the CPU kernels, on GCC's and Clang's vector extensions, so that one source serves every level.
//
// A level's file defines RSN2_VECTOR_BYTES (64, 32 or 16), includes <stdint.h>, opens its own namespace and includes
// this file inside it. No std or torch header may appear here: code shared between levels would be compiled with the
// wider instructions and run on machines that lack them.
//
// Names: A is the type sums are held in (float or double), E the type of an element in memory.

#define RSN2_INLINE static inline __attribute__((always_inline))

#if defined(__clang__)
#define RSN2_UNROLL _Pragma("clang loop unroll(full)")
#else
#define RSN2_UNROLL _Pragma("GCC unroll 32")
#endif

// ---------------------------------------------------------------------------------------------- types

template <typename A>
struct VectorOf {
  typedef A type __attribute__((vector_size(RSN2_VECTOR_BYTES)));
};
template <typename A>
using Vec = typename VectorOf<A>::type;  // kLanes<A> numbers

template <typename A>
constexpr int kLanes = RSN2_VECTOR_BYTES / int(sizeof(A));

typedef uint32_t VecU32 __attribute__((vector_size(RSN2_VECTOR_BYTES)));
typedef int32_t VecI32 __attribute__((vector_size(RSN2_VECTOR_BYTES)));
typedef uint16_t HalfVecU16 __attribute__((vector_size(RSN2_VECTOR_BYTES / 2)));  // kLanes<float> 16-bit words

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

template <typename E>
struct SumOf {
  typedef float type;
};
template <>
struct SumOf<double> {
  typedef double type;
};
template <typename E>
using Sum = typename SumOf<E>::type;  // the type in which numbers of type E are added up

// ---------------------------------------------------------------------------------------------- loads and stores

template <typename V, typename P>
RSN2_INLINE V bit_cast(const P& from) {
  static_assert(sizeof(V) == sizeof(P), "bit_cast keeps the size");
  V to;
  __builtin_memcpy(&to, &from, sizeof(V));
  return to;
}

template <typename A>
RSN2_INLINE Vec<A> load(const A* from) {  // any alignment
  Vec<A> v;
  __builtin_memcpy(&v, from, sizeof(v));
  return v;
}

template <typename A>
RSN2_INLINE void store(A* to, Vec<A> v) {  // any alignment
  __builtin_memcpy(to, &v, sizeof(v));
}

template <typename A>
RSN2_INLINE Vec<A> broadcast(A a) {
  return a - Vec<A>{};  // not 0 + a, which would turn -0 into +0
}

template <typename A>
RSN2_INLINE Vec<A> positive_part(Vec<A> v) {  // ReLU; a NaN stays NaN, as in torch
  return v < Vec<A>{} ? Vec<A>{} : v;
}

// ---------------------------------------------------------------------------------------------- 16-bit numbers

RSN2_INLINE Vec<float> widen_bfloat16(HalfVecU16 h) {
  return bit_cast<Vec<float>>(__builtin_convertvector(h, VecU32) << 16);
}

RSN2_INLINE HalfVecU16 narrow_bfloat16(Vec<float> v) {  // to nearest, ties to even
  const VecU32 bits = bit_cast<VecU32>(v);
  const VecU32 rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const VecU32 result = v == v ? rounded : (bits >> 16) | 0x40u;
  return __builtin_convertvector(result, HalfVecU16);
}

RSN2_INLINE Vec<float> widen_float16(HalfVecU16 h) {
  const VecU32 bits = __builtin_convertvector(h, VecU32);
  // The exponent is moved by a multiplication, which also turns subnormal halves into normal floats.
  const Vec<float> scaled = bit_cast<Vec<float>>((bits & 0x7fffu) << 13) * 0x1p112f;
  const VecU32 magnitude = bit_cast<VecU32>(scaled);
  const VecU32 special = (bits & 0x7c00u) == 0x7c00u ? magnitude | 0x7f800000u : magnitude;  // infinity, NaN
  return bit_cast<Vec<float>>(special | ((bits & 0x8000u) << 16));
}

RSN2_INLINE HalfVecU16 narrow_float16(Vec<float> v) {  // to nearest, ties to even
  const VecU32 bits = bit_cast<VecU32>(v);
  const VecU32 sign = (bits >> 16) & 0x8000u;
  const VecU32 magnitude = bits & 0x7fffffffu;
  const VecU32 normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  // Adding 0.5 puts the unit of a subnormal half into the last bit of the sum, so that the addition rounds.
  const VecU32 subnormal = bit_cast<VecU32>(bit_cast<Vec<float>>(magnitude) + 0.5f) - 0x3f000000u;
  const VecU32 nan = 0x7e00u | ((magnitude >> 13) & 0x3ffu);
  VecU32 result = magnitude < (113u << 23) ? subnormal : normal;
  result = magnitude >= 0x477ff000u ? VecU32{} + 0x7c00u : result;  // 65520 and above round to infinity
  result = magnitude > 0x7f800000u ? nan : result;
  return __builtin_convertvector(result | sign, HalfVecU16);
}

// load_as<A>(p): kLanes<A> elements at p, as sums' type. store_as(p, v): the way back, rounded to nearest even.
template <typename A, typename E>
RSN2_INLINE Vec<A> load_as(const E* from) {
  static_assert(sizeof(A) == sizeof(E), "float and double are loaded as they are");
  return load<A>(from);
}
template <>
inline __attribute__((always_inline)) Vec<float> load_as<float, BFloat16>(const BFloat16* from) {
  HalfVecU16 h;
  __builtin_memcpy(&h, from, sizeof(h));
  return widen_bfloat16(h);
}
template <>
inline __attribute__((always_inline)) Vec<float> load_as<float, Float16>(const Float16* from) {
  HalfVecU16 h;
  __builtin_memcpy(&h, from, sizeof(h));
  return widen_float16(h);
}

RSN2_INLINE void store_as(float* to, Vec<float> v) { store<float>(to, v); }
RSN2_INLINE void store_as(double* to, Vec<double> v) { store<double>(to, v); }
RSN2_INLINE void store_as(BFloat16* to, Vec<float> v) {
  const HalfVecU16 h = narrow_bfloat16(v);
  __builtin_memcpy(to, &h, sizeof(h));
}
RSN2_INLINE void store_as(Float16* to, Vec<float> v) {
  const HalfVecU16 h = narrow_float16(v);
  __builtin_memcpy(to, &h, sizeof(h));
}

// load_some: the first `count` elements at p (0 <= count <= kLanes<A>), zeros after them; reads nothing else.
template <typename A, typename E>
RSN2_INLINE Vec<A> load_some(const E* from, int64_t count) {
  E part[kLanes<A>];
  __builtin_memset(part, 0, sizeof(part));
  for (int64_t l = 0; l < count; ++l) part[l] = from[l];
  return load_as<A, E>(part);
}
template <typename A, typename E>
RSN2_INLINE void store_some(E* to, Vec<A> v, int64_t count) {
  E part[kLanes<A>];
  store_as(part, v);
  for (int64_t l = 0; l < count; ++l) to[l] = part[l];
}

// One element at p.
template <typename A, typename E>
RSN2_INLINE A load_one(const E* from) {
  return A(*from);
}
template <>
inline __attribute__((always_inline)) float load_one<float, BFloat16>(const BFloat16* from) {
  return bit_cast<float>(uint32_t(from->bits) << 16);
}
template <>
inline __attribute__((always_inline)) float load_one<float, Float16>(const Float16* from) {
  return load_some<float, Float16>(from, 1)[0];
}

// ---------------------------------------------------------------------------------------------- transposes

template <int... L>
struct Lanes {};
#if defined(__clang__)
template <typename T, T... L>
struct LanesOf {
  typedef Lanes<L...> type;
};
template <int N>
using FirstLanes = typename __make_integer_seq<LanesOf, int, N>::type;
#else
template <int N>
using FirstLanes = Lanes<__integer_pack(N)...>;
#endif

template <typename A>
struct MaskOf {
  typedef int32_t type __attribute__((vector_size(RSN2_VECTOR_BYTES)));
};
template <>
struct MaskOf<double> {
  typedef int64_t type __attribute__((vector_size(RSN2_VECTOR_BYTES)));
};

// Of two vectors and a distance H: the lanes l without bit H of both (a's stay, b's move up by H) ...
template <typename A, int H, int... L>
RSN2_INLINE Vec<A> lower_lanes(Vec<A> a, Vec<A> b, Lanes<L...>) {
  constexpr int N = int(sizeof...(L));
#if defined(__clang__)
  return __builtin_shufflevector(a, b, ((L & H) ? N + L - H : L)...);
#else
  return __builtin_shuffle(a, b, typename MaskOf<A>::type{((L & H) ? N + L - H : L)...});
#endif
}

// ... and the lanes with bit H of both (a's move down by H, b's stay).
template <typename A, int H, int... L>
RSN2_INLINE Vec<A> upper_lanes(Vec<A> a, Vec<A> b, Lanes<L...>) {
  constexpr int N = int(sizeof...(L));
#if defined(__clang__)
  return __builtin_shufflevector(a, b, ((L & H) ? N + L : L + H)...);
#else
  return __builtin_shuffle(a, b, typename MaskOf<A>::type{((L & H) ? N + L : L + H)...});
#endif
}

template <typename A, int H>
struct Butterfly {
  static inline __attribute__((always_inline)) void transpose(Vec<A>* v) {
    constexpr int N = kLanes<A>;
    RSN2_UNROLL
    for (int i = 0; i < N; ++i) {
      if (i & H) continue;
      const Vec<A> a = v[i], b = v[i + H];
      v[i] = lower_lanes<A, H>(a, b, FirstLanes<N>());
      v[i + H] = upper_lanes<A, H>(a, b, FirstLanes<N>());
    }
    Butterfly<A, H / 2>::transpose(v);
  }

  // v[0 .. 2H) hold 2H vectors whose sums are wanted, lanes at distances above H already added.
  static inline __attribute__((always_inline)) Vec<A> sum(Vec<A>* v) {
    RSN2_UNROLL
    for (int i = 0; i < H; ++i) {
      const Vec<A> a = v[i], b = v[i + H];
      v[i] = lower_lanes<A, H>(a, b, FirstLanes<kLanes<A>>()) + upper_lanes<A, H>(a, b, FirstLanes<kLanes<A>>());
    }
    return Butterfly<A, H / 2>::sum(v);
  }
};
template <typename A>
struct Butterfly<A, 0> {
  static inline __attribute__((always_inline)) void transpose(Vec<A>*) {}
  static inline __attribute__((always_inline)) Vec<A> sum(Vec<A>* v) { return v[0]; }
};

// A square of kLanes<A> x kLanes<A> numbers, v[i][j] <-> v[j][i].
template <typename A>
RSN2_INLINE void transpose(Vec<A>* v) {
  Butterfly<A, kLanes<A> / 2>::transpose(v);
}

// Lane j of the result is the sum of all lanes of v[j]. Every j adds its lanes in the same order (halves first), so the
// bits of a sum do not depend on which vectors it is summed beside. Overwrites v.
template <typename A>
RSN2_INLINE Vec<A> sum_each(Vec<A>* v) {
  return Butterfly<A, kLanes<A> / 2>::sum(v);
}
