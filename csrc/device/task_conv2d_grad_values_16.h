// The gradient of task_conv2d's owned values on tensor cores, 16-bit images.
//
// A block has 64 rows and one span of the weights: 64 pixels after the other it gathers the patches and the output's
// gradient; each of its 8 warps multiplies all rows by 32 columns. At last the sums pass through shared memory, 16 rows
// at a time, where those of owned weights are picked.
#pragma once

#include "task_conv2d_grad_values.h"
#include "task_conv2d_patches_16.h"

namespace rsn2 {

template <typename E, typename V>
struct TaskConv2dGradValues16 {
  using Arguments = ConvGradValuesArguments;
  static constexpr int kThreads = 256;
  static constexpr int kMinBlocks = 2;
  static constexpr int kRows = 64;
  static constexpr int kPixels = 64;
  static constexpr int kPitch = kTilePitch<E>;
  static constexpr int kGradPitch = kChannelPitch<kRows>;
  static constexpr int kSumPitch = kSpanColumns + 4;

  struct Shared {
    Patches16<E, kPixels> patches;  // its numbers, at last the sums of 16 rows
    alignas(16) E grads[kPixels * kGradPitch];
  };
  static constexpr int64_t kSharedBytes = sizeof(Shared);
  static_assert(kPanelRows * kSumPitch * sizeof(float) <= sizeof(E) * kPixels * kPitch, "the sums fit");

  static RSN2_DEVICE void run(const Arguments& a) {
    Shared& shared = *reinterpret_cast<Shared*>(shared_memory());
    const int64_t num_items = num_grad_values_pieces<kRows>(a);
    for (int64_t item = block_index(); item < num_items; item += num_blocks()) {
      const GradValuesPiece piece = grad_values_piece<kRows, kPixels>(a, item);
      if (!owns_results<kThreads, float>(a, piece)) continue;
      float sums[4][4][4] = {};  // 16 rows each, 8 columns each
      sync_threads();            // the piece before has been read
      shared.patches.set_columns(a.window, a.x_strides, piece.span);
      RSN2_NO_UNROLL
      for (int64_t first = piece.first; first < piece.last; first += kPixels) {
        const PixelPart part{piece.slot, piece.images.first, first, least(piece.last, first + kPixels)};
        shared.patches.set_pixels(a.window, a.x_strides, a.grad_y_strides, a.groups, part);
        sync_threads();
        shared.patches.gather(a.window, static_cast<const E*>(a.x), a.x_strides, a.whole_vectors);
        gather_channels<kRows, kPixels, kThreads>(static_cast<const E*>(a.grad_y), a.grad_y_strides, piece.first_row,
                                                  a.window.num_outputs, shared.patches.outputs, shared.grads);
        wait_for_copies<0>();
        sync_threads();
        multiply(shared, sums);
        sync_threads();
      }
      pick(a, piece, reinterpret_cast<float*>(shared.patches.numbers), sums);
    }
  }

 private:
  static RSN2_DEVICE void multiply(const Shared& shared, float (&sums)[4][4][4]) {
    const int lane = lane_index();
    const E* left = shared.grads + (lane % 8 + lane / 16 * 8) * kGradPitch + lane / 8 % 2 * 8;
    const E* right = shared.patches.numbers + lane % 16 * kPitch + warp_index() * 32 + lane / 16 * 8;
    RSN2_NO_UNROLL
    for (int k = 0; k < kPixels; k += 16) {
      uint32_t x[2][4];
      RSN2_UNROLL
      for (int i = 0; i < 2; ++i) load_matrices_transposed(right + k * kPitch + i * 16, x[i]);
      RSN2_UNROLL
      for (int m = 0; m < 4; ++m) {
        uint32_t grads[4];
        load_matrices_transposed(left + k * kGradPitch + m * 16, grads);
        RSN2_UNROLL
        for (int n = 0; n < 4; ++n) {
          const uint32_t columns[2] = {x[n / 2][n % 2 * 2], x[n / 2][n % 2 * 2 + 1]};
          multiply_16x8x16<E>(sums[m][n], grads, columns);
        }
      }
    }
  }

  static RSN2_DEVICE void pick(const Arguments& a, const GradValuesPiece& piece, float* panel_sums,
                               const float (&sums)[4][4][4]) {
    const SlotWeights<V> weights = weights_of(PackedStore<V>{nullptr, a.index}, piece.slot);
    float* results = static_cast<float*>(a.sums) + piece.first_result - weights.table.tile_starts[0];
    const int lane = lane_index(), at = lane / 4 * kSumPitch + warp_index() * 32 + lane % 4 * 2;
    RSN2_UNROLL
    for (int m = 0; m < 4; ++m) {
      const int64_t panel = piece.first_row / kPanelRows + m;
      if (panel >= weights.num_panels) continue;
      RSN2_UNROLL
      for (int n = 0; n < 4; ++n) {
        RSN2_UNROLL
        for (int i = 0; i < 4; ++i) panel_sums[at + i / 2 * 8 * kSumPitch + n * 8 + i % 2] = sums[m][n][i];
      }
      sync_threads();
      for (int row = warp_index(); row < kPanelRows; row += num_warps()) {
        const ValueRange range = results_of_row(weights.table, panel * weights.num_spans + piece.span, row, piece);
        for (int64_t j = range.first + lane; j < range.last; j += kWarp) {
          results[j] = panel_sums[row * kSumPitch + weights.columns[j]];
        }
      }
      sync_threads();
    }
  }
};

}  // namespace rsn2
