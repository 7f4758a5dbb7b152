// Forward and gradient of the input: one product, read in two directions. Torch-free.
#include <map>
#include <utility>

#include "task_conv2d_direct.h"
#include "task_conv2d_pack.h"

namespace rsn2 {

// ---- lanes ----------------------------------------------------------------------------------------------------------

int64_t fill_lanes(const ConvCall& call, const ConvGroup& group, const ConvPlan& plan, int64_t first, int64_t lanes,
                   std::vector<ConvLane>& result) {
  const int64_t tiles = plan.tiles_per_image(), num_pictures = (group.end - group.begin) * tiles;
  const int64_t count = std::min(lanes, num_pictures - first);
  result.resize(static_cast<size_t>(count));
  for (int64_t l = 0; l < count; ++l) {
    const int64_t place = group.begin + (first + l) / tiles, tile = (first + l) % tiles;
    result[l] = {call.order == nullptr ? place : call.order[place], tile / plan.tiles_w * plan.rows,
                 tile % plan.tiles_w * plan.columns};
  }
  return count;
}

namespace {

template <class A>
struct Workspace {
  std::vector<ConvLane> lanes;
  ConvPanel<A> panel;
  ConvBuffer<A> start, source, results;
};

template <class A, class V>
A* start_of(const ConvProduct& product, const ConvPart& part, int64_t first_channel, int64_t num_channels,
            Workspace<A>& space) {
  const int64_t num_rows = num_channels * product.num_phases();
  A* const start = space.start.room_for(num_rows);
  std::fill(start, start + num_rows, A(0));
  if (product.bias != nullptr) {  // forward: one phase
    const V* bias = static_cast<const V*>(product.bias) + part.group->slot * product.num_rows() + first_channel;
    for (int64_t o = 0; o < num_channels; ++o) start[o] = as_sum(bias[o]);
  }
  return start;
}

// Job: an image, all of the result's channels.
template <class A, class V>
void do_direct_job(const ConvProduct& product, const ConvPart& part, int64_t job, Workspace<A>& space) {
  const ConvCall& call = product.call;
  const ConvPlan& plan = *part.plan;
  fill_lanes(call, *part.group, plan, job, 1, space.lanes);
  const int64_t image = space.lanes[0].image, num_rows = product.num_rows();
  const A* const start = start_of<A, V>(product, part, 0, num_rows, space);
  A* const results = conv_pixels<A>(product.result, image, 0);
  space.panel.template select<V>(product, part, 0, product.num_row_blocks());
  bool has_started = false;
  const int64_t num_blocks = std::max<int64_t>(1, product.num_blocks());
  for (int64_t b = 0; b < num_blocks; ++b) {
    const auto block = space.panel.template block<V>(b);
    if (block.num_weights == 0 && (has_started || b + 1 < num_blocks)) continue;
    call.kernels->walk[call.is_double() ? 1 : 0](
        {block.weights, block.row_ends, num_rows, has_started ? nullptr : start,
         conv_pixels<A>(product.source, image, b * product.block_channels()), results, plan.rows, plan.columns,
         plan.source_row_pitch, plan.result.pitch});
    has_started = true;
  }
  for (int64_t row = 0; row < num_rows && product.relu; ++row) {
    A* const y = results + row * product.result.stride[1];
    for (int64_t i = 0; i < product.result.H * product.result.W; ++i) y[i] = y[i] < 0 ? A(0) : y[i];
  }
}

// Job: kLanes * num_groups pictures of one slot, one panel of the result's channels. Jobs of a panel follow each other.
template <class A, class V>
void do_job(const ConvProduct& product, const ConvPart& part, int64_t job, Workspace<A>& space) {
  const ConvCall& call = product.call;
  const ConvPlan& plan = *part.plan;
  const TaskConv2dKernels& kernels = *call.kernels;
  const int sum_type = call.is_double() ? 1 : 0;
  const int64_t lanes = product.lanes(), tile_lanes = lanes * plan.num_groups, num_phases = product.num_phases();
  const int64_t panel = job / part.jobs_per_panel;
  const int64_t num_lanes =
      fill_lanes(call, *part.group, plan, job % part.jobs_per_panel * tile_lanes, tile_lanes, space.lanes);

  const int64_t first_block = panel * plan.panel_blocks;
  const int64_t end_block = std::min(product.num_row_blocks(), first_block + plan.panel_blocks);
  const int64_t first_channel = first_block * product.row_block();
  const int64_t num_channels = std::min(product.num_rows(), end_block * product.row_block()) - first_channel;
  const int64_t num_rows = num_channels * num_phases;
  const A* const start = start_of<A, V>(product, part, first_channel, num_channels, space);

  A* const results = space.results.room_for(num_rows * plan.result.pitch * lanes);
  A* const source = space.source.room_for(product.block_channels() * plan.source.channel_pitch * lanes);
  space.panel.template select<V>(product, part, first_block, end_block);
  bool has_started = false;
  const int64_t num_blocks = std::max<int64_t>(1, product.num_blocks());
  for (int64_t b = 0; b < num_blocks; ++b) {
    const auto block = space.panel.template block<V>(b);
    if (block.num_weights == 0 && (has_started || b + 1 < num_blocks)) continue;
    if (block.num_weights > 0) {
      const int64_t first = b * product.block_channels();
      kernels.copy_in[call.image_dtype](product.source, plan.source, space.lanes.data(), num_lanes, first,
                                        std::min(product.block_channels(), product.num_channels() - first), source);
    }
    kernels.walk[sum_type]({block.weights, block.row_ends, num_rows, has_started ? nullptr : start, source, results,
                            plan.num_groups * plan.rows, plan.columns, plan.source_row_pitch, plan.result.pitch});
    has_started = true;
  }
  kernels.copy_out[call.image_dtype](product.result, plan.result, space.lanes.data(), num_lanes, first_channel,
                                     num_channels, product.relu, results);
}

template <class A, class V>
void run(const ConvProduct& product) {
  const ConvCall& call = product.call;
  const int64_t lanes = product.lanes();
  std::map<std::pair<int64_t, int64_t>, ConvPlan> plans;  // by number of images and of weights
  std::vector<ConvPart> parts;
  int64_t num_jobs = 0;
  for (const ConvGroup& group : call.groups) {
    ConvPart part{&group, nullptr, {}, {}, num_jobs, 0};
    int64_t num_owned = 0;
    for (const ConvStore& store : product.stores) {
      const ConvIndex::Slot slot = store.index.slot(group.slot);
      if (slot.N == 0) continue;
      part.slots.push_back(slot);
      part.values.push_back(static_cast<const V*>(store.values) + store.value_starts[group.slot]);
      num_owned += slot.N;
    }
    const int64_t num_images = group.end - group.begin;
    const auto [found, is_new] = plans.try_emplace({num_images, num_owned});
    ConvPlan& plan = found->second;
    if (is_new) {
      const int64_t num_threads = call.groups.size() == 1 ? rsn2::num_threads() : 1;
      // Directly only with weights that are made ready once, and an image or two for every thread.
      if (conv_is_direct(call, product.source, product.result) && num_images >= 2 * num_threads &&
          num_owned * int64_t(sizeof(ConvWeight<A>)) <= ConvPanel<A>::MOST_KEPT_BYTES)
        make_direct_plan(call, product.source, product.result, product.num_row_blocks(), plan);
      else
        make_plan(product.h, product.w,
                  {num_images, num_owned, product.num_channels(), product.block_channels(), product.num_rows(),
                   product.row_block(), lanes, call.kernels->vector_bytes, num_threads},
                  plan);
    }
    part.plan = &plan;
    part.jobs_per_panel = divide_up(num_images * plan.tiles_per_image(), plan.is_direct ? 1 : lanes * plan.num_groups);
    num_jobs += part.jobs_per_panel * divide_up(product.num_row_blocks(), plan.panel_blocks);
    parts.push_back(std::move(part));
  }
  share_jobs<Workspace<A>>(num_jobs, [&](Workspace<A>& space, int64_t job) {
    const auto after = std::upper_bound(parts.begin(), parts.end(), job,
                                        [](int64_t j, const ConvPart& part) { return j < part.first_job; });
    const ConvPart& part = *(after - 1);
    (part.plan->is_direct ? do_direct_job<A, V> : do_job<A, V>)(product, part, job - part.first_job, space);
  });
}

void run_any(const ConvProduct& product) {
  switch (product.call.value_dtype) {
    case CONV_FLOAT64: return run<double, double>(product);
    case CONV_BFLOAT16: return run<float, ConvBFloat16>(product);
    case CONV_FLOAT16: return run<float, ConvFloat16>(product);
    default: return run<float, float>(product);
  }
}

}  // namespace

void conv_forward(const ConvCall& call, const ConvImages& x, const std::vector<ConvStore>& stores, const void* bias,
                  bool relu, const ConvImages& y) {
  run_any({call, ConvWay::forward, forward_axis(call.shape, 0), forward_axis(call.shape, 1), x, y, stores, bias, relu});
}

void conv_grad_input(const ConvCall& call, const ConvImages& grad_y, const std::vector<ConvStore>& stores,
                     const ConvImages& grad_x) {
  run_any({call, ConvWay::grad_input, grad_input_axis(call.shape, 0), grad_input_axis(call.shape, 1), grad_y, grad_x,
           stores, nullptr, false});
}

}  // namespace rsn2
