// task_conv2d on tensor cores, 16-bit images.
//
// A block computes 64 output channels of 128 pixels of one slot, or of 64 on GPUs whose shared memory holds no more:
// for 256 columns of the weights after the other it gathers the pixels' patches and expands the slot's weights in
// shared memory; each of its 8 warps multiplies 32 channels by a quarter of the pixels. float32 values beside 16-bit
// images are rounded to 16 bits on the way.
#pragma once

#include "task_conv2d_forward.h"
#include "task_conv2d_patches_16.h"

namespace rsn2 {

template <typename E, typename V, int kPixelsOfBlock>
struct TaskConv2dForward16 {
  using Arguments = ConvForwardArguments;
  static constexpr int kThreads = 256;
  static constexpr int kMinBlocks = 2;
  static constexpr int kRows = 64;
  static constexpr int kPixels = kPixelsOfBlock;
  static constexpr int kPixelsOfWarp = kPixels / 4;
  static_assert(kPixelsOfWarp % 16 == 0, "pixels are read in pairs of 8");
  static constexpr int kPitch = kTilePitch<E>;
  static constexpr int kResultPitch = kRows + 2;  // of a pixel's results; lanes over pixels meet different banks

  struct Shared {
    alignas(16) E weights[kRows * kPitch];
    Patches16<E, kPixels> patches;  // its numbers, at last the results [pixels][rows]
  };
  static constexpr int64_t kSharedBytes = sizeof(Shared);
  using Sums = float[2][kPixelsOfWarp / 8][4];

  static RSN2_DEVICE void run(const Arguments& a) {
    Shared& shared = *reinterpret_cast<Shared*>(shared_memory());
    const int num_slots = a.index.num_slots(), row_blocks = ceil_div(a.window.num_outputs, kRows);
    const int64_t num_items = num_row_tiles(a.groups, num_slots) * a.parts * row_blocks;
    for (int64_t item = block_index(); item < num_items; item += num_blocks()) {
      const PixelPart part =
          pixel_part<kPixels>(a.groups, num_slots, a.parts, a.window.out_pixels(), item / row_blocks);
      if (part.last <= part.first) continue;
      const int first_row = int(item % row_blocks) * kRows;
      Sums sums = {};  // 16 rows each, 8 pixels each
      sync_threads();  // the results of the piece before have been read
      shared.patches.set_pixels(a.window, a.x_strides, a.y_strides, a.groups, part);
      add_spans(a, part.slot, first_row / kPanelRows, shared, sums);
      store(a, part.slot, first_row, shared, sums);
    }
  }

 private:
  static RSN2_DEVICE void add_spans(const Arguments& a, int slot, int panel, Shared& shared, Sums& sums) {
    if (slot < 0) return;
    const int num_spans = int(a.index.num_spans());
    for (int span = 0; span < num_spans; ++span) {
      shared.patches.set_columns(a.window, a.x_strides, span);
      sync_threads();
      shared.patches.gather(a.window, static_cast<const E*>(a.x), a.x_strides, a.whole_vectors);
      wait_for_copies<0>();
      RSN2_NO_UNROLL
      for (int s = 0; s < 2; ++s) add_store(weights_of(conv_store<V>(a, s), slot), panel, span, shared, sums);
      sync_threads();
    }
  }

  // The products of one store's weights with the patches.
  static RSN2_DEVICE void add_store(const SlotWeights<V>& weights, int panel, int64_t span, Shared& shared,
                                    Sums& sums) {
    if (!weights.owns_any()) return;
    TileWeights<kRows, kThreads, V> ahead;
    ahead.fetch(weights, panel, span);
    sync_threads();  // the weights before these have been read
    clear_tile<kRows, kThreads>(shared.weights);
    sync_threads();
    ahead.put(weights, shared.weights);
    sync_threads();
    const int lane = lane_index(), row = warp_index() % 2 * 32, pixel = warp_index() / 2 * kPixelsOfWarp;
    const E* left = shared.weights + (row + lane % 16) * kPitch + lane / 16 * 8;
    const E* right = shared.patches.numbers + (pixel + lane % 8 + lane / 16 * 8) * kPitch + lane / 8 % 2 * 8;
    RSN2_NO_UNROLL
    for (int k = 0; k < kSpanColumns; k += 16) {
      uint32_t w[2][4], x[kPixelsOfWarp / 16][4];
      RSN2_UNROLL
      for (int i = 0; i < 2; ++i) load_matrices(left + i * 16 * kPitch + k, w[i]);
      RSN2_UNROLL
      for (int i = 0; i < kPixelsOfWarp / 16; ++i) load_matrices(right + i * 16 * kPitch + k, x[i]);
      RSN2_UNROLL
      for (int m = 0; m < 2; ++m) {
        RSN2_UNROLL
        for (int n = 0; n < kPixelsOfWarp / 8; ++n) {
          const uint32_t columns[2] = {x[n / 2][n % 2 * 2], x[n / 2][n % 2 * 2 + 1]};
          multiply_16x8x16<E>(sums[m][n], w[m], columns);
        }
      }
    }
  }

  static RSN2_DEVICE void store(const Arguments& a, int slot, int first_row, Shared& shared, const Sums& sums) {
    E* results = shared.patches.numbers;
    const int lane = lane_index(), row = warp_index() % 2 * 32 + lane / 4,
              pixel = warp_index() / 2 * kPixelsOfWarp + lane % 4 * 2;
    RSN2_UNROLL
    for (int m = 0; m < 2; ++m) {
      RSN2_UNROLL
      for (int n = 0; n < kPixelsOfWarp / 8; ++n) {
        RSN2_UNROLL
        for (int i = 0; i < 4; ++i) {
          const int r = row + m * 16 + i / 2 * 8;
          if (first_row + r >= a.window.num_outputs) continue;
          results[(pixel + n * 8 + i % 2) * kResultPitch + r] =
              conv_result<E, V, float>(a, slot, first_row + r, sums[m][n][i]);
        }
      }
    }
    sync_threads();
    // Neighbouring threads store neighbours in memory: rows or pixels.
    const bool rows_first = channels_are_near(a.y_strides);
    RSN2_NO_UNROLL
    for (int i = thread_index(); i < kRows * kPixels; i += kThreads) {
      const int r = rows_first ? i % kRows : i / kPixels, p = rows_first ? i / kRows : i % kPixels;
      const int64_t at = shared.patches.outputs[p];
      if (at < 0 || first_row + r >= a.window.num_outputs) continue;
      static_cast<E*>(a.y)[at + (first_row + r) * a.y_strides.channel] = results[p * kResultPitch + r];
    }
  }
};

}  // namespace rsn2
