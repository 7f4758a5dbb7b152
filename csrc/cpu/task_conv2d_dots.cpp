// Gradient of the owned values: for each, a product of grad_y and shifted x over pixels and images. Torch-free.
#include "task_conv2d_direct.h"
#include "task_conv2d_exact.h"

namespace rsn2 {
namespace {

// A job's weights have one vector of sums each; together they should leave room in the second-level cache.
constexpr int64_t MOST_SUM_BYTES = 512 << 10;

// After so many tiles the lanes are added up: shorter chains of additions lose fewer bits.
constexpr int64_t TILES_PER_SUM = 8;

// Threads share a slot's work by its weights, each reading all images, where there are many weights, so that each
// thread's sums are few; otherwise by spans of its tiles, so that no image is read twice.
constexpr int64_t MOST_SUM_BYTES_IN_SPANS = 160 << 10, MOST_SPANS = 16, LEAST_TILES_PER_SPAN = 4;

// Job: a span of one slot's tiles in batch order, for the weights of some bricks (input channel blocks first_c ..
// end_c, output channel blocks first_o .. end_o). The spans depend on the slot's images alone and are added up in their
// order; how the weights are divided does not change the sums.
struct Job {
  int64_t group, span;
  int64_t first_c, end_c, first_o, end_o;
};

template <class A>
struct Part {
  ConvPlan plan;
  ConvIndex::Slot slot;
  int64_t num_tiles, num_spans;
  ConvBuffer<A> sums;  // [num_spans][N]
  bool has_nan = false;
};

template <class A>
struct Workspace {
  std::vector<ConvLane> lanes;
  ConvBuffer<int32_t> offset_of, offsets, row_ends;
  ConvBuffer<A> source, grad, sums, totals;
  int64_t num_zeros = 0;  // at the start of sums

