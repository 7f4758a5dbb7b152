// For many rows of one slot: its weights as a dense matrix that the BLAS multiplies, the owned numbers of a dense
// gradient, and the ReLU of a dense result. Which slot it is, the kernels read on the device.
#pragma once

#include "decode.h"
#include "groups.h"
#include "task_linear_grad.h"

namespace rsn2 {

// The weights of a slot and its bias, in the dtype of the batch; zeros where it owns nothing, NaN when the slot is out
// of range. A block expands tiles of 32 rows and 256 columns in shared memory, from where they leave in whole rows; the
// next tile's weights are on their way meanwhile.
template <typename E, typename V>
struct UnpackSlot {
  struct Arguments {
    PackedStore<V> weight, frozen;
    const int64_t* slot;  // [1]
    int64_t num_outputs, num_inputs;
    E* dense;        // [num_outputs, num_inputs], from a multiple of 16 bytes on
    const V* bias;   // [bias_slots, num_outputs], or null
    int bias_slots;  // a slot that it has no row for gives NaN
    E* dense_bias;   // [num_outputs], or null
  };
  static constexpr int kThreads = 256;
  static constexpr int kMinBlocks = 4;
  static constexpr int kRows = 32;
  static constexpr int64_t kSharedBytes = kTileBytes<kRows, E>;

  static RSN2_HOST_DEVICE int64_t num_items(int64_t num_outputs, int64_t num_inputs) {
    return ceil_div<int64_t>(num_outputs, kRows) * ceil_div<int64_t>(num_inputs, kSpanColumns);
  }

  static RSN2_DEVICE void run(const Arguments& a) {
    const int slot = checked_slot(a.slot[0], a.weight.index.num_slots());
    if (a.bias) unpack_bias(a, slot);
    E* tile = reinterpret_cast<E*>(shared_memory());
    const SlotWeights<V> own = weights_of(a.weight, slot), frozen = weights_of(a.frozen, slot);
    const int64_t spans = ceil_div<int64_t>(a.num_inputs, kSpanColumns), items = num_items(a.num_outputs, a.num_inputs);
    TileWeights<kRows, kThreads, V> ahead;
    const auto fetch = [&](const SlotWeights<V>& weights, int64_t item) {
      ahead.fetch(weights, item / spans * (kRows / kPanelRows), item % spans);
    };
    if (block_index() < items) fetch(own, block_index());
    for (int64_t item = block_index(); item < items; item += num_blocks()) {
      if (slot < 0) {
        for (int i = thread_index(); i < kRows * kTilePitch<E>; i += kThreads) tile[i] = not_a_number();
      } else {
        clear_tile<kRows, kThreads>(tile);
      }
      sync_threads();
      ahead.put(own, tile);
      sync_threads();
      if (frozen.owns_any()) {
        fetch(frozen, item);
        ahead.add(frozen, tile);
        sync_threads();
      }
      if (item + num_blocks() < items) fetch(own, item + num_blocks());
      store(a, tile, item / spans * kRows, item % spans * kSpanColumns);
      sync_threads();  // the tile may be overwritten
    }
  }

 private:
  static RSN2_DEVICE E not_a_number() { return Convert<E, float>::from(NotANumber<float>::value()); }

  static RSN2_DEVICE void unpack_bias(const Arguments& a, int slot) {
    for (int64_t i = block_index() * kThreads + thread_index(); i < a.num_outputs; i += num_blocks() * kThreads) {
      const bool is_there = uint32_t(slot) < uint32_t(a.bias_slots);
      a.dense_bias[i] = is_there ? Cast<E, V>::from(a.bias[slot * a.num_outputs + i]) : not_a_number();
    }
  }

  static RSN2_DEVICE void store(const Arguments& a, const E* tile, int64_t first_row, int64_t first_column) {
    constexpr int kVector = 16 / int(sizeof(E)), kVectors = kSpanColumns / kVector;
    const int rows = int(least<int64_t>(kRows, a.num_outputs - first_row));
    const int columns = int(least<int64_t>(kSpanColumns, a.num_inputs - first_column));
    E* to = a.dense + first_row * a.num_inputs + first_column;
    if (a.num_inputs % kVector == 0) {
      for (int i = thread_index(); i < rows * kVectors; i += kThreads) {
        const int row = i / kVectors, column = i % kVectors * kVector;
        if (column >= columns) continue;
        *reinterpret_cast<SixteenBytes*>(to + row * a.num_inputs + column) =
            *reinterpret_cast<const SixteenBytes*>(tile + row * kTilePitch<E> + column);
      }
    } else {
      for (int i = thread_index(); i < rows * kSpanColumns; i += kThreads) {
        const int row = i / kSpanColumns, column = i % kSpanColumns;
        if (column < columns) to[row * a.num_inputs + column] = tile[row * kTilePitch<E> + column];
      }
    }
  }
};

// The gradients of wanted slots' values from the dense gradient of the batch's slot; zeros for every other slot. A
// block takes tiles of 16 rows and 256 columns, a warp each eighth row, whose owned numbers its lanes gather.
template <typename V>
struct CompressGrads {
  struct Arguments {
    const V* dense;  // [O, num_inputs]
    int64_t num_inputs;
    GatherIndex index;
    const int64_t* slot;  // [1]
    WantedSlots wanted;
    V* grads;
  };
  static constexpr int kThreads = 256;
  static constexpr int kMinBlocks = 4;
  static constexpr int64_t kSharedBytes = 0;

