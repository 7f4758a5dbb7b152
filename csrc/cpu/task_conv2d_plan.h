// How a convolution is cut into tiles: which source pixels a tile needs and how large a tile is. Torch-free.
#pragma once

#include <cstdint>
#include <vector>

#include "task_conv2d.h"

namespace rsn2 {

struct ConvShape {
  int64_t C, H, W;                                             // of x
  int64_t O, out_H, out_W;                                     // of y
  int64_t kernel_size[2], stride[2], padding[4], dilation[2];  // padding: top, bottom, left, right
};

// One image axis of a product. Result pixel i * num_phases + phase[p] reads source pixel i * step + offset[p] for each
// kernel position p. Forward there is one phase; in the gradient of a strided convolution a phase has the positions
// that reach it.
struct ConvAxis {
  int64_t num_phases, step;
  int64_t source_size, result_size;
  std::vector<int64_t> offset, phase;  // [P] or [Q]
};

ConvAxis forward_axis(const ConvShape& shape, int dimension);     // source x, result y
ConvAxis grad_input_axis(const ConvShape& shape, int dimension);  // source grad_y, result grad_x

// The source pixels that `count` grid points need, and where in the tile they are held: the pixel that position p of
// grid point i reads is at place[p] + i.
struct ConvWindow {
  int64_t first;  // offset of pixel 0 of the window
  int64_t num_places;
  std::vector<int32_t> place;     // [P] or [Q]
  std::vector<int32_t> place_of;  // [pixels of the window] or -1
  std::vector<int32_t> source;    // [num_places] offset of the pixel held there
};

ConvWindow make_window(const ConvAxis& axis, int64_t count);

// What the tile size depends on beside the axes.
struct ConvLoad {
  int64_t num_images, num_owned;         // of one slot
  int64_t num_channels, block_channels;  // of the source: all, and held at a time
  int64_t num_rows, block_rows;          // channels of the result: all, and per brick
  int64_t lanes, vector_bytes;
  int64_t num_threads;  // to share the tiles of this slot; 1 where the cut must not depend on it
};

struct ConvPlan {
  int64_t rows, columns, num_groups;  // of a tile: grid points, and lane groups side by side
  int64_t tiles_h, tiles_w;           // tiles per image
  int64_t panel_blocks;               // result bricks that one job computes
  ConvWindow window_h, window_w;
  std::vector<int32_t> tap;  // [P * Q] offset of each kernel position, in vectors
  std::vector<int32_t> run_place, pixel_at;
  ConvSourceTile source;  // these two point into the vectors above
  ConvResultTile result;
  int64_t source_row_pitch;  // from one row of the result tile to the next, in the source tile
  bool is_direct = false;    // the images are the tiles: see task_conv2d_direct.h

  int64_t tiles_per_image() const { return tiles_h * tiles_w; }
};

// Fills a plan in place (it is not copyable: its tiles point into its vectors).
void make_plan(const ConvAxis& h, const ConvAxis& w, const ConvLoad& load, ConvPlan& plan);

}  // namespace rsn2
