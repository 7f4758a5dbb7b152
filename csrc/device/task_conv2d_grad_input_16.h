// The gradient of task_conv2d's input on tensor cores, 16-bit images.
//
// A block computes 64 channels of 128 input pixels of one slot. It goes through the positions of the kernel and 64 rows
// of the weights after the other: in shared memory it puts the output's gradient where the pixels are read, and the
// weights of these channels; each of its 8 warps multiplies 32 channels by 32 pixels.
#pragma once

#include "task_conv2d_grad_input.h"
#include "task_conv2d_patches_16.h"

namespace rsn2 {

template <typename E, typename V>
struct TaskConv2dGradInput16 {
  using Arguments = ConvGradInputArguments;
  static constexpr int kThreads = 256;
  static constexpr int kMinBlocks = 2;
  static constexpr int kPieces = 1;  // of a block at once
  static constexpr int kChannels = 64;
  static constexpr int kRows = 64;
  static constexpr int kPixels = 128;
  static constexpr int kWeightPitch = kChannelPitch<kChannels>;
  static constexpr int kGradPitch = kChannelPitch<kRows>;

  struct alignas(16) Shared {
    E weights[kRows * kWeightPitch];
    E grads[kPixels * kGradPitch];  // at last the results [pixels][channels]
    int64_t readers[kPixels];
    uint32_t are_read[kPixels / kWarp];  // one bit a pixel
  };
  static constexpr int64_t shared_bytes(int) { return sizeof(Shared); }

  static RSN2_DEVICE void run(const Arguments& a) {
    Shared& shared = *reinterpret_cast<Shared*>(shared_memory());
    const int num_slots = a.index.num_slots(), blocks = ceil_div(a.window.channels, kChannels);
    const int64_t num_items = num_row_tiles(a.groups, num_slots) * a.parts * blocks;
    for (int64_t item = block_index(); item < num_items; item += num_blocks()) {
      const PixelPart part = pixel_part<kPixels>(a.groups, num_slots, a.parts, a.window.in_pixels(), item / blocks);
      if (part.last <= part.first) continue;
      const int first = int(item % blocks) * kChannels;
      float sums[2][4][4] = {};  // 16 channels each, 8 pixels each
      if (part.slot >= 0) add_taps(a, part, first, shared, sums);
      store(a, part, first, shared, sums);
    }
  }

 private:
  static RSN2_DEVICE void add_taps(const Arguments& a, const PixelPart& part, int first, Shared& shared,
                                   float (&sums)[2][4][4]) {
    const int64_t number = part.first + thread_index();
    InputPixel mine{0, 0, 0, false};
    if (thread_index() < kPixels && number < part.last) mine = input_pixel(a, part, number);
    for (int p = 0; p < a.window.kernel_height; ++p) {
      for (int q = 0; q < a.window.kernel_width; ++q) {
        const int64_t reader = mine.is_there ? reader_offset(a, mine, p, q) : -1;
        const uint32_t are_read = ballot(reader >= 0);
        sync_threads();  // what was there before has been read
        if (thread_index() < kPixels) shared.readers[thread_index()] = reader;
        if (thread_index() < kPixels && lane_index() == 0) shared.are_read[warp_index()] = are_read;
        sync_threads();
        uint32_t any = 0;
        for (int w = 0; w < kPixels / kWarp; ++w) any |= shared.are_read[w];
        if (any == 0) continue;
        const int64_t column = (p * int64_t(a.window.kernel_width) + q) * a.window.channels + first;
        for (int row = 0; row < a.window.num_outputs; row += kRows)
          add_rows(a, part.slot, row, column, first, shared, sums);
      }
    }
  }

  // Rows row .. row + 64 of the weights; channel `first` is at `column` of the matrix.
  static RSN2_DEVICE void add_rows(const Arguments& a, int slot, int row, int64_t column, int first, Shared& shared,
                                   float (&sums)[2][4][4]) {
    gather_channels<kRows, kPixels, kThreads>(static_cast<const E*>(a.grad_y), a.grad_y_strides, row,
                                              a.window.num_outputs, shared.readers, shared.grads);
    RSN2_NO_UNROLL
    for (int s = 0; s < 2; ++s) {
      const PackedStore<V> packed{static_cast<const V*>(s ? a.frozen_values : a.values), s ? a.frozen_index : a.index};
      const SlotWeights<V> weights = weights_of(packed, slot);
      if (!weights.owns_any()) continue;
      for (int i = thread_index(); i < kRows * kWeightPitch / 8; i += kThreads) {
        reinterpret_cast<SixteenBytes*>(shared.weights)[i] = {{0, 0, 0, 0}};
      }
      sync_threads();
      put_weights(weights, row, column, least(kChannels, a.window.channels - first), shared.weights);
      sync_threads();
      multiply(shared, sums);
      sync_threads();
    }
  }

