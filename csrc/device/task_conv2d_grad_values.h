// The gradient of task_conv2d's owned values: for each owned weight the sum over the pixels of its slot's images of the
// output's gradient times what the weight has read. The pixels are split between blocks; each split's sums, in the
// order of the results, go into rows of their own, which ConvGradFinish adds up from the first to the last.
#pragma once

#include "task_conv2d_patches.h"
#include "task_conv2d_walk.h"

namespace rsn2 {

constexpr int kWantedAtOnce = 64;

struct ConvGradValuesArguments {
  ConvWindow window;
  Groups groups;
  const void* x;  // [B, C, H, W]
  ImageStrides x_strides;
  bool whole_vectors;  // has_whole_vectors(x)
  const void* grad_y;  // [B, O, H', W']
  ImageStrides grad_y_strides;
  GatherIndex index;
  void* sums;  // [splits, num_results] of the type of sums
  int64_t num_results;
  int splits;
  int num_wanted;                     // up to 64
  int wanted[kWantedAtOnce];          // slots
  int64_t starts[kWantedAtOnce + 1];  // of each wanted slot's results; the last is the end
};

// Pieces of work: a wanted slot, a block of kRows rows of one span of its weights, a part of its pixels.
struct GradValuesPiece {
  int slot;
  int64_t span;
  int first_row;
  int64_t first_result;  // of the slot, for this split
  int64_t num_results;   // of the slot, as the caller counts
  RowRange images;
  int64_t first, last;  // pixels of the slot's images
};
template <int kRows>
RSN2_DEVICE int64_t num_grad_values_pieces(const ConvGradValuesArguments& a) {
  return a.num_wanted * int64_t(a.splits) * a.index.num_spans() * ceil_div(a.window.num_outputs, kRows);
}
template <int kRows, int kPixels>
RSN2_DEVICE GradValuesPiece grad_values_piece(const ConvGradValuesArguments& a, int64_t item) {
  const int row_blocks = ceil_div(a.window.num_outputs, kRows);
  const int64_t num_spans = a.index.num_spans();
  const int first_row = int(item % row_blocks) * kRows;
  const int64_t span = item / row_blocks % num_spans, rest = item / row_blocks / num_spans;
  const int split = int(rest % a.splits), number = int(rest / a.splits);
  const int slot = a.wanted[number], num_slots = a.index.num_slots();
  const RowRange images = rows_of_slot(a.groups, num_slots, slot);
  const int64_t pixels = (images.last - images.first) * a.window.out_pixels();
  const int64_t tiles = ceil_div<int64_t>(pixels, kPixels);
  return {slot,
          span,
          first_row,
          place_in(split, a.num_results, a.starts[number]),
          a.starts[number + 1] - a.starts[number],
          images,
          tiles * split / a.splits * kPixels,
          least(pixels, tiles * (split + 1) / a.splits * kPixels)};
}

// Whether the slot owns anything; what the caller counts beyond that is NaN.
template <int kThreads, typename A>
RSN2_DEVICE bool owns_results(const ConvGradValuesArguments& a, const GradValuesPiece& piece) {
  const ValueRange values = a.index.values_of(piece.slot);
  const int64_t owned = values.last - values.first;
  if (piece.span == 0 && piece.first_row == 0) {
    spoil<kThreads>(static_cast<A*>(a.sums) + piece.first_result, owned, piece.num_results);
  }
  return owned > 0;
}

// The values of a row that have results: no more than the caller counts.
RSN2_DEVICE ValueRange results_of_row(const SlotTable& table, int64_t tile, int row, const GradValuesPiece& piece) {
  const ValueRange values = table.of_row(tile, row);
  return {values.first, least(values.last, table.tile_starts[0] + piece.num_results)};
}

// On CUDA cores, every dtype. A block has 64 rows and one span: it gathers patches, a tile of pixels after the other;
// each warp walks the weights of its 8 rows, lanes over pixels, 32 weights together, whose sums over the lanes then
// end one in each lane.
template <typename E, typename V>
struct TaskConv2dGradValues {
  using Arguments = ConvGradValuesArguments;
  using A = typename SumOf<E>::type;
  static constexpr int kThreads = Patches<A>::kThreads;
  static constexpr int kMinBlocks = 2;
  static constexpr int kWarps = kThreads / kWarp;
  static constexpr int kRowsOfWarp = 8;
  static constexpr int kRows = kWarps * kRowsOfWarp;
  static constexpr int kPixels = Patches<A>::kPixels;
  static constexpr int64_t kSharedBytes = sizeof(Patches<A>);