  static RSN2_HOST_DEVICE int64_t num_items(int64_t num_wanted, int64_t O, int64_t K) {
    return num_wanted * ceil_div<int64_t>(O, kPanelRows) * ceil_div<int64_t>(K, kSpanColumns);
  }

  static RSN2_DEVICE void run(const Arguments& a) {
    const int slot = checked_slot(a.slot[0], a.index.num_slots());
    const int64_t tiles = a.index.num_panels() * a.index.num_spans(), items = a.wanted.count * tiles;
    for (int64_t item = block_index(); item < items; item += num_blocks()) {
      const int w = int(item / tiles);
      const int64_t tile = item % tiles;
      const ValueRange values = a.index.values_of(a.wanted.slots[w]);
      const int64_t owned = values.last - values.first;
      if (tile == 0) spoil<kThreads>(a.grads, a.wanted.starts[w] + owned, a.wanted.starts[w + 1]);
      if (a.wanted.slots[w] == slot) {
        gather(a, w, slot, tile);
      } else {
        clear(a, w, owned, tile, tiles);
      }
    }
  }

 private:
  static RSN2_DEVICE void gather(const Arguments& a, int w, int slot, int64_t tile) {
    const SlotTable table = a.index.table(slot);
    if (!table.owns_any) return;
    const WantedPlaces places(a.wanted, w, table);
    const uint8_t* columns = a.index.columns_of_values();
    const int64_t spans = a.index.num_spans(), panel = tile / spans;
    for (int row = warp_index(); row < kPanelRows; row += kThreads / kWarp) {
      const ValueRange values = table.of_row(tile, row);
      const V* from = a.dense + (panel * kPanelRows + row) * a.num_inputs + tile % spans * kSpanColumns;
      for (int64_t j = values.first + lane_index(); j < values.last; j += kWarp) {
        const int64_t place = places.of_value(j);
        if (place >= 0) a.grads[place] = from[columns[j]];
      }
    }
  }

  // This tile's share of the numbers that a slot owns.
  static RSN2_DEVICE void clear(const Arguments& a, int w, int64_t owned, int64_t tile, int64_t tiles) {
    const int64_t start = a.wanted.starts[w], count = least<int64_t>(a.wanted.starts[w + 1] - start, owned);
    const int64_t last = start + count * (tile + 1) / tiles;
    for (int64_t i = start + count * tile / tiles + thread_index(); i < last; i += kThreads) a.grads[i] = V{};
  }
};

// y = max(y, 0), where NaN stays; the threads walk over 16 bytes each.
template <typename E>
struct PositivePart {
  struct Arguments {
    E* y;  // from a multiple of 16 bytes on
    int64_t count;
  };
  static constexpr int kThreads = 256;
  static constexpr int kMinBlocks = 4;
  static constexpr int kVector = 16 / int(sizeof(E));

  static RSN2_DEVICE void run(const Arguments& a) {
    struct alignas(16) Vector {
      E numbers[kVector];
    };
    Vector* vectors = reinterpret_cast<Vector*>(a.y);
    const int64_t whole = a.count / kVector, first = block_index() * kThreads + thread_index();
    for (int64_t i = first; i < whole; i += num_blocks() * kThreads) {
      Vector vector = vectors[i];
      RSN2_UNROLL
      for (int k = 0; k < kVector; ++k) vector.numbers[k] = of(vector.numbers[k]);
      vectors[i] = vector;
    }
    const int64_t rest = whole * kVector + first;
    if (rest < a.count) a.y[rest] = of(a.y[rest]);
  }

 private:
  static RSN2_DEVICE E of(E y) { return Convert<E, float>::from(positive_part(to_float(y))); }
};

}  // namespace rsn2
