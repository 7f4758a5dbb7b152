// The gradient of task_conv2d's input on CUDA cores, every dtype.
//
// A warp computes up to 64 channels of a tile of input pixels of one slot, lanes over pixels, sums in shared memory of
// its own. It goes through the positions of the kernel; for each it finds the output pixel that reads its pixels there,
// and walks the weights of these channels, all rows of the matrix from the first to the last. Nothing is added by two
// threads, so every run gives the same.
#pragma once

#include "task_conv2d_walk.h"

namespace rsn2 {

struct ConvGradInputArguments {
  ConvWindow window;
  Groups groups;       // tiles of images
  int parts;           // of a tile of images
  const void* grad_y;  // [B, O, H', W']
  ImageStrides grad_y_strides;
  void* grad_x;  // [B, C, H, W]
  ImageStrides grad_x_strides;
  const void* values;
  GatherIndex index;
  const void* frozen_values;  // null: none
  GatherIndex frozen_index;
  int channels_of_block;  // 1 .. 64; 64 on tensor cores
};

// A pixel of the input, to look for the output pixels that read it.
struct InputPixel {
  int64_t offset;   // of its image's gradient
  int row, column;  // with the padding
  bool is_there;
};
RSN2_DEVICE InputPixel input_pixel(const ConvGradInputArguments& a, const PixelPart& part, int64_t number) {
  const SlotPixel pixel = slot_pixel(a.groups, part.first_image, number, a.window.height, a.window.width);
  return {pixel.image * a.grad_y_strides.image, pixel.row + a.window.top, pixel.column + a.window.left, true};
}

// Where the output pixel lies that reads this one at row p, column q of the kernel, channel 0; -1: none does.
RSN2_DEVICE int64_t reader_offset(const ConvGradInputArguments& a, const InputPixel& pixel, int p, int q) {
  const int below = pixel.row - p * a.window.dilation_height, right = pixel.column - q * a.window.dilation_width;
  const int row = below / a.window.stride_height, column = right / a.window.stride_width;
  const bool is_read = below >= 0 && right >= 0 && row * a.window.stride_height == below &&
                       column * a.window.stride_width == right && row < a.window.out_height &&
                       column < a.window.out_width;
  return is_read ? pixel.offset + row * a.grad_y_strides.row + column * a.grad_y_strides.column : -1;
}

// The first weight of a row whose column inside its span is `column` or beyond.
template <typename V>
RSN2_DEVICE int first_from(const SlotWeights<V>& weights, const ValueRange& row, int column) {
  int low = int(row.first), high = int(row.last);
  while (low < high) {
    const int middle = low + (high - low) / 2;
    if (int(weights.columns[middle]) < column) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

template <typename E, typename V>
struct TaskConv2dGradInput {
  using Arguments = ConvGradInputArguments;
  using A = typename SumOf<E>::type;
  static constexpr int kThreads = 128;
  static constexpr int kMinBlocks = 3;
  static constexpr int kWarps = kThreads / kWarp;
  static constexpr int kPieces = kWarps;  // of a block at once
  static constexpr int kPixels = kPixelsOfWarp<A>;
  static constexpr int kChannels = 64;

  static constexpr int64_t kWalkedBytes = kWarps * int64_t(sizeof(WalkedWeights<A>));
  static constexpr int64_t shared_bytes(int channels_of_block) {
    return kWalkedBytes + int64_t(kWarps) * channels_of_block * kPixels * int64_t(sizeof(A));
  }

  static RSN2_DEVICE void run(const Arguments& a) {
    const int num_slots = a.index.num_slots(), blocks = ceil_div(a.window.channels, a.channels_of_block);
    const int64_t num_items = num_row_tiles(a.groups, num_slots) * a.parts * blocks;
    for (int64_t item = block_index() * kWarps + warp_index(); item < num_items; item += num_blocks() * kWarps) {
      const PixelPart part = pixel_part<kPixels>(a.groups, num_slots, a.parts, a.window.in_pixels(), item / blocks);
      if (part.last <= part.first) continue;
      const int first = int(item % blocks) * a.channels_of_block;
      Piece piece{part,
                  first,
                  least(a.channels_of_block, a.window.channels - first),
                  sums_of_warp(a.channels_of_block) + lane_index(),
                  0,
                  false};
      for (int c = 0; c < piece.count; ++c) piece.sums[c * kWarp] = LanePixels<A>{};
      if (part.slot >= 0) add_taps(a, piece);
      store(a, piece);
    }
  }

 private:
  struct Piece {
    PixelPart part;
    int first, count;     // channels
    LanePixels<A>* sums;  // this lane's, kWarp apart
    int since_store;      // weights since the sums were stored
    bool is_stored;       // the results hold the sums so far
  };
  static RSN2_DEVICE LanePixels<A>* sums_of_warp(int channels_of_block) {
    return reinterpret_cast<LanePixels<A>*>(shared_memory() + kWalkedBytes) + warp_index() * channels_of_block * kWarp;
  }
  static RSN2_DEVICE WalkedWeights<A>& walked() {
    return reinterpret_cast<WalkedWeights<A>*>(shared_memory())[warp_index()];
  }

  static RSN2_DEVICE void add_taps(const Arguments& a, Piece& piece) {
    const PixelPart& part = piece.part;
    InputPixel mine[kPixelsOfLane<A>];
    RSN2_UNROLL
    for (int n = 0; n < kPixelsOfLane<A>; ++n) {
      const int64_t number = part.first + lane_index() * kPixelsOfLane<A> + n;
      mine[n] = {0, 0, 0, number < part.last};
      if (!mine[n].is_there) continue;
      mine[n] = input_pixel(a, part, number);
    }
    const SlotWeights<V> own = weights_of(PackedStore<V>{static_cast<const V*>(a.values), a.index}, part.slot);
    const SlotWeights<V> frozen =
        weights_of(PackedStore<V>{static_cast<const V*>(a.frozen_values), a.frozen_index}, part.slot);
    const E* reading[kPixelsOfLane<A>];  // the output pixel that reads this one, channel 0; null: none does
    for (int p = 0; p < a.window.kernel_height; ++p) {
      for (int q = 0; q < a.window.kernel_width; ++q) {
        bool is_read = false;
        RSN2_UNROLL
        for (int n = 0; n < kPixelsOfLane<A>; ++n) {
          const int64_t at = mine[n].is_there ? reader_offset(a, mine[n], p, q) : -1;
          reading[n] = at < 0 ? nullptr : static_cast<const E*>(a.grad_y) + at;
          is_read = is_read || reading[n] != nullptr;
        }
        if (ballot(is_read) == 0) continue;
        const int64_t column = (p * int64_t(a.window.kernel_width) + q) * a.window.channels + piece.first;
        if (own.owns_any()) add_columns(a, own, column, reading, piece);
        if (frozen.owns_any()) add_columns(a, frozen, column, reading, piece);
      }
    }
  }

  // Adds the products of the piece's columns of the matrix, from `first` on; they may lie in several spans.
  static RSN2_DEVICE void add_columns(const Arguments& a, const SlotWeights<V>& weights, int64_t first,
                                      const E* const (&reading)[kPixelsOfLane<A>], Piece& piece) {
    for (int done = 0; done < piece.count;) {
      const int64_t span = (first + done) / kSpanColumns;
      const int low = int((first + done) % kSpanColumns), high = least(kSpanColumns, low + piece.count - done);
      for (int64_t panel = 0; panel < weights.num_panels; ++panel) {
        add_panel(a, weights, panel, span, low, high, reading, done - low, piece);
      }
      done += high - low;
    }
  }

  // Columns low .. high of a tile; column 0 would be channel `shift` of the piece.
  static RSN2_DEVICE void add_panel(const Arguments& a, const SlotWeights<V>& weights, int64_t panel, int64_t span,
                                    int low, int high, const E* const (&reading)[kPixelsOfLane<A>], int shift,
                                    Piece& piece) {
    const int64_t tile = panel * weights.num_spans + span;
    // Lane r finds where these columns begin in row r, lane r + 16 where they end.
    const ValueRange range = weights.table.of_row(tile, lane_index() % kPanelRows);
    const int bound = first_from(weights, range, lane_index() < kPanelRows ? low : high);
    const int following = shuffle(bound, (lane_index() + kPanelRows) % kWarp);
    uint32_t rows = ballot(lane_index() < kPanelRows && bound < following);  // that have weights here
    for (; rows != 0; rows &= rows - 1) {
      const int row = lowest_bit(rows);
      const int64_t channel = (panel * kPanelRows + row) * a.grad_y_strides.channel;
      LanePixels<A> grad{};
      RSN2_UNROLL
      for (int n = 0; n < kPixelsOfLane<A>; ++n) {
        if (reading[n]) grad.of[n] = Convert<A, E>::from(reading[n][channel]);
      }
      LanePixels<A>* sums = piece.sums + int64_t(shift) * kWarp;
      walk_row<A>(weights, shuffle(bound, row), shuffle(bound, row + kPanelRows), walked(),
                  [&](const WalkedWeights<A>& some, int count) {
                    for (int i = 0; i < count; i += kAtOnce) add_weights(some, i, count, grad, sums);
                    piece.since_store += count;
                  });
    }
    // One chain of all products would round more: what is there goes to the results after about 32 for each channel.
    // For 16-bit results the last rounding is what counts.
    if (sizeof(E) == sizeof(A) && piece.since_store >= 32 * piece.count) {
      store(a, piece);
      for (int c = 0; c < piece.count; ++c) piece.sums[c * kWarp] = LanePixels<A>{};
      piece.since_store = 0;
    }
  }

  // The weights of a row have different columns: several sums are read before the first is written.
  static constexpr int kAtOnce = 4;
  static RSN2_DEVICE void add_weights(const WalkedWeights<A>& some, int first, int count, const LanePixels<A>& grad,
                                      LanePixels<A>* sums) {
    LanePixels<A> sum[kAtOnce];
    RSN2_UNROLL
    for (int i = 0; i < kAtOnce; ++i) {
      if (first + i >= count) continue;
      sum[i] = sums[some[first + i].column * kWarp];
      RSN2_UNROLL
      for (int n = 0; n < kPixelsOfLane<A>; ++n) sum[i].of[n] += some[first + i].value * grad.of[n];
    }
    RSN2_UNROLL
    for (int i = 0; i < kAtOnce; ++i) {
      if (first + i < count) sums[some[first + i].column * kWarp] = sum[i];
    }
  }

  static RSN2_DEVICE void store(const Arguments& a, Piece& piece) {
    RSN2_UNROLL
    for (int n = 0; n < kPixelsOfLane<A>; ++n) {
      const int64_t pixel = piece.part.first + lane_index() * kPixelsOfLane<A> + n;
      if (pixel >= piece.part.last) continue;
      E* at = static_cast<E*>(a.grad_x) + piece.first * a.grad_x_strides.channel +
              offset_of(a.grad_x_strides,
                        slot_pixel(a.groups, piece.part.first_image, pixel, a.window.height, a.window.width));
      for (int c = 0; c < piece.count; ++c, at += a.grad_x_strides.channel) {
        A sum = piece.part.slot < 0 ? NotANumber<A>::value() : piece.sums[c * kWarp].of[n];
        if (piece.is_stored) sum += Convert<A, E>::from(*at);
        *at = Convert<E, A>::from(sum);
      }
    }
    piece.is_stored = true;
  }
};

}  // namespace rsn2
