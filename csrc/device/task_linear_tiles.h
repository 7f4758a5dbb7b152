// task_linear on tensor cores.
//
// A block computes kRows rows of one slot times 64 outputs. For each span of 256 columns it brings the rows' numbers
// and the expanded weights to shared memory, then its 8 warps multiply: the weights are the left operand, the rows the
// right one, so that a few rows fill it. The next span's weights are on their way to registers meanwhile, and blocks
// that share a multiprocessor fill each other's waits.
#pragma once

#include "task_linear_common.h"

namespace rsn2 {

template <typename E>
struct TensorCore {  // 32 bytes of both operands: 16 numbers
  using Tile = E;
  static RSN2_DEVICE void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    multiply_16x8x16<E>(d, a, b);
  }
};
template <>
struct TensorCore<float> {  // 8 numbers; those of x are rounded here, those of the weights when they are expanded
  using Tile = Tf32;
  static RSN2_DEVICE void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    const uint32_t rounded[2] = {to_tf32(float_of_bits(b[0])), to_tf32(float_of_bits(b[1]))};
    multiply_16x8x8_tf32(d, a, rounded);
  }
};

template <typename E, typename V, int kRows>
struct LinearTiles {
  using Arguments = TaskLinear<E, V>;
  using Tile = typename TensorCore<E>::Tile;
  static constexpr int kThreads = 256;
  static constexpr int kOutputs = 64;
  static constexpr int64_t kWeightBytes = kTileBytes<kOutputs, Tile>;
  static constexpr int64_t kSharedBytes = kWeightBytes + kTileBytes<kRows, Tile>;
  static constexpr int kMinBlocks = kRows == 16 && sizeof(E) == 2 ? 3 : 2;

  static RSN2_DEVICE void run(const Arguments& a) {
    const int64_t pieces = num_pieces<kOutputs>(a);
    for (int64_t i = block_index(); i < pieces; i += num_blocks()) compute(a, piece_at<kOutputs>(a, i));
  }

 private:
  // Warps over outputs x rows; each multiplies kTilesDown x kTilesAcross tiles of 16 x 8.
  static constexpr int kWarpsDown = kRows < 128 ? 4 : 2;
  static constexpr int kWarpsAcross = kThreads / kWarp / kWarpsDown;
  static constexpr int kTilesDown = kOutputs / 16 / kWarpsDown;
  static constexpr int kTilesAcross = kRows / 8 / kWarpsAcross;
  static constexpr int kRowBytes = kTilePitch<Tile> * int(sizeof(Tile));
  static constexpr int kSumPitch = kOutputs + 4;  // sums on their way out: [kRows][64], a warp's in different banks
  static_assert(kRows * kSumPitch * int64_t(sizeof(float)) <= kSharedBytes, "the sums fit where the tiles were");

  using Sums = float[kTilesDown][kTilesAcross][4];

  static RSN2_DEVICE void compute(const Arguments& a, const LinearPiece& piece) {
    Tile* weight_tile = reinterpret_cast<Tile*>(shared_memory());
    E* x_tile = reinterpret_cast<E*>(shared_memory() + kWeightBytes);
    const int64_t panel = piece.output / kPanelRows;
    const SlotWeights<V> own = weights_of(a.weight, piece.rows.slot);
    const bool has_frozen = weights_of(a.frozen, piece.rows.slot).owns_any();
    const Spans spans = spans_of(a.weight.index.num_spans(), piece.split, a.splits);
    const WarpRows rows = rows_of_warp(a, piece.rows);

    Sums sums = {};
    if (own.owns_any() || has_frozen) {
      TileWeights<kOutputs, kThreads, V> ahead;
      ahead.fetch(own, panel, spans.first);
      for (int span = int(spans.first); span < int(spans.last); ++span) {
        load_x(a, rows, span, x_tile);
        clear_tile<kOutputs, kThreads>(weight_tile);
        sync_threads();
        ahead.put(own, weight_tile);
        if (has_frozen) {
          const SlotWeights<V> frozen = weights_of(a.frozen, piece.rows.slot);  // asked anew: fewer registers
          sync_threads();
          ahead.fetch(frozen, panel, span);
          ahead.add(frozen, weight_tile);
        }
        if (span + 1 < spans.last) ahead.fetch(own, panel, span + 1);
        wait_for_copies<0>();
        sync_threads();
        multiply(piece.rows.count, sums);
        sync_threads();
      }
    }
    store(a, piece, sums);
  }

  // Warp w brings rows w, w + 8, .. of the tile; lane l knows where row w + 8 l lies in the batch.
  struct WarpRows {
    int row;
    int count;
  };
  static constexpr int kWarps = kThreads / kWarp;
  static_assert(kRows / kWarps <= kWarp, "a lane for each row of a warp");