  static RSN2_DEVICE void run(const Arguments& a) {
    Patches<A>& patches = *reinterpret_cast<Patches<A>*>(shared_memory());
    const int64_t num_items = num_grad_values_pieces<kRows>(a);
    for (int64_t item = block_index(); item < num_items; item += num_blocks()) {
      const GradValuesPiece piece = grad_values_piece<kRows, kPixels>(a, item);
      if (!owns_results<kThreads, A>(a, piece)) continue;
      const SlotWeights<V> weights = weights_of(PackedStore<V>{nullptr, a.index}, piece.slot);
      A* sums = static_cast<A*>(a.sums) + piece.first_result - weights.table.tile_starts[0];
      sync_threads();
      patches.set_columns(a.window, a.x_strides, piece.span);
      bool is_first = true;
      // Once without pixels where there are none, for the zeros.
      for (int64_t first = piece.first; is_first || first < piece.last; first += kPixels) {
        const PixelPart part{piece.slot, piece.images.first, first, least(piece.last, first + kPixels)};
        sync_threads();  // the patches before these have been read
        patches.set_pixels(a.window, a.x_strides, a.groups, part);
        sync_threads();
        patches.gather(a.window, static_cast<const E*>(a.x), channels_are_near(a.x_strides));
        sync_threads();
        add_rows(a, weights, piece, part, patches, is_first, sums);
        is_first = false;
      }
    }
  }

 private:
  // sums: of the weights as the index counts them; written when is_first, else added to.
  static RSN2_DEVICE void add_rows(const Arguments& a, const SlotWeights<V>& weights, const GradValuesPiece& piece,
                                   const PixelPart& part, const Patches<A>& patches, bool is_first, A* sums) {
    const int first_row = piece.first_row + warp_index() * kRowsOfWarp;
    if (first_row >= a.window.num_outputs) return;
    const E* grads[kPixelsOfLane<A>];  // of this lane's pixels, channel 0
    RSN2_UNROLL
    for (int n = 0; n < kPixelsOfLane<A>; ++n) {
      const int64_t pixel = part.first + lane_index() * kPixelsOfLane<A> + n;
      grads[n] = nullptr;
      if (pixel >= part.last) continue;
      grads[n] = static_cast<const E*>(a.grad_y) +
                 offset_of(a.grad_y_strides,
                           slot_pixel(a.groups, part.first_image, pixel, a.window.out_height, a.window.out_width));
    }
    const int64_t tile = first_row / kPanelRows * weights.num_spans + piece.span;
    RSN2_NO_UNROLL
    for (int r = 0; r < kRowsOfWarp; ++r) {
      const ValueRange row = results_of_row(weights.table, tile, first_row % kPanelRows + r, piece);
      if (row.first >= row.last) continue;
      LanePixels<A> grad{};
      RSN2_UNROLL
      for (int n = 0; n < kPixelsOfLane<A>; ++n) {
        if (grads[n]) grad.of[n] = Convert<A, E>::from(grads[n][(first_row + r) * a.grad_y_strides.channel]);
      }
      for (int64_t at = row.first; at < row.last; at += kWarp) {
        const int count = int(least<int64_t>(kWarp, row.last - at));
        const bool is_mine = lane_index() < count;
        const int column = is_mine ? weights.columns[at + lane_index()] : 0;
        const A sum = sum_over_pixels(patches, column, count, grad);
        if (is_mine) sums[at + lane_index()] = is_first ? sum : sums[at + lane_index()] + sum;
      }
    }
  }

  // Lane l gets the sum over the tile's pixels for column `column` of lane l.
  static RSN2_DEVICE A sum_over_pixels(const Patches<A>& patches, int column, int count, const LanePixels<A>& grad) {
    const A* mine = patches.numbers + lane_index() * kPixelsOfLane<A>;
    A parts[kWarp];
    RSN2_UNROLL
    for (int i = 0; i < kWarp; ++i) {
      parts[i] = 0;
      const int at = shuffle(column, i) * Patches<A>::kPitch;
      if (i >= count) continue;
      const LanePixels<A> patch = *reinterpret_cast<const LanePixels<A>*>(mine + at);
      RSN2_UNROLL
      for (int n = 0; n < kPixelsOfLane<A>; ++n) parts[i] += grad.of[n] * patch.of[n];
    }
    // Half of the columns to one half of the lanes, half to the other, until each lane has one.
    RSN2_UNROLL
    for (int step = 1; step <= 5; ++step) {
      const int half = kWarp >> step;
      const bool is_upper = lane_index() & half;
      RSN2_UNROLL
      for (int i = 0; i < kWarp / 2; ++i) {
        if (i >= half) continue;
        const A given = shuffle_xor(is_upper ? parts[i] : parts[i + half], half);
        parts[i] = (is_upper ? parts[i + half] : parts[i]) + given;
      }
    }
    return parts[0];
  }
};

struct ConvGradFinishArguments {
  const void* sums;  // [splits, num_results]
  void* results;     // [num_results]
  int64_t num_results;
  int splits;
};

// Threads over the results: each adds what the splits have left. A: the type of sums. V: of values.
template <typename A, typename V>
struct ConvGradFinish {
  using Arguments = ConvGradFinishArguments;
  static constexpr int kThreads = 256;
  static constexpr int kMinBlocks = 4;

  static RSN2_DEVICE void run(const Arguments& a) {
    const A* sums = static_cast<const A*>(a.sums);
    for (int64_t i = block_index() * kThreads + thread_index(); i < a.num_results; i += num_blocks() * kThreads) {
      A sum = 0;
      for (int split = 0; split < a.splits; ++split) sum += sums[place_in(split, a.num_results, i)];
      static_cast<V*>(a.results)[i] = Convert<V, A>::from(sum);
    }
  }
};

}  // namespace rsn2
