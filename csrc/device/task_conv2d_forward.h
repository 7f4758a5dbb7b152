// task_conv2d on CUDA cores, every dtype.
//
// A block computes 64 output channels of a tile of pixels of one slot: it gathers the pixels' patches for 256 columns
// of the weights after the other, and each warp walks 8 rows of the weights over them, lanes over pixels. Each weight
// costs one read of shared memory per warp: the work is in proportion to what the slot owns.
#pragma once

#include "task_conv2d_patches.h"
#include "task_conv2d_walk.h"

namespace rsn2 {

struct ConvForwardArguments {
  ConvWindow window;
  Groups groups;  // tiles of images
  int parts;      // of a tile of images
  const void* x;  // [B, C, H, W]
  ImageStrides x_strides;
  bool whole_vectors;  // has_whole_vectors(x)
  void* y;             // [B, O, H', W']
  ImageStrides y_strides;
  const void* values;
  GatherIndex index;
  const void* frozen_values;  // null: none
  GatherIndex frozen_index;
  const void* bias;  // [T, O], or null
  int bias_slots;    // that it has rows for; no bias: INT32_MAX
  bool relu;
};

// Store 0: the weights; 1: the frozen ones beside them.
template <typename V, class Arguments>
RSN2_DEVICE PackedStore<V> conv_store(const Arguments& a, int store) {
  return {static_cast<const V*>(store ? a.frozen_values : a.values), store ? a.frozen_index : a.index};
}

// The result that a sum stands for. A slot out of range, or one that the bias does not have: NaN.
template <typename E, typename V, typename A>
RSN2_DEVICE E conv_result(const ConvForwardArguments& a, int slot, int64_t output, A sum) {
  if (uint32_t(slot) >= uint32_t(a.bias_slots)) return Convert<E, A>::from(NotANumber<A>::value());
  if (a.bias) {
    sum += Cast<A, V>::from(static_cast<const V*>(a.bias)[place_in(slot, a.window.num_outputs, output)]);
  }
  return Convert<E, A>::from(a.relu ? positive_part(sum) : sum);
}

// E: images. V: values and bias.
template <typename E, typename V>
struct TaskConv2dForward {
  using Arguments = ConvForwardArguments;
  using A = typename SumOf<E>::type;
  static constexpr int kThreads = Patches<A>::kThreads;
  static constexpr int kMinBlocks = 2;
  static constexpr int kWarps = kThreads / kWarp;
  static constexpr int kRowsOfWarp = 8;
  static constexpr int kRows = kWarps * kRowsOfWarp;
  static constexpr int kPixels = Patches<A>::kPixels;

  struct Shared {
    Patches<A> patches;
    WalkedWeights<A> walked[kWarps];
  };
  static constexpr int64_t kSharedBytes = sizeof(Shared);

  static RSN2_DEVICE void run(const Arguments& a) {
    Shared& shared = *reinterpret_cast<Shared*>(shared_memory());
    const int num_slots = a.index.num_slots(), row_blocks = ceil_div(a.window.num_outputs, kRows);
    const int64_t num_items = num_row_tiles(a.groups, num_slots) * a.parts * row_blocks;
    for (int64_t item = block_index(); item < num_items; item += num_blocks()) {
      const PixelPart part =
          pixel_part<kPixels>(a.groups, num_slots, a.parts, a.window.out_pixels(), item / row_blocks);
      if (part.last <= part.first) continue;
      const int first_row = int(item % row_blocks) * kRows + warp_index() * kRowsOfWarp;
      LanePixels<A> sums[kRowsOfWarp] = {};
      RSN2_NO_UNROLL
      for (int s = 0; s < 2; ++s) {
        add_store(a, part, first_row, conv_store<V>(a, s), shared, sums);
      }
      store(a, part, first_row, sums);
    }
  }

 private:
  // Adds the products of one store's weights.
  static RSN2_DEVICE void add_store(const Arguments& a, const PixelPart& part, int first_row,
                                    const PackedStore<V>& packed, Shared& shared, LanePixels<A> (&sums)[kRowsOfWarp]) {
    const SlotWeights<V> weights = weights_of(packed, part.slot);
    if (!weights.owns_any()) return;
    sync_threads();  // the patches before these have been read
    shared.patches.set_pixels(a.window, a.x_strides, a.groups, part);
    const int num_spans = int(weights.num_spans);
    for (int span = 0; span < num_spans; ++span) {
      shared.patches.set_columns(a.window, a.x_strides, span);
      sync_threads();
      shared.patches.gather(a.window, static_cast<const E*>(a.x), channels_are_near(a.x_strides));
      sync_threads();
      if (first_row < a.window.num_outputs) {
        const int tile = first_row / kPanelRows * num_spans + span;
        const A* mine = shared.patches.numbers + lane_index() * kPixelsOfLane<A>;
        RSN2_UNROLL
        for (int r = 0; r < kRowsOfWarp; ++r) {
          const ValueRange row = weights.table.of_row(tile, first_row % kPanelRows + r);
          walk_row<A>(weights, int(row.first), int(row.last), shared.walked[warp_index()],
                      [&](const WalkedWeights<A>& walked, int count) {
                        LanePixels<A> sum{};  // chains of 32 products round less than one of all
                        for (int i = 0; i < count; ++i) {
                          const LanePixels<A> patch =
                              *reinterpret_cast<const LanePixels<A>*>(mine + walked[i].column * Patches<A>::kPitch);
                          RSN2_UNROLL
                          for (int n = 0; n < kPixelsOfLane<A>; ++n) sum.of[n] += walked[i].value * patch.of[n];
                        }
                        RSN2_UNROLL
                        for (int n = 0; n < kPixelsOfLane<A>; ++n) sums[r].of[n] += sum.of[n];
                      });
        }
      }
      sync_threads();
    }
  }

  static RSN2_DEVICE void store(const Arguments& a, const PixelPart& part, int first_row,
                                const LanePixels<A> (&sums)[kRowsOfWarp]) {
    RSN2_UNROLL
    for (int n = 0; n < kPixelsOfLane<A>; ++n) {
      const int64_t pixel = part.first + lane_index() * kPixelsOfLane<A> + n;
      if (pixel >= part.last) continue;
      const int64_t at = offset_of(
          a.y_strides, slot_pixel(a.groups, part.first_image, pixel, a.window.out_height, a.window.out_width));
      RSN2_UNROLL
      for (int r = 0; r < kRowsOfWarp; ++r) {
        const int64_t o = first_row + r;
        if (o >= a.window.num_outputs) continue;
        static_cast<E*>(a.y)[at + o * a.y_strides.channel] = conv_result<E, V, A>(a, part.slot, o, sums[r].of[n]);
      }
    }
  }
};

}  // namespace rsn2