  static RSN2_DEVICE WarpRows rows_of_warp(const Arguments& a, const RowTile& rows) {
    const int i = warp_index() + kWarps * lane_index();
    return {i < rows.count ? int(row_at(a.groups, rows.first + i)) : 0, rows.count};
  }

  // Rows beyond the count are left as they are: a row's numbers touch its own sums alone.
  static RSN2_DEVICE void load_x(const Arguments& a, const WarpRows& rows, int span, E* x_tile) {
    constexpr int kPiece = 16 / int(sizeof(E));
    const int64_t column = int64_t(span) * kSpanColumns;
    const int left = int(least<int64_t>(kSpanColumns, a.num_inputs - column));
    RSN2_NO_UNROLL
    for (int r = 0; warp_index() + kWarps * r < rows.count; ++r) {
      const E* from = a.x + place_in(shuffle(rows.row, r), a.x_stride, column);
      E* to = x_tile + (warp_index() + kWarps * r) * kTilePitch<E>;
      if (a.x_aligned) {
        RSN2_UNROLL
        for (int c = lane_index() * kPiece; c < kSpanColumns; c += kWarp * kPiece) {
          if (c < left && c + kPiece > left) {
            for (int i = 0; i < kPiece; ++i) to[c + i] = c + i < left ? from[c + i] : E{};
          } else {
            copy_async(to + c, c < left ? from + c : a.x, c < left);
          }
        }
      } else {
        RSN2_UNROLL
        for (int c = lane_index(); c < kSpanColumns; c += kWarp) to[c] = c < left ? from[c] : E{};
      }
    }
    commit_copies();
  }

  static RSN2_DEVICE int first_output() { return warp_index() % kWarpsDown * kTilesDown * 16; }
  static RSN2_DEVICE int first_row() { return warp_index() / kWarpsDown * kTilesAcross * 8; }

  // 64 bytes of every row at a time: two steps of the tensor cores. Tiles without a row are left out.
  static RSN2_DEVICE void multiply(int num_rows, Sums& sums) {
    const int lane = lane_index();
    const char* weights = shared_memory() + (first_output() + lane % 16) * kRowBytes + lane / 16 * 16;
    const char* x = shared_memory() + kWeightBytes + (first_row() + lane % 8) * kRowBytes + lane / 8 * 16;
    RSN2_NO_UNROLL
    for (int at = 0; at < kSpanColumns * int(sizeof(Tile)); at += 64) {
      uint32_t left[kTilesDown][2][4];
      RSN2_UNROLL
      for (int i = 0; i < kTilesDown; ++i) {
        load_matrices(weights + i * 16 * kRowBytes + at, left[i][0]);
        load_matrices(weights + i * 16 * kRowBytes + at + 32, left[i][1]);
      }
      RSN2_UNROLL
      for (int j = 0; j < kTilesAcross; ++j) {
        if (first_row() + j * 8 >= num_rows) break;
        uint32_t right[4];
        load_matrices(x + j * 8 * kRowBytes + at, right);
        const uint32_t halves[2][2] = {{right[0], right[1]}, {right[2], right[3]}};
        RSN2_UNROLL
        for (int i = 0; i < kTilesDown; ++i) {
          TensorCore<E>::multiply(sums[i][j], left[i][0], halves[0]);
          TensorCore<E>::multiply(sums[i][j], left[i][1], halves[1]);
        }
      }
    }
  }

  // Through shared memory, so that a warp stores outputs side by side.
  static RSN2_DEVICE void store(const Arguments& a, const LinearPiece& piece, const Sums& sums) {
    float* staged = reinterpret_cast<float*>(shared_memory());
    const int g = lane_index() / 4, q = lane_index() % 4;
    RSN2_UNROLL
    for (int i = 0; i < kTilesDown; ++i) {
      RSN2_UNROLL
      for (int j = 0; j < kTilesAcross; ++j) {
        RSN2_UNROLL
        for (int k = 0; k < 4; ++k) {
          const int row = first_row() + j * 8 + 2 * q + k % 2, output = first_output() + i * 16 + g + k / 2 * 8;
          staged[row * kSumPitch + output] = sums[i][j][k];
        }
      }
    }
    sync_threads();
    for (int i = warp_index(); i < piece.rows.count; i += kWarps) {
      const int64_t row = row_at(a.groups, piece.rows.first + i);
      RSN2_UNROLL
      for (int o = lane_index(); o < kOutputs; o += kWarp) {
        if (piece.output + o < a.num_outputs) {
          store_sum(a, piece, row, piece.output + o, staged[i * kSumPitch + o]);
        }
      }
    }
    sync_threads();  // the tiles may be overwritten
  }
};

}  // namespace rsn2
