#include "emulator.h"

#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <deque>
#include <exception>
#include <memory>
#include <new>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "fiber.h"

namespace rsn2::emulator {
namespace {

constexpr int WARP = 32;
constexpr size_t ALIGNMENT = 128;

struct Copy {
  void* to;
  const void* from;  // null: zeros
};

struct Thread {
  std::unique_ptr<Fiber> fiber;
  bool has_ended = false;
  int64_t barriers = 0;   // waited at
  int64_t exchanges = 0;  // taken part in
  std::vector<Copy> open;
  std::deque<std::vector<Copy>> groups;
};

struct Warp {
  int64_t exchanges = 0;  // that are complete
  int arrived = 0;
  int num_bytes = 0;
  alignas(16) char data[2][WARP * 64];
};

struct Block {
  int64_t index, num_blocks;
  int num_threads;
  char* shared;
  int64_t barriers = 0;  // that are complete
  int arrived = 0, num_ended = 0;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  int current = 0;
  std::exception_ptr error;
};

thread_local Block* block = nullptr;
thread_local uint64_t order_seed = 0;
thread_local int64_t shared_limit = 99 * 1024;

Thread& self() { return block->threads[block->current]; }

bool can_run(const Thread& thread, const Warp& warp) {
  return !thread.has_ended && thread.barriers <= block->barriers && thread.exchanges <= warp.exchanges;
}

// One turn for each of these threads that can take it; whether any could.
bool run_once(const int* first, const int* last) {
  bool has_run = false;
  for (; first < last && !block->error; ++first) {
    if (!can_run(block->threads[*first], block->warps[*first / WARP])) continue;
    block->current = *first;
    has_run = true;
    block->threads[*first].fiber->resume();
  }
  return has_run;
}

// Warps in any order, and the threads of each in any order.
void shuffle_warps(std::vector<int>& order, std::mt19937_64& random) {
  std::vector<int> warps(order.size() / WARP);
  std::iota(warps.begin(), warps.end(), 0);
  std::shuffle(warps.begin(), warps.end(), random);
  for (size_t i = 0; i < order.size(); ++i) order[i] = warps[i / WARP] * WARP + int(i % WARP);
  for (auto first = order.begin(); first < order.end(); first += WARP) std::shuffle(first, first + WARP, random);
}

void run_block(const std::function<void()>& kernel) {
  std::vector<int> order(block->num_threads);
  std::iota(order.begin(), order.end(), 0);
  if (order_seed == 1) std::reverse(order.begin(), order.end());
  std::mt19937_64 random(order_seed);
  for (int i = 0; i < block->num_threads; ++i) {
    block->threads[i].fiber = std::make_unique<Fiber>([&kernel, i] {
      try {
        kernel();
      } catch (...) {
        if (!block->error) block->error = std::current_exception();
      }
      block->threads[i].has_ended = true;
      ++block->num_ended;
    });
  }
  while (block->num_ended < block->num_threads && !block->error) {
    bool has_run = false;
    if (order_seed > 1) shuffle_warps(order, random);
    if (order_seed > 0) {  // a warp goes as far as it can before another does: what only a barrier keeps apart meets
      for (int first = 0; first < block->num_threads; first += WARP) {
        while (run_once(order.data() + first, order.data() + first + WARP)) has_run = true;
      }
    } else {
      has_run = run_once(order.data(), order.data() + order.size());
    }
    if (block->error) break;
    if (!has_run)
      throw std::runtime_error("emulated kernel: threads wait for others that have ended or wait elsewhere");
  }
  if (block->error) std::rethrow_exception(block->error);
  for (const Thread& thread : block->threads) {
    if (!thread.open.empty() || !thread.groups.empty()) {
      throw std::runtime_error("emulated kernel: a thread has ended with copies on their way");
    }
  }
}

}  // namespace

void set_order(uint64_t order) { order_seed = order; }
int64_t most_shared_bytes() { return shared_limit; }
void set_most_shared_bytes(int64_t bytes) { shared_limit = bytes; }

void run(int64_t num_blocks, int num_threads, int64_t shared_bytes, const std::function<void()>& kernel) {
  if (num_blocks < 1 || num_blocks > 0x7fffffff || num_threads < WARP || num_threads > 1024 ||
      num_threads % WARP != 0 || shared_bytes < 0 || shared_bytes > shared_limit) {
    throw std::runtime_error("emulated kernel: cannot be launched with " + std::to_string(num_blocks) + " blocks, " +
                             std::to_string(num_threads) + " threads, " + std::to_string(shared_bytes) + " bytes");
  }
  // Exactly as long as asked for, so that a sanitizer sees what lies beyond.
  void* memory = nullptr;
  if (posix_memalign(&memory, ALIGNMENT, size_t(shared_bytes)) != 0) throw std::bad_alloc();
  const std::unique_ptr<char, void (*)(void*)> shared(static_cast<char*>(memory), free);
  for (int64_t i = 0; i < num_blocks; ++i) {
    Block own{i, num_blocks, num_threads, shared.get(), 0, 0, 0, {}, {}, 0, nullptr};
    own.threads.resize(num_threads);
    own.warps.resize(num_threads / WARP);
    if (shared_bytes > 0) memset(own.shared, 0xff, size_t(shared_bytes));
    block = &own;
    try {
      run_block(kernel);
    } catch (...) {
      block = nullptr;
      throw;
    }
    block = nullptr;
  }
}

int thread_index() { return block->current; }
int num_threads() { return block->num_threads; }
int64_t block_index() { return block->index; }
int64_t num_blocks() { return block->num_blocks; }
char* shared_memory() { return block->shared; }

void fail(const char* what) { throw std::runtime_error(std::string("emulated kernel: ") + what); }

void sync_threads() {
  Thread& thread = self();
  ++thread.barriers;
  if (++block->arrived == block->num_threads) {
    block->arrived = 0;
    ++block->barriers;
  }
  Fiber::yield();
}

Lanes exchange(const void* mine, int num_bytes) {
  Thread& thread = self();
  Warp& warp = block->warps[block->current / WARP];
  char* data = warp.data[warp.exchanges % 2];
  if (warp.arrived == 0) warp.num_bytes = num_bytes;
  if (warp.num_bytes != num_bytes) fail("the lanes of a warp call different functions");
  if (num_bytes > 0) memcpy(data + block->current % WARP * 64, mine, size_t(num_bytes));
  ++thread.exchanges;
  if (++warp.arrived == WARP) {
    warp.arrived = 0;
    ++warp.exchanges;
  }
  Fiber::yield();
  return {data};
}

void load_matrices(const void* row, bool transposed, uint32_t (&out)[4]) {
  const Lanes rows = exchange(&row, sizeof(row));
  const int lane = block->current % WARP, g = lane / 4, q = lane % 4;
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0) fail("load_matrices: a row is not aligned to 16 bytes");
  for (int m = 0; m < 4; ++m) {
    uint16_t two[2];
    for (int i = 0; i < 2; ++i) {
      const int r = transposed ? 2 * q + i : g, c = transposed ? g : 2 * q + i;
      const uint16_t* at;
      memcpy(&at, rows.of_lane(8 * m + r), sizeof(at));
      two[i] = at[c];
    }
    out[m] = two[0] | uint32_t(two[1]) << 16;
  }
}

