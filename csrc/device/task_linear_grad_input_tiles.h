// The gradient of a 16-bit input, on tensor cores.
//
// A block computes 256 columns of grad_x for up to 64 rows of one slot, walking over the weight in tiles of 32 rows; a
// warp has 32 of the columns. A tile is expanded row by row and read transposed, the batch's rows of grad_y are the
// other operand: a sum's place is (column, row of the batch), turned round in shared memory before it is stored.
#pragma once

#include "decode.h"
#include "task_linear_grad.h"

namespace rsn2 {

template <typename E, typename V>  // of grad_y and grad_x; of values
struct GradInputTiles {
  struct Arguments {
    RowMatrix<E> grad_y;         // [B, O]
    PackedStore<V> own, frozen;  // one reads what either has
    Groups groups;               // in tiles of kTileRows
    E* grad_x;                   // [B, K], rows one after the other
    int num_parts;               // of the weight's rows
    float* parts;                // [num_parts, B, K], rows in their order: instead when there is more than one
  };
  static constexpr int kThreads = 256;
  static constexpr int kMinBlocks = 2;
  static constexpr int kTileRows = 64;  // of the batch

 private:
  static constexpr int kRows = 32;  // of the weight
  static constexpr int kColumnsOfWarp = kSpanColumns / (kThreads / kWarp);
  static constexpr int kPairs = kTileRows / 16;  // of 8 rows of the batch
  static constexpr int kPieces = kRows / 8;      // of a row of grad_y
  static constexpr int kCopies = kTileRows * kPieces / kThreads;
  static constexpr int kPitch = kTilePitch<E>, kPitchGradY = kRows + 8;
  static_assert(kColumnsOfWarp == 32, "a warp's columns are two times 16");

 public:
  static constexpr int64_t kSharedBytes = kTileBytes<kTileRows, E>;  // of the sums, in the end
  static_assert(kTileBytes<kRows, E> + 2 * kTileRows * kPitchGradY * int64_t(sizeof(E)) <= kSharedBytes, "both fit in");

  static RSN2_DEVICE void run(const Arguments& a) {
    const GatherIndex& index = a.own.index;
    const int T = index.num_slots();
    const int64_t spans = index.num_spans(), items = num_row_tiles(a.groups, T) * spans * a.num_parts;
    E* buffer = reinterpret_cast<E*>(shared_memory());
    for (int64_t item = block_index(); item < items; item += num_blocks()) {
      const RowTile rows = row_tile(a.groups, T, item / (spans * a.num_parts));
      const int64_t span = item / a.num_parts % spans;
      const int part = int(item % a.num_parts);
      float sums[2][2 * kPairs][4] = {};
      RSN2_NO_UNROLL
      for (int second = 0; second < 2; ++second) {
        const SlotWeights<V> weights = weights_of(second ? a.frozen : a.own, rows.slot);
        if (weights.owns_any()) add_up(a, weights, rows, span, part, sums);
      }
      if (a.num_parts > 1) {
        store_part(a, sums, rows, span * kSpanColumns, part);
        continue;
      }
      sync_threads();
      write_sums(sums, rows.slot < 0, buffer);
      sync_threads();
      store(a, rows, span * kSpanColumns, buffer);
      sync_threads();
    }
  }

 private:
  // sums[16 columns][8 rows of the batch]: as multiply_16x8x16 leaves them.
  static RSN2_DEVICE void add_up(const Arguments& a, const SlotWeights<V>& weights, const RowTile& rows, int64_t span,
                                 int part, float (&sums)[2][2 * kPairs][4]) {
    constexpr int kPanels = kRows / kPanelRows;
    E* tile = reinterpret_cast<E*>(shared_memory());
    E* grad_y = tile + kRows * kPitch;  // two halves
    int ids[kCopies];
    RSN2_UNROLL
    for (int i = 0; i < kCopies; ++i) {
      ids[i] = row_before(a.groups, rows.first + thread_index() / kPieces + i * (kThreads / kPieces),
                          rows.first + rows.count);
    }
    const Range panels = part_of(0, weights.num_panels, kPanels, part, a.num_parts);
    TileWeights<kRows, kThreads, V> ahead;
    ahead.fetch(weights, panels.first, span);
    copy_grad_y(a, ids, int(panels.first), grad_y);
    int half = 0;
    for (int panel = int(panels.first); panel < panels.last; panel += kPanels) {
      sync_threads();  // all have read the tile before, and the other half
      clear_tile<kRows, kThreads>(tile);
      copy_grad_y(a, ids, panel + kPanels, grad_y + (1 - half) * kTileRows * kPitchGradY);
      sync_threads();
      ahead.put(weights, tile);
      ahead.fetch(weights, panel + kPanels, span);
      wait_for_copies<1>();
      sync_threads();
      multiply(tile, grad_y + half * kTileRows * kPitchGradY, rows.count, sums);
      half = 1 - half;
    }
    wait_for_copies<0>();
    sync_threads();
  }

