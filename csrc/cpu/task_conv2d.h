// The interface between the host side of the sparse convolution and its kernels, one table of which each level fills.
//
// Included by the level files: plain structs only.
//
// A product (forward, or gradient of the input) computes a tile of results for kLanes pictures at once, one per lane: a
// lane is a rectangle of one image of one slot. Tiles hold their pixels lane-innermost, so that every weight's input is
// an aligned vector whatever the kernel position, stride or dilation. Pitches are counted in vectors.
#pragma once

#include <stdint.h>

namespace rsn2 {

enum ConvDtype { CONV_FLOAT32, CONV_FLOAT64, CONV_BFLOAT16, CONV_FLOAT16, NUM_CONV_DTYPES };

// A batch of images as it stands in memory.
struct ConvImages {
  void* data;
  int64_t stride[4];  // of image, channel, row, column, in elements
  int64_t H, W;
};

// The rectangle that one lane works on: grid rows i.., grid columns j.. of one image.
struct ConvLane {
  int64_t image, i, j;
};

// The part of the source that a result tile needs: [channel][group][row][place][lane]. Outside the image it is 0.
struct ConvSourceTile {
  int32_t num_groups;           // lanes per tile = num_groups * kLanes
  int32_t num_rows;             // rows held
  const int32_t* row_source;    // [num_rows] image row of each, counted from i * row_step
  int32_t width;                // image columns spanned
  const int32_t* column_place;  // [width] where each column is held in its row, or -1
  int64_t first_column;         // image column of the first, counted from j * column_step
  int64_t first_row;            // image row of the first one spanned, counted from i * row_step
  // For a tile as wide as the image: where each pixel from (first row, image column 0) on is held, or -1.
  const int32_t* run_place;  // [run_length]
  int64_t run_length;        // 0: the tile is narrower
  int64_t row_step, column_step;
  int64_t row_pitch, group_pitch, channel_pitch;
};

// Results: [channel][phase row][phase column][group][row][column][lane]. Grid point (i, j) of phase (a, b) is pixel
// (i * num_phases_h + a, j * num_phases_w + b) of the image; there is one phase but for the gradient of a strided one.
struct ConvResultTile {
  int32_t num_groups, rows, columns;
  int32_t num_phases_h, num_phases_w;
  int64_t pitch;            // from one (channel, phase) to the next
  const int32_t* pixel_at;  // [pixels of a lane, row by row, and kLanes more] where each is, in vectors, in group 0
};

// An owned weight ready for use; offset: of its source from the pixel's place in the tile, in numbers.
template <class A>
struct ConvWeight {
  A value;
  int32_t offset;
};

// results[r] (+)= sum over the weights of row r of value * source, for all pixels of a tile.
struct ConvWalk {
  const void* weights;      // ConvWeight<A>, row after row
  const int32_t* row_ends;  // [num_rows]
  int64_t num_rows;         // rows of the matrix: (channel, phase) pairs of the result tile
  const void* start;        // [num_rows] A: what a row's sums are added to; nullptr: to what the results hold
  const void* source;
  void* results;
  int64_t rows, columns;  // of the result tile, groups included in rows
  int64_t source_row_pitch, result_pitch;
};

// sums[n] += per lane, the sum over a tile's pixels of grad[row of n] * source shifted by offsets[n].
struct ConvDots {
  const int32_t* offsets;   // one per owned weight, row after row
  const int32_t* row_ends;  // [num_rows]
  int64_t num_rows;
  const void* source;
  const void* grad;
  int64_t rows, columns;
  int64_t source_row_pitch, grad_pitch;
  void* sums;  // [row_ends[num_rows - 1]] vectors
};

typedef void (*ConvCopyIn)(const ConvImages& images, const ConvSourceTile& form, const ConvLane* lanes,
                           int64_t num_lanes, int64_t first_channel, int64_t num_channels, void* tile);
typedef void (*ConvCopyOut)(const ConvImages& images, const ConvResultTile& form, const ConvLane* lanes,
                            int64_t num_lanes, int64_t first_channel, int64_t num_channels, bool relu,
                            const void* tile);

// sums[o] += the sum of the pixels of channel first_channel + o of an image.
typedef void (*ConvSumPixels)(const ConvImages& images, int64_t image, int64_t first_channel, int64_t num_channels,
                              double* sums);

struct TaskConv2dKernels {
  int vector_bytes;
  ConvCopyIn copy_in[NUM_CONV_DTYPES];
  ConvCopyOut copy_out[NUM_CONV_DTYPES];
  ConvSumPixels sum_pixels[NUM_CONV_DTYPES];
  // The following by the type sums are held in: [0] float, [1] double.
  void (*walk[2])(const ConvWalk& work);
  void (*dots[2])(const ConvDots& work);
  // totals[n] += the sum of the lanes of sums[n], which becomes 0. totals has room for whole vectors.
  void (*sum_lanes[2])(void* sums, int64_t n, void* totals);
};

}  // namespace rsn2