void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], float (*number)(uint32_t, int),
              int per_word) {
  struct Operands {
    uint32_t a[4], b[2];
  } own;
  memcpy(own.a, a, sizeof(a));
  memcpy(own.b, b, sizeof(b));
  const Lanes all = exchange(&own, sizeof(own));
  const int lane = block->current % WARP, g = lane / 4, q = lane % 4;
  for (int i = 0; i < 4; ++i) {
    const int row = g + 8 * (i / 2), column = 2 * q + i % 2;
    float sum = 0;  // tensor cores add the products of one call before the sum so far
    for (int k = 0; k < 8 * per_word; ++k) {
      const int half = k / (4 * per_word), inside = k % (4 * per_word);
      Operands left, right;
      memcpy(&left, all.of_lane(row % 8 * 4 + inside / per_word), sizeof(left));
      memcpy(&right, all.of_lane(column * 4 + inside / per_word), sizeof(right));
      sum += number(left.a[2 * half + row / 8], inside % per_word) * number(right.b[half], inside % per_word);
    }
    d[i] += sum;
  }
}

void copy_async(void* shared, const void* global, bool is_there) {
  const auto to = reinterpret_cast<uintptr_t>(shared), from = reinterpret_cast<uintptr_t>(global);
  if (to % 16 != 0 || (is_there && from % 16 != 0)) fail("copy_async: an end is not aligned to 16 bytes");
  memset(shared, 0xff, 16);
  self().open.push_back({shared, is_there ? global : nullptr});
}

void commit_copies() {
  self().groups.push_back(std::move(self().open));
  self().open.clear();
}

void wait_for_copies(int groups_left) {
  std::deque<std::vector<Copy>>& groups = self().groups;
  for (; int(groups.size()) > groups_left; groups.pop_front()) {
    for (const Copy& copy : groups.front()) {
      if (copy.from) {
        memcpy(copy.to, copy.from, 16);
      } else {
        memset(copy.to, 0, 16);
      }
    }
  }
}

}  // namespace rsn2::emulator