  // Columns 16 panel .. 16 panel + 32 of the batch's rows, of which a thread has eight numbers of some.
  static RSN2_DEVICE void copy_grad_y(const Arguments& a, const int (&ids)[kCopies], int panel, E* to) {
    const int column = thread_index() % kPieces * 8;
    RSN2_UNROLL
    for (int i = 0; i < kCopies; ++i) {
      const int row = thread_index() / kPieces + i * (kThreads / kPieces);
      copy_eight(to + row * kPitchGradY + column, a.grad_y, ids[i], int64_t(panel) * kPanelRows + column);
    }
    commit_copies();
  }

  static RSN2_DEVICE void multiply(const E* tile, const E* grad_y, int count, float (&sums)[2][2 * kPairs][4]) {
    const int row = lane_index() % 8, matrix = lane_index() / 8;
    RSN2_UNROLL
    for (int k = 0; k < kRows; k += 16) {
      uint32_t left[2][4];
      RSN2_UNROLL
      for (int m = 0; m < 2; ++m) {
        load_matrices_transposed(
            tile + (k + matrix / 2 * 8 + row) * kPitch + warp_index() * kColumnsOfWarp + m * 16 + matrix % 2 * 8,
            left[m]);
      }
      RSN2_UNROLL
      for (int pair = 0; pair < kPairs; ++pair) {
        if (pair * 16 >= count) break;
        uint32_t two[4];
        load_matrices(grad_y + (pair * 16 + matrix / 2 * 8 + row) * kPitchGradY + k + matrix % 2 * 8, two);
        const uint32_t right[2][2] = {{two[0], two[1]}, {two[2], two[3]}};
        RSN2_UNROLL
        for (int i = 0; i < 4; ++i) multiply_16x8x16<E>(sums[i / 2][2 * pair + i % 2], left[i / 2], right[i % 2]);
      }
    }
  }

  static RSN2_DEVICE void store_part(const Arguments& a, const float (&sums)[2][2 * kPairs][4], const RowTile& rows,
                                     int64_t first_column, int part) {
    const int64_t K = a.own.index.num_columns();
    const int64_t column = first_column + warp_index() * kColumnsOfWarp + lane_index() / 4;
    const int row = lane_index() % 4 * 2;
    float* to = a.parts + place_in(part, a.groups.num_rows, rows.first, K, column);
    RSN2_UNROLL
    for (int n = 0; n < 2 * kPairs; ++n) {
      RSN2_UNROLL
      for (int i = 0; i < 8; ++i) {  // a place of a row of the batch, then one of columns
        const int at = 8 * n + row + i % 2, more = i / 2 * 8;
        const float sum = rows.slot < 0 ? NotANumber<float>::value() : sums[i / 4][n][i % 4];
        if (at < rows.count && column + more < K) to[at * K + more] = sum;
      }
    }
  }

  // [row of the batch][column]; NaN for a slot out of range.
  static RSN2_DEVICE void write_sums(const float (&sums)[2][2 * kPairs][4], bool is_nan, E* to) {
    const int column = warp_index() * kColumnsOfWarp + lane_index() / 4, row = lane_index() % 4 * 2;
    RSN2_UNROLL
    for (int m = 0; m < 2; ++m) {
      RSN2_UNROLL
      for (int n = 0; n < 2 * kPairs; ++n) {
        RSN2_UNROLL
        for (int i = 0; i < 4; ++i) {
          const float sum = is_nan ? NotANumber<float>::value() : sums[m][n][i];
          to[(8 * n + row + i % 2) * kPitch + column + 16 * m + i / 2 * 8] = Convert<E, float>::from(sum);
        }
      }
    }
  }

  static RSN2_DEVICE void store(const Arguments& a, const RowTile& rows, int64_t first_column, const E* from) {
    const int64_t K = a.own.index.num_columns(), column = first_column + lane_index() * 8;
    for (int i = warp_index(); i < rows.count; i += kThreads / kWarp) {
      const E* numbers = from + i * kPitch + lane_index() * 8;
      E* to = a.grad_x + place_in(row_at(a.groups, rows.first + i), K, column);
      if (K % 8 == 0 && column < K) {
        *reinterpret_cast<SixteenBytes*>(to) = *reinterpret_cast<const SixteenBytes*>(numbers);
      } else {
        for (int c = 0; c < 8 && column + c < K; ++c) to[c] = numbers[c];
      }
    }
  }
};

}  // namespace rsn2
