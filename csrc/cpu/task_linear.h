// The interface between the host side of task_linear (task_linear*.cpp) and its kernels (task_linear*.inl), which are
// compiled once per level. Plain structs; everything here is a pointer, a count or a function pointer.
#pragma once

#include <stdint.h>

namespace rsn2 {

enum TaskLinearType : int32_t { TASK_LINEAR_FLOAT, TASK_LINEAR_DOUBLE, TASK_LINEAR_BFLOAT16, TASK_LINEAR_FLOAT16 };

// A piece is up to TASK_LINEAR_MOST_PIECE weights of one row of the matrix inside one block of columns. A bunch is some
// with the same number of weights, one after another. The loops over a piece's weights then run as often as they
// did for the piece before, which the processor predicts: a wrong guess costs as much as eight weights.
struct TaskLinearBunch {
  uint16_t size;   // weights of each piece, at least 1
  uint16_t count;  // pieces, at least 1
};

// Where a panel's part of a block begins.
struct TaskLinearStart {
  int32_t bunch, piece, weight;
};

constexpr int TASK_LINEAR_MOST_PIECE = 32;
// Four vectors for each fill two thirds of a first-level cache of 48 KiB.
constexpr int64_t TASK_LINEAR_BLOCK_COLUMNS = 128;
// What the kernels may read beyond the last row, column or first, in bytes.
constexpr int64_t TASK_LINEAR_OVERREAD = 96;

// One slot's weights as a sparse matrix of num_rows x num_columns, cut into panels of rows and blocks of columns.
struct TaskLinearMatrix {
  int64_t num_rows, num_columns;
  int64_t panel_rows, block_columns;
  int64_t num_panels, num_blocks;
  int64_t num_values;
  const TaskLinearStart* starts;  // [num_blocks * num_panels + 1] blocks, in each its panels; null: owns nothing
  const TaskLinearBunch* bunches;
  const uint8_t* rows;     // [num_pieces] row inside the panel
  const uint8_t* columns;  // [num_values] in the order of the pieces: column inside its block
  const int32_t* firsts;   // [num_pieces] where in values the first weight of each is; null: the same order
  const int32_t* places;   // null, or [num_values] in the order of the pieces: where in values each one is
  const void* values;      // [num_values] of type value_type
  TaskLinearType value_type;
};

// Rows of a matrix in memory that belong to one slot: row i is rows[i], or first_row + i when rows is null.
struct TaskLinearRows {
  void* data;                         // const where it is read
  int64_t row_stride, column_stride;  // in elements
  const int64_t* rows;
  int64_t first_row, num_rows;
  TaskLinearType type;
};

// out[b, r] = activation(bias[r] + sum over stores and columns c of matrix[r, c] * in[b, c]) for the rows b of a group
// and the rows r of some panels.
struct TaskLinearProduct {
  const TaskLinearMatrix* stores[2];  // the second may be null
  TaskLinearRows in, out;             // out has column_stride 1
  const void* bias;                   // [num_rows] as the sums, or null
  bool relu;
  int64_t first_panel, last_panel;
  void* scratch;  // aligned to 64 bytes, task_linear_product_bytes
};

// grads[w] = sum over rows b of grad_y[b, row of w] * x[b, column of w], for the weights w of some panels and blocks.
struct TaskLinearSampled {
  const TaskLinearMatrix* matrix;
  TaskLinearRows x, grad_y;
  void* grads;  // [num_values]
  TaskLinearType type;
  int64_t first_panel, last_panel, first_block, last_block;
  void* scratch;  // aligned to 64 bytes, task_linear_sampled_bytes
};

struct TaskLinearKernels {
  int vector_bytes;
  int max_vectors;  // vectors of batch rows in a tile
  void (*product)(const TaskLinearProduct&);
  void (*sampled)(const TaskLinearSampled&);
};

// Bytes of a tile of `columns` columns that is max_vectors wide; kernels read and write whole squares of lanes.
constexpr int64_t task_linear_tile_bytes(const TaskLinearKernels& kernels, int64_t columns) {
  return (columns + 15) / 16 * 16 * kernels.max_vectors * kernels.vector_bytes;
}

// Scratch of a product: a tile of the input and, for each tile of batch rows, one of the sums.
constexpr int64_t task_linear_product_bytes(const TaskLinearKernels& kernels, int64_t columns, int64_t rows,
                                            int64_t num_tiles) {
  return task_linear_tile_bytes(kernels, columns) + task_linear_tile_bytes(kernels, rows) * num_tiles;
}

// Scratch of the sampled product: tiles of x and grad_y, and the sums: whole groups of four for each piece.
constexpr int64_t task_linear_sampled_bytes(const TaskLinearKernels& kernels, int64_t columns, int64_t rows,
                                            int64_t num_values, int64_t num_pieces, int64_t sum_bytes) {
  return task_linear_tile_bytes(kernels, columns) + task_linear_tile_bytes(kernels, rows) +
         (num_values + 3 * num_pieces) * sum_bytes;
}

}  // namespace rsn2