  // `count` columns of the matrix into the tile; they may lie in several spans. Four threads have a row.
  static RSN2_DEVICE void put_weights(const SlotWeights<V>& weights, int first_row, int64_t column, int count,
                                      E* tile) {
    const int row = first_row + thread_index() / 4;
    if (row / kPanelRows >= weights.num_panels) return;
    E* to = tile + thread_index() / 4 * kWeightPitch;
    for (int done = 0; done < count;) {
      const int64_t span = (column + done) / kSpanColumns;
      const int low = int((column + done) % kSpanColumns), high = least(kSpanColumns, low + count - done);
      const ValueRange range = weights.table.of_row(row / kPanelRows * weights.num_spans + span, row % kPanelRows);
      for (int64_t j = first_from(weights, range, low) + thread_index() % 4; j < range.last; j += 4) {
        if (int(weights.columns[j]) >= high) break;
        to[done + weights.columns[j] - low] = Cast<E, V>::from(weights.values[j]);
      }
      done += high - low;
    }
  }

  static RSN2_DEVICE void multiply(const Shared& shared, float (&sums)[2][4][4]) {
    const int lane = lane_index(), channel = warp_index() % 2 * 32, pixel = warp_index() / 2 * 32;
    const E* left = shared.weights + (lane % 8 + lane / 16 * 8) * kWeightPitch + channel + lane / 8 % 2 * 8;
    const E* right = shared.grads + (pixel + lane % 8 + lane / 16 * 8) * kGradPitch + lane / 8 % 2 * 8;
    RSN2_NO_UNROLL
    for (int k = 0; k < kRows; k += 16) {
      uint32_t w[2][4], grads[2][4];
      RSN2_UNROLL
      for (int i = 0; i < 2; ++i) {
        load_matrices_transposed(left + k * kWeightPitch + i * 16, w[i]);
        load_matrices(right + i * 16 * kGradPitch + k, grads[i]);
      }
      RSN2_UNROLL
      for (int m = 0; m < 2; ++m) {
        RSN2_UNROLL
        for (int n = 0; n < 4; ++n) {
          const uint32_t columns[2] = {grads[n / 2][n % 2 * 2], grads[n / 2][n % 2 * 2 + 1]};
          multiply_16x8x16<E>(sums[m][n], w[m], columns);
        }
      }
    }
  }

  static RSN2_DEVICE void store(const Arguments& a, const PixelPart& part, int first, Shared& shared,
                                const float (&sums)[2][4][4]) {
    constexpr int kPitch = kChannels + 2;  // lanes over pixels meet different banks
    E* results = shared.grads;
    const int lane = lane_index(), channel = warp_index() % 2 * 32 + lane / 4;
    const int pixel = warp_index() / 2 * 32 + lane % 4 * 2;
    sync_threads();  // the readers have been read
    RSN2_UNROLL
    for (int m = 0; m < 2; ++m) {
      RSN2_UNROLL
      for (int n = 0; n < 4; ++n) {
        RSN2_UNROLL
        for (int i = 0; i < 4; ++i) {
          const float sum = part.slot < 0 ? NotANumber<float>::value() : sums[m][n][i];
          results[(pixel + n * 8 + i % 2) * kPitch + channel + m * 16 + i / 2 * 8] = Convert<E, float>::from(sum);
        }
      }
    }
    const int64_t number = part.first + thread_index();
    if (thread_index() < kPixels) {  // now where the results belong
      shared.readers[thread_index()] = -1;
      if (number < part.last) {
        shared.readers[thread_index()] = offset_of(
            a.grad_x_strides, slot_pixel(a.groups, part.first_image, number, a.window.height, a.window.width));
      }
    }
    sync_threads();
    const bool channels_first = channels_are_near(a.grad_x_strides);
    RSN2_NO_UNROLL
    for (int i = thread_index(); i < kChannels * kPixels; i += kThreads) {
      const int c = channels_first ? i % kChannels : i / kPixels, at = channels_first ? i / kChannels : i % kPixels;
      if (shared.readers[at] < 0 || first + c >= a.window.channels) continue;
      static_cast<E*>(a.grad_x)[shared.readers[at] + (first + c) * a.grad_x_strides.channel] = results[at * kPitch + c];
    }
  }
};

}  // namespace rsn2
