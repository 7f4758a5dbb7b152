// The cut into tiles. Torch-free.
#include "task_conv2d_plan.h"

#include <algorithm>
#include <limits>

#include "task_conv2d_index.h"

namespace rsn2 {

ConvAxis forward_axis(const ConvShape& shape, int dimension) {
  ConvAxis axis{
      1, shape.stride[dimension], dimension == 0 ? shape.H : shape.W, dimension == 0 ? shape.out_H : shape.out_W, {},
      {}};
  for (int64_t p = 0; p < shape.kernel_size[dimension]; ++p) {
    axis.offset.push_back(p * shape.dilation[dimension] - shape.padding[2 * dimension]);
    axis.phase.push_back(0);
  }
  return axis;
}

ConvAxis grad_input_axis(const ConvShape& shape, int dimension) {
  const int64_t stride = shape.stride[dimension], size = dimension == 0 ? shape.H : shape.W;
  // A stride larger than the image has phases without a pixel: one stands for them all, so that tiles stay small.
  const int64_t num_phases = std::min(stride, size + 1);
  ConvAxis axis{num_phases, 1, dimension == 0 ? shape.out_H : shape.out_W, size, {}, {}};
  for (int64_t p = 0; p < shape.kernel_size[dimension]; ++p) {
    // Pixel h of x reached pixel (h + padding - p * dilation) / stride of y, where that has no remainder.
    const int64_t shift = p * shape.dilation[dimension] - shape.padding[2 * dimension];
    const int64_t phase = ((shift % stride) + stride) % stride;
    axis.phase.push_back(std::min(phase, num_phases - 1));
    axis.offset.push_back((phase - shift) / stride);
  }
  return axis;
}

ConvWindow make_window(const ConvAxis& axis, int64_t count) {
  ConvWindow window;
  std::vector<int64_t> offsets = axis.offset;
  std::sort(offsets.begin(), offsets.end());
  offsets.erase(std::unique(offsets.begin(), offsets.end()), offsets.end());
  window.first = offsets.front();
  const int64_t span = (count - 1) * axis.step + offsets.back() - window.first + 1;
  window.place_of.assign(static_cast<size_t>(span), -1);

  // A pixel is held once. Pixels of equal remainder by the step stand side by side, so that the next grid point's is
  // the next one held. A wide dilation leaves pixels out: each position then holds its own run, if no two want
  // one pixel.
  bool runs_are_disjoint = true;
  int32_t next = 0;
  for (const int64_t offset : offsets) {
    for (int64_t i = 0; i < count; ++i) {
      int32_t& place = window.place_of[offset - window.first + i * axis.step];
      runs_are_disjoint = runs_are_disjoint && place < 0;
      place = next++;
    }
  }
  if (!runs_are_disjoint) {
    next = 0;
    for (int64_t remainder = 0; remainder < axis.step; ++remainder) {
      const bool is_used = std::any_of(offsets.begin(), offsets.end(), [&](int64_t offset) {
        return (offset - window.first) % axis.step == remainder;
      });
      for (int64_t u = remainder; u < span; u += axis.step) window.place_of[u] = is_used ? next++ : -1;
    }
  }
  window.num_places = next;
  window.source.resize(static_cast<size_t>(next));
  for (int64_t u = 0; u < span; ++u) {
    if (window.place_of[u] >= 0) window.source[window.place_of[u]] = static_cast<int32_t>(window.first + u);
  }
  for (const int64_t offset : axis.offset) window.place.push_back(window.place_of[offset - window.first]);
  return window;
}

namespace {

// Room in the second-level cache (1 MB) for the results of a tile and for a block of its source.
constexpr int64_t RESULT_BYTES = 450 << 10;
constexpr int64_t SOURCE_BYTES = 300 << 10;

// Lengths that cut `size` into equal parts, longest first.
std::vector<int64_t> part_lengths(int64_t size) {
  std::vector<int64_t> lengths;
  for (int64_t parts = 1; parts <= size; ++parts) {
    const int64_t length = divide_up(size, parts);
    if (lengths.empty() || length < lengths.back()) lengths.push_back(length);
    parts = std::max(parts, divide_up(size, length));
  }
  return lengths;
}

struct Cut {
  int64_t rows, columns, num_groups, panel_blocks;
};

// Processor cycles, roughly, of all tiles of a slot; only the order of cuts matters.
double cost_of(const ConvAxis& h, const ConvAxis& w, const ConvLoad& load, int64_t grid_h, int64_t grid_w, Cut cut,
               int64_t places_h, int64_t places_w) {
  const double num_tiles = double(divide_up(grid_h, cut.rows)) * double(divide_up(grid_w, cut.columns));
  const int64_t num_blocks = divide_up(load.num_rows, load.block_rows);
  const double panels = double(divide_up(num_blocks, cut.panel_blocks));
  const double jobs = panels * double(divide_up(int64_t(load.num_images * num_tiles), load.lanes * cut.num_groups));
  const double shared = double(load.num_threads) * double(divide_up(int64_t(jobs), load.num_threads));
  const double pixels = double(cut.rows * cut.columns * cut.num_groups);
  const double piece_columns = double(divide_up(cut.columns, divide_up(cut.columns, 8)));
  const double at_once = std::min(pixels, 2 * piece_columns);
  const double blocks = double(divide_up(load.num_channels, load.block_channels));
  const double num_phases = double(h.num_phases * w.num_phases);

  const double products = double(load.num_owned) * pixels / at_once * (2 + std::max(4.0, 0.55 * at_once));
  const double sums = double(load.num_rows) * num_phases * blocks * pixels * (2 + 10 / at_once);
  const double packing = 3.0 * double(load.num_owned) + double(load.num_rows) * num_phases * blocks;
  const double in = double(load.num_channels * cut.num_groups * places_h) * panels *
                    (double(divide_up(places_w, load.lanes)) * 3.5 * double(load.lanes) + 10);
  const double out = double(load.num_rows * h.num_phases * cut.rows * cut.num_groups) *
                     (double(divide_up(cut.columns * w.num_phases, load.lanes)) * 4.5 * double(load.lanes) + 10);
  return shared / panels * (products + sums + packing + in + out) + 500 * shared;
}

}  // namespace

void make_plan(const ConvAxis& h, const ConvAxis& w, const ConvLoad& load, ConvPlan& plan) {
  const int64_t grid_h = divide_up(h.result_size, h.num_phases), grid_w = divide_up(w.result_size, w.num_phases);
  const int64_t num_blocks = std::max<int64_t>(1, divide_up(load.num_rows, load.block_rows));
  const std::vector<int64_t> all_rows = part_lengths(grid_h), all_columns = part_lengths(grid_w);
  std::vector<int64_t> places_w;
  for (const int64_t columns : all_columns) places_w.push_back(make_window(w, columns).num_places);

  Cut best{1, 1, 1, 1};
  double least = std::numeric_limits<double>::infinity();
  for (const int64_t rows : all_rows) {
    const int64_t places_h = make_window(h, rows).num_places;
    for (size_t n = 0; n < all_columns.size(); ++n) {
      const int64_t columns = all_columns[n];
      // Lane groups side by side only where a tile is otherwise too small to keep the registers busy.
      const int64_t most_groups = rows == 1 && columns < 8 ? 16 : 1;
      for (int64_t num_groups = 1; num_groups <= most_groups; num_groups *= 2) {
        const int64_t pixels = rows * columns * num_groups;
        const int64_t brick_bytes = load.block_rows * h.num_phases * w.num_phases * pixels * load.vector_bytes;
        const int64_t source_bytes =
            std::min(load.block_channels, load.num_channels) * num_groups * places_h * places_w[n] * load.vector_bytes;
        const bool is_smallest = rows == all_rows.back() && columns == all_columns.back() && num_groups == 1;
        if ((brick_bytes > RESULT_BYTES || source_bytes > SOURCE_BYTES) && !is_smallest) continue;
        const int64_t fitting = std::clamp<int64_t>(RESULT_BYTES / brick_bytes, 1, num_blocks);
        for (int64_t panel = fitting; panel >= 1; panel /= 2) {
          const Cut cut{rows, columns, num_groups, divide_up(num_blocks, divide_up(num_blocks, panel))};
          const double cost = cost_of(h, w, load, grid_h, grid_w, cut, places_h, places_w[n]);
          if (cost < least) least = cost, best = cut;
        }
      }
    }
  }

  plan.rows = best.rows;
  plan.columns = best.columns;
  plan.num_groups = best.num_groups;
  plan.tiles_h = divide_up(grid_h, best.rows);
  plan.tiles_w = divide_up(grid_w, best.columns);
  plan.panel_blocks = best.panel_blocks;
  plan.window_h = make_window(h, best.rows);
  plan.window_w = make_window(w, best.columns);

  const int64_t row_pitch = plan.window_w.num_places, group_pitch = plan.window_h.num_places * row_pitch;
  // An odd pitch spreads the channels over the sets of the first-level cache.
  const int64_t channel_pitch = (best.num_groups * group_pitch) | 1;
  plan.run_place.clear();
  if (plan.tiles_w == 1) {
    const int64_t width = static_cast<int64_t>(plan.window_w.place_of.size());
    for (const int32_t row : plan.window_h.place_of) {
      for (int64_t column = 0; column < w.source_size; ++column) {
        const int64_t k = column - plan.window_w.first;
        const int32_t place = k >= 0 && k < width ? plan.window_w.place_of[k] : -1;
        plan.run_place.push_back(row < 0 || place < 0 ? -1 : static_cast<int32_t>(row * row_pitch + place));
      }
    }
  }
  plan.source = {static_cast<int32_t>(best.num_groups),
                 static_cast<int32_t>(plan.window_h.num_places),
                 plan.window_h.source.data(),
                 static_cast<int32_t>(plan.window_w.place_of.size()),
                 plan.window_w.place_of.data(),
                 plan.window_w.first,
                 plan.window_h.first,
                 plan.run_place.data(),
                 static_cast<int64_t>(plan.run_place.size()),
                 h.step,
                 w.step,
                 row_pitch,
                 group_pitch,
                 channel_pitch};
  plan.source_row_pitch = best.num_groups == 1 ? row_pitch : group_pitch;
  const int64_t result_pitch = best.num_groups * best.rows * best.columns;
  plan.pixel_at.clear();
  for (int64_t u = 0; u < best.rows * h.num_phases; ++u) {
    for (int64_t k = 0; k < best.columns * w.num_phases; ++k) {
      const int64_t phase = u % h.num_phases * w.num_phases + k % w.num_phases;
      plan.pixel_at.push_back(
          static_cast<int32_t>(phase * result_pitch + u / h.num_phases * best.columns + k / w.num_phases));
    }
  }
  plan.pixel_at.resize(plan.pixel_at.size() + static_cast<size_t>(load.lanes), 0);
  plan.result = {static_cast<int32_t>(best.num_groups),
                 static_cast<int32_t>(best.rows),
                 static_cast<int32_t>(best.columns),
                 static_cast<int32_t>(h.num_phases),
                 static_cast<int32_t>(w.num_phases),
                 result_pitch,
                 plan.pixel_at.data()};
  plan.tap.clear();
  for (const int32_t place_h : plan.window_h.place) {
    for (const int32_t place_w : plan.window_w.place) {
      plan.tap.push_back(static_cast<int32_t>(place_h * row_pitch + place_w));
    }
  }
}

}  // namespace rsn2
