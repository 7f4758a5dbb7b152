// platform.h for nvcc: each function is one or a few instructions.
#pragma once

#include <assert.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

#define RSN2_DEVICE __device__ __forceinline__
#define RSN2_HOST_DEVICE __host__ __device__ __forceinline__
#define RSN2_UNROLL _Pragma("unroll")
#define RSN2_NO_UNROLL _Pragma("unroll 1")

namespace rsn2 {

RSN2_DEVICE int thread_index() { return int(threadIdx.x); }
RSN2_DEVICE int num_threads() { return int(blockDim.x); }
RSN2_DEVICE int64_t block_index() { return blockIdx.x; }
RSN2_DEVICE int64_t num_blocks() { return gridDim.x; }

RSN2_DEVICE char* shared_memory() {
  extern __shared__ __align__(128) char rsn2_shared_memory[];
  return rsn2_shared_memory;
}

// The same pointer. The compiler learns that it leads to global memory, which it cannot see of one computed from words.
template <typename T>
RSN2_DEVICE T* in_global(T* pointer) {
  __builtin_assume(__isGlobal(pointer));
  return pointer;
}

RSN2_DEVICE void sync_threads() { __syncthreads(); }
RSN2_DEVICE void sync_warp() { __syncwarp(); }

template <typename T>
RSN2_DEVICE T shuffle(T value, int from) {
  return __shfl_sync(0xffffffffu, value, from);
}
template <typename T>
RSN2_DEVICE T shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}
template <typename T>
RSN2_DEVICE T shuffle_up(T value, int distance) {  // lanes below `distance` keep theirs
  return __shfl_up_sync(0xffffffffu, value, distance);
}
RSN2_DEVICE uint32_t ballot(bool vote) { return __ballot_sync(0xffffffffu, vote); }
RSN2_DEVICE uint32_t match_any(uint32_t value) { return __match_any_sync(0xffffffffu, value); }

RSN2_DEVICE int count_bits(uint32_t bits) { return __popc(bits); }
RSN2_DEVICE int lowest_bit(uint32_t bits) { return __ffs(int(bits)) - 1; }  // -1 for none

RSN2_DEVICE int atomic_add_shared(int* counter, int more) { return atomicAdd(counter, more); }

RSN2_DEVICE void fail(const char* what) {
  __assert_fail(what, "rsn2_kernels", 0, "kernel");  // unlike printf it needs no stack frame
  __trap();
}

// Numbers.
struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

RSN2_DEVICE float float_of_bits(uint32_t bits) { return __uint_as_float(bits); }
RSN2_DEVICE uint32_t bits_of_float(float x) { return __float_as_uint(x); }
RSN2_DEVICE float to_float(float x) { return x; }
RSN2_DEVICE float to_float(BFloat16 x) { return __uint_as_float(uint32_t(x.bits) << 16); }
RSN2_DEVICE float to_float(Float16 x) { return __half2float(__ushort_as_half(x.bits)); }

template <typename A, typename E>
struct Convert {  // E to A, rounded to nearest
  static RSN2_DEVICE A from(E x) { return to_float(x); }
};
template <>
struct Convert<double, double> {
  static RSN2_DEVICE double from(double x) { return x; }
};
template <>
struct Convert<BFloat16, float> {
  static RSN2_DEVICE BFloat16 from(float x) { return {__bfloat16_as_ushort(__float2bfloat16_rn(x))}; }
};
template <>
struct Convert<Float16, float> {
  static RSN2_DEVICE Float16 from(float x) { return {__half_as_ushort(__float2half_rn(x))}; }
};

// The 19 bits that tensor cores take of a float, rounded to nearest, ties away from zero.
RSN2_DEVICE uint32_t to_tf32(float x) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
}

// Tensor cores. Lane l has g = l / 4 and q = l % 4.
//
// Four 8 x 8 matrices of 16-bit numbers from shared memory: lane l names the 16 bytes of row l % 8 of matrix l / 8; it
// gets, of each matrix, numbers 2 q and 2 q + 1 of row g (transposed: of column g), the first in the lower half.
RSN2_DEVICE void load_matrices(const void* row, uint32_t (&out)[4]) {
  const uint32_t at = uint32_t(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(at)
               : "memory");
}
RSN2_DEVICE void load_matrices_transposed(const void* row, uint32_t (&out)[4]) {
  const uint32_t at = uint32_t(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(at)
               : "memory");
}

// d[16, 8] += a[16, 16] b[16, 8]. A lane holds of a: rows g, g + 8, g, g + 8, columns 2 q, + 1 (the last two: + 8); of
// b: rows 2 q, + 1 and 2 q + 8, + 9 of column g; of d: row g, columns 2 q, + 1, then row g + 8.
template <typename E>
RSN2_DEVICE void multiply_16x8x16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
template <>
RSN2_DEVICE void multiply_16x8x16<BFloat16>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <>
RSN2_DEVICE void multiply_16x8x16<Float16>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// d[16, 8] += a[16, 8] b[8, 8] of to_tf32 numbers. A lane holds of a: rows g, g + 8, g, g + 8, column q (the last two:
// q + 4); of b: rows q and q + 4 of column g; of d as above.
RSN2_DEVICE void multiply_16x8x8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// 16 bytes, both ends aligned, on their way into shared memory; zeros where nothing is there.
RSN2_DEVICE void copy_async(void* shared, const void* global, bool is_there) {
  const uint32_t to = uint32_t(__cvta_generic_to_shared(shared));
  const int bytes = is_there ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes) : "memory");
}
RSN2_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until at most `left` of this thread's latest groups are still on their way; a barrier then makes them seen by others.
template <int left>
RSN2_DEVICE void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(left) : "memory");
}

}  // namespace rsn2
