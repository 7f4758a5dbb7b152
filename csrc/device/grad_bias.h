// The gradient of per-slot biases: grad_y summed over the rows of each wanted slot, and over their pixels.
//
// A block computes one wanted slot's sums for 32 columns, or for one column where pixels lie side by side in memory:
// its warps take 32 rows of the batch in turn, look which have the slot, and read those only; lanes have a column each,
// or pixels. The warps' sums are added in their order.
#pragma once

#include "groups.h"

namespace rsn2 {

// A sum of many numbers in three steps, so that its error does not grow with all of them.
template <typename A>
class LongSum {
  static constexpr int kNear = 32;  // numbers added in one chain, and such sums in the next

 public:
  RSN2_DEVICE void add(A number) {
    near_ += number;
    if (++count_ % kNear != 0) return;
    middle_ += near_;
    near_ = 0;
    if (count_ < kNear * kNear) return;
    far_ += middle_;
    middle_ = 0;
    count_ = 0;
  }
  RSN2_DEVICE A total() const { return far_ + (middle_ + near_); }

 private:
  A near_ = 0, middle_ = 0, far_ = 0;
  int count_ = 0;
};

template <typename E, bool kPixelsInLanes>
struct GradBias {
  using A = typename SumOf<E>::type;
  static constexpr int kMostWanted = 64;
  struct Arguments {
    const E* grad_y;       // [B, O, H, W]
    int64_t stride[4];     // of grad_y
    int64_t size[4];       // B, O, H, W
    const int64_t* slots;  // [B], or one for all rows
    int64_t slots_stride;  // 0 for one
    int64_t wanted[kMostWanted];
    int num_wanted;
    A* grads;  // [num_wanted, O]
  };
  static constexpr int kThreads = 256;
  static constexpr int kMinBlocks = 4;
  static constexpr int kColumns = kPixelsInLanes ? 1 : kWarp;  // of a block

 private:
  static constexpr int kWarps = kThreads / kWarp;
  static constexpr int kAhead = 4;  // rows whose numbers are on their way at the same time

 public:
  static constexpr int64_t kSharedBytes = kWarps * kWarp * int64_t(sizeof(A));

  static RSN2_HOST_DEVICE int64_t num_items(int64_t num_wanted, int64_t O) {
    return num_wanted * ceil_div<int64_t>(O, kColumns);
  }

  static RSN2_DEVICE void run(const Arguments& a) {
    A* sums = reinterpret_cast<A*>(shared_memory());  // [warp][lane]
    const int64_t O = a.size[1], parts = ceil_div<int64_t>(O, kColumns), items = num_items(a.num_wanted, O);
    for (int64_t item = block_index(); item < items; item += num_blocks()) {
      const int w = int(item / parts);
      const int64_t column = item % parts * kColumns + (kPixelsInLanes ? 0 : lane_index());
      LongSum<A> sum;
      for (int64_t first = warp_index() * kWarp; first < a.size[0]; first += kThreads) {
        const int64_t row = first + lane_index();
        uint32_t mine = ballot(row < a.size[0] && a.slots[row * a.slots_stride] == a.wanted[w]);
        while (mine) add_rows(a, first, mine, column, sum);
      }
      const A total = kPixelsInLanes ? sum_of_warp(sum.total()) : sum.total();
      sums[thread_index()] = total;
      sync_threads();
      if (thread_index() < kColumns && column < O) {
        A all = 0;
        for (int i = 0; i < kWarps; ++i) all += sums[i * kWarp + lane_index()];
        a.grads[place_in(w, O, column)] = all;
      }
      sync_threads();
    }
  }

 private:
  // Takes the next few rows out of `mine`.
  static RSN2_DEVICE void add_rows(const Arguments& a, int64_t first, uint32_t& mine, int64_t column, LongSum<A>& sum) {
    const E* from[kAhead];
    RSN2_UNROLL
    for (int i = 0; i < kAhead; ++i) {
      const bool is_row = mine != 0 && column < a.size[1];
      from[i] = is_row ? a.grad_y + (first + lowest_bit(mine)) * a.stride[0] + column * a.stride[1] : nullptr;
      mine &= mine - 1;
    }
    for (int64_t h = 0; h < a.size[2]; ++h) {
      for (int64_t w = kPixelsInLanes ? lane_index() : 0; w < a.size[3]; w += kPixelsInLanes ? kWarp : 1) {
        E numbers[kAhead];
        RSN2_UNROLL
        for (int i = 0; i < kAhead; ++i) numbers[i] = from[i] ? from[i][h * a.stride[2] + w * a.stride[3]] : E{};
        RSN2_UNROLL
        for (int i = 0; i < kAhead; ++i) sum.add(Convert<A, E>::from(numbers[i]));
      }
    }
  }
};

}  // namespace rsn2
