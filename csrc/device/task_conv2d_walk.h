// A warp's walk along one row of a tile of weights, lanes over pixels: work in proportion to what the slot owns.
#pragma once

#include "decode.h"
#include "task_conv2d_window.h"

namespace rsn2 {

// 32 weights of a row on their way to all lanes of a warp, in shared memory of its own.
template <typename A>
struct alignas(2 * sizeof(A)) WalkedWeight {
  A value;
  int column;  // inside the span
};
template <typename A>
using WalkedWeights = WalkedWeight<A>[kWarp];

// visit(weights, count) for the row's weights first .. last, up to 32 at a time. The index holds fewer than 2^31.
template <typename A, typename V, class Visit>
RSN2_DEVICE void walk_row(const SlotWeights<V>& weights, int first, int last, WalkedWeights<A>& walked,
                          const Visit& visit) {
  for (int at = first; at < last; at += kWarp) {
    const int count = least(kWarp, last - at);
    if (lane_index() < count) {
      const int64_t j = int64_t(at) + lane_index();
      walked[lane_index()] = {Cast<A, V>::from(weights.values[j]), weights.columns[j]};
    }
    sync_warp();
    visit(walked, count);
    sync_warp();
  }
}

}  // namespace rsn2