  A* zeros(int64_t size) {  // whoever uses them leaves zeros behind
    A* const data = sums.room_for(size);
    if (size > num_zeros) std::fill(data, data + size, A(0)), num_zeros = size;
    return data;
  }
};

template <class A>
void do_job(const ConvCall& call, Part<A>& part, const Job& job, const ConvImages& x, const ConvImages& grad_y,
            const ConvIndex& index, Workspace<A>& space) {
  const TaskConv2dKernels& kernels = *call.kernels;
  const int sum_type = call.is_double() ? 1 : 0;
  const ConvGroup& group = call.groups[job.group];
  const ConvPlan& plan = part.plan;
  const ConvIndex::Slot& slot = part.slot;
  const int64_t lanes = kernels.vector_bytes / sizeof(A), tile_lanes = plan.is_direct ? 1 : lanes * plan.num_groups;
  const int64_t first_o = job.first_o * index.block_o, num_o = std::min(index.O, job.end_o * index.block_o) - first_o;

  // Each weight's offset in the source tile, and where each output channel's weights end in its block.
  const int64_t positions = index.P * index.Q, brick_rows = (job.end_o - job.first_o) * index.block_o;
  int32_t* const offset_of = space.offset_of.room_for(positions * index.block_c);
  for (int64_t position = 0; position < positions; ++position) {
    for (int64_t c = 0; c < index.block_c; ++c) {
      offset_of[position * index.block_c + c] =
          static_cast<int32_t>((plan.tap[position] + c * plan.source.channel_pitch) * lanes);
    }
  }
  int64_t num_weights = 0;
  for (int64_t c_block = job.first_c; c_block < job.end_c; ++c_block) {
    num_weights += slot.brick_starts[index.brick(c_block, job.end_o)] -
                   slot.brick_starts[index.brick(c_block, job.first_o)];  // an input block's bricks are adjacent
  }
  if (num_weights == 0) return;
  int32_t* const offsets = space.offsets.room_for(num_weights);
  int32_t* const row_ends = space.row_ends.room_for((job.end_c - job.first_c) * brick_rows);
  std::vector<int64_t> block_starts;
  int32_t* to = offsets;
  for (int64_t c_block = job.first_c; c_block < job.end_c; ++c_block) {
    block_starts.push_back(to - offsets);
    const int64_t first = index.brick(c_block, job.first_o);
    int32_t n = 0;
    for (int64_t row = 0; row < brick_rows; ++row) {
      n += slot.row_counts[first * index.block_o + row];
      row_ends[(c_block - job.first_c) * brick_rows + row] = n;
    }
    const uint16_t* columns = slot.columns + slot.brick_starts[first];
    for (int32_t i = 0; i < n; ++i) *to++ = offset_of[columns[i]];
  }

  A* source = nullptr;
  A* grad = nullptr;
  if (!plan.is_direct) {
    source = space.source.room_for(index.block_c * plan.source.channel_pitch * lanes);
    grad = space.grad.room_for(num_o * plan.result.pitch * lanes);
  }
  A* const sums = space.zeros(num_weights * lanes);
  A* const totals = space.totals.room_for(num_weights + lanes);
  std::fill(totals, totals + num_weights, A(0));

  // grad_y as a source of its own pixels, held where result pixels are.
  std::vector<int32_t> same(static_cast<size_t>(std::max(plan.rows, plan.columns)));
  for (size_t i = 0; i < same.size(); ++i) same[i] = static_cast<int32_t>(i);
  const int64_t run_length = plan.tiles_w == 1 ? plan.rows * plan.columns : 0;
  const ConvSourceTile grad_form{plan.source.num_groups,
                                 plan.result.rows,
                                 same.data(),
                                 plan.result.columns,
                                 same.data(),
                                 0,
                                 0,
                                 plan.result.pixel_at,
                                 run_length,
                                 1,
                                 1,
                                 plan.columns,
                                 plan.rows * plan.columns,
                                 plan.result.pitch};

  const int64_t pixel_vectors = call.shape.H * call.shape.W / lanes;  // of a plan that is direct
  const int64_t first_tile = part.num_tiles * job.span / part.num_spans;
  const int64_t end_tile = part.num_tiles * (job.span + 1) / part.num_spans;
  for (int64_t tile = first_tile; tile < end_tile; ++tile) {
    const int64_t num_lanes = fill_lanes(call, group, plan, tile * tile_lanes, tile_lanes, space.lanes);
    const ConvLane first_lane = space.lanes[0];
    const int64_t columns = plan.is_direct ? std::min(plan.columns, pixel_vectors - first_lane.j) : plan.columns;
    if (plan.is_direct)
      grad = conv_span<A>(call, plan, grad_y, first_lane, columns, first_o, num_o, same.data(), space.grad);
    else
      kernels.copy_in[call.image_dtype](grad_y, grad_form, space.lanes.data(), num_lanes, first_o, num_o, grad);
    for (int64_t c_block = job.first_c; c_block < job.end_c; ++c_block) {
      const int32_t* ends = row_ends + (c_block - job.first_c) * brick_rows;
      if (ends[num_o - 1] == 0) continue;
      const int64_t first_c = c_block * index.block_c, num_c = std::min(index.block_c, index.C - first_c);
      const int64_t start = block_starts[c_block - job.first_c];
      if (plan.is_direct)
        source = conv_span<A>(call, plan, x, first_lane, columns, first_c, num_c, same.data(), space.source);
      else
        kernels.copy_in[call.image_dtype](x, plan.source, space.lanes.data(), num_lanes, first_c, num_c, source);
      kernels.dots[sum_type]({offsets + start, ends, num_o, source, grad, plan.num_groups * plan.rows, columns,
                              plan.source_row_pitch, plan.result.pitch, sums + start * lanes});
    }
    if ((tile + 1 - first_tile) % TILES_PER_SUM == 0 || tile + 1 == end_tile) {
      kernels.sum_lanes[sum_type](sums, num_weights, totals);
    }
  }

  for (int64_t c_block = job.first_c; c_block < job.end_c; ++c_block) {
    const int64_t first = slot.brick_starts[index.brick(c_block, job.first_o)];
    const int64_t end = slot.brick_starts[index.brick(c_block, job.end_o)];
    const A* from = totals + block_starts[c_block - job.first_c];
    std::copy(from, from + (end - first), part.sums.room_for(0) + job.span * slot.N + first);
  }
}

// Cuts a slot's bricks into jobs: a panel of output channels by as many input blocks as fit, fewer if there would be
// too few jobs for the threads; where one block is too much already, fewer output channels.
template <class A>
void add_jobs(const ConvIndex& index, const Part<A>& part, int64_t group, int64_t most_weights, int64_t wanted_jobs,
              std::vector<Job>& jobs) {
  const int64_t fair = divide_up(part.slot.N, wanted_jobs), most = std::min(most_weights, fair + fair / 16);
  const auto weights = [&](int64_t c, int64_t first_o, int64_t end_o) {
    return part.slot.brick_starts[index.brick(c, end_o)] - part.slot.brick_starts[index.brick(c, first_o)];
  };
  for (int64_t panel = 0; panel < index.num_blocks_o; panel += part.plan.panel_blocks) {
    const int64_t panel_end = std::min(index.num_blocks_o, panel + part.plan.panel_blocks);
    for (int64_t c = 0; c < index.num_blocks_c;) {
      int64_t end_c = c + 1, total = weights(c, panel, panel_end);
      while (end_c < index.num_blocks_c && total + weights(end_c, panel, panel_end) <= most) {
        total += weights(end_c++, panel, panel_end);
      }
      for (int64_t o = panel; o < panel_end;) {  // once, unless block c alone is too much
        int64_t end_o = total <= most ? panel_end : o + 1;
        while (end_o < panel_end && weights(c, o, end_o + 1) <= most) ++end_o;
        for (int64_t span = 0; span < part.num_spans; ++span) jobs.push_back({group, span, c, end_c, o, end_o});
        o = end_o;
      }
      c = end_c;
    }
  }
}

template <class A, class V>
void run(const ConvCall& call, const ConvImages& x, const ConvImages& grad_y, const ConvStore& store,
         const std::vector<void*>& results) {
  const ConvIndex& index = store.index;
  const ConvAxis h = forward_axis(call.shape, 0), w = forward_axis(call.shape, 1);
  const int64_t lanes = call.kernels->vector_bytes / sizeof(A);
  std::vector<Part<A>> parts(call.groups.size());
  std::vector<Job> jobs;
  for (size_t g = 0; g < call.groups.size(); ++g) {
    const ConvGroup& group = call.groups[g];
    Part<A>& part = parts[g];
    part.slot = index.slot(group.slot);
    if (part.slot.N == 0 || group.begin == group.end) continue;
    // The cut into tiles decides the order of the sum, so it depends on this slot and on no stride.
    if (conv_is_direct(call))
      make_direct_gradient_plan(call, x, grad_y, index.num_blocks_o, part.plan);
    else
      make_plan(h, w,
                {group.end - group.begin, part.slot.N, index.C, index.block_c, index.O, index.block_o, lanes,
                 call.kernels->vector_bytes, 1},
                part.plan);
    const int64_t num_pictures = (group.end - group.begin) * part.plan.tiles_per_image();
    part.num_tiles = divide_up(num_pictures, part.plan.is_direct ? 1 : lanes * part.plan.num_groups);
    const bool is_in_spans = part.slot.N * call.kernels->vector_bytes <= MOST_SUM_BYTES_IN_SPANS;
    part.num_spans = std::clamp<int64_t>(part.num_tiles / LEAST_TILES_PER_SPAN, 1, is_in_spans ? MOST_SPANS : 1);
    part.num_spans += part.num_spans > 1 ? part.num_spans % 2 : 0;  // for two threads to share evenly
    part.sums.room_for(part.num_spans * part.slot.N);
    const int64_t wanted_jobs = divide_up(num_threads(), static_cast<int64_t>(call.groups.size()) * part.num_spans);
    add_jobs(index, part, static_cast<int64_t>(g), MOST_SUM_BYTES / call.kernels->vector_bytes, wanted_jobs, jobs);
  }
  share_jobs<Workspace<A>>(static_cast<int64_t>(jobs.size()), [&](Workspace<A>& space, int64_t j) {
    do_job<A>(call, parts[jobs[j].group], jobs[j], x, grad_y, index, space);
  });
  const auto write = [&](const Part<A>& part, size_t g, const A* sums) {
    V* const result = static_cast<V*>(results[g]);
    for (int64_t n = 0; n < part.slot.N; ++n) from_sum(sums[n], result[part.slot.places[n]]);
  };
  struct Nothing {};
  share_jobs<Nothing>(static_cast<int64_t>(parts.size()), [&](Nothing&, int64_t g) {
    Part<A>& part = parts[g];
    A* const sums = part.sums.room_for(0);
    for (int64_t n = 0; n < part.slot.N; ++n) {
      for (int64_t span = 1; span < part.num_spans; ++span) sums[n] += sums[span * part.slot.N + n];
      part.has_nan = part.has_nan || sums[n] != sums[n];
    }
    if (!part.has_nan) write(part, g, sums);
  });
  for (size_t g = 0; g < parts.size(); ++g) {  // one after another: each is shared by all threads
    if (!parts[g].has_nan) continue;
    A* const sums = parts[g].sums.room_for(0);
    conv_replace_nans(call, call.groups[g], index, parts[g].slot, x, grad_y, sums);
    write(parts[g], g, sums);
  }
}

}  // namespace

void conv_grad_values(const ConvCall& call, const ConvImages& x, const ConvImages& grad_y, const ConvStore& store,
                      const std::vector<void*>& results) {
  switch (call.value_dtype) {
    case CONV_FLOAT64: return run<double, double>(call, x, grad_y, store, results);
    case CONV_BFLOAT16: return run<float, ConvBFloat16>(call, x, grad_y, store, results);
    case CONV_FLOAT16: return run<float, ConvFloat16>(call, x, grad_y, store, results);
    default: return run<float, float>(call, x, grad_y, store, results);
  }
}

}  // namespace rsn2
