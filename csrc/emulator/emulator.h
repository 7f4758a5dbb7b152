// Runs GPU kernels on a CPU: the threads of a block are fibers that take turns at barriers and warp functions.
//
// It is strict where a GPU is silent: shared memory starts as 0xFF bytes, a copy on its way has not arrived before it
// is waited for, threads that wait for each other or end before a barrier stop the kernel with an error, and the order
// in which threads run can be turned round or drawn at random, so that a missing barrier changes results.
#pragma once

#include <stdint.h>

#include <functional>

namespace rsn2::emulator {

// Runs kernel() once for each thread of each block. Throws std::runtime_error for what a GPU would hang or trap at.
void run(int64_t num_blocks, int num_threads, int64_t shared_bytes, const std::function<void()>& kernel);

// The order in which threads run from now on: 0 from the first to the last, 1 the other way and each warp as far as it
// can before another, else drawn with this seed.
void set_order(uint64_t order);

// Shared memory that a block may have: at first what every GPU from sm_80 on gives (sm_86, sm_89 and sm_120 no more).
int64_t most_shared_bytes();
void set_most_shared_bytes(int64_t bytes);

// For the thread that runs now.
int thread_index();
int num_threads();
int64_t block_index();
int64_t num_blocks();
char* shared_memory();
void sync_threads();
[[noreturn]] void fail(const char* what);

// What the 32 lanes of a warp gave to exchange().
struct Lanes {
  const char* data;
  const void* of_lane(int lane) const { return data + lane * 64; }
};
Lanes exchange(const void* mine, int num_bytes);  // at most 64 bytes; all lanes of the warp call it together

void load_matrices(const void* row, bool transposed, uint32_t (&out)[4]);
// `number` takes number i of the `per_word` that a register holds.
void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], float (*number)(uint32_t, int),
              int per_word);

void copy_async(void* shared, const void* global, bool is_there);
void commit_copies();
void wait_for_copies(int groups_left);

}  // namespace rsn2::emulator
