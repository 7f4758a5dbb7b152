// Forward and gradient of the input: one product, read in two directions. Torch-free.
#include <map>
#include <utility>

#include "task_conv2d_run.h"

namespace rsn2 {

// ---- 16-bit numbers -------------------------------------------------------------------------------------------------

float as_sum(ConvFloat16 v) {
  const uint32_t sign = (v.bits & 0x8000u) << 16, exponent = v.bits >> 10 & 31, fraction = v.bits & 0x3ffu;
  uint32_t bits = sign | (exponent + 112) << 23 | fraction << 13;
  if (exponent == 31) bits = sign | 0x7f800000u | fraction << 13;
  float result;
  __builtin_memcpy(&result, &bits, sizeof(result));
  if (exponent == 0) result = (sign != 0 ? -1.0f : 1.0f) * static_cast<float>(fraction) * 0x1p-24f;
  return result;
}

void from_sum(float v, ConvBFloat16& to) {
  uint32_t bits;
  __builtin_memcpy(&bits, &v, sizeof(bits));
  to.bits = static_cast<uint16_t>(v != v ? bits >> 16 | 0x40u : (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

void from_sum(float v, ConvFloat16& to) {
  uint32_t bits;
  __builtin_memcpy(&bits, &v, sizeof(bits));
  const uint32_t sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u | (magnitude >> 13 & 0x3ffu);
  } else if (magnitude >= 0x477ff000u) {  // 65520 and above round to infinity
    half = 0x7c00u;
  } else if (magnitude < 113u << 23) {  // adding 0.5 puts the unit of a subnormal half into the last bit of the sum
    float sum;
    __builtin_memcpy(&sum, &magnitude, sizeof(sum));
    sum += 0.5f;
    __builtin_memcpy(&half, &sum, sizeof(half));
    half -= 0x3f000000u;
  } else {
    half = (magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  }
  to.bits = static_cast<uint16_t>(half | sign);
}

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

// Which way the matrix is read: forward its rows are output channels, for the gradient of the input (input channel,
// phase) pairs.
enum class Way { forward, grad_input };

template <class A>
struct Workspace {
  std::vector<ConvLane> lanes;
  ConvBuffer<ConvWeight<A>> weights;
  ConvBuffer<int32_t> row_ends, next, offset_of, row_of;
  ConvBuffer<A> start, source, results;
};

struct Product {
  const ConvCall& call;
  Way way;
  ConvAxis h, w;
  const ConvImages& source;
  const ConvImages& result;
  const std::vector<ConvStore>& stores;
  const void* bias;
  bool relu;

  const ConvIndex& index() const { return stores[0].index; }
  int64_t num_phases() const { return h.num_phases * w.num_phases; }
  int64_t num_blocks() const { return way == Way::forward ? index().num_blocks_c : index().num_blocks_o; }
  int64_t block_channels() const { return way == Way::forward ? index().block_c : index().block_o; }
  int64_t num_channels() const { return way == Way::forward ? index().C : index().O; }
  int64_t num_row_blocks() const { return way == Way::forward ? index().num_blocks_o : index().num_blocks_c; }
  int64_t row_block() const { return way == Way::forward ? index().block_o : index().block_c; }
  int64_t num_rows() const { return way == Way::forward ? index().O : index().C; }
  int64_t brick(int64_t block, int64_t row_block) const {
    return way == Way::forward ? index().brick(block, row_block) : index().brick(row_block, block);
  }
};

// What a job is part of: a slot's images under a plan.
struct Part {
  const ConvGroup* group;
  const ConvPlan* plan;
  std::vector<ConvIndex::Slot> slots;  // of each store that has weights of it
  std::vector<const void*> values;
  int64_t first_job, num_panels;
};

// The owned weights of a block of source channels and a panel of result bricks, in the order of the walk: value and
// offset. Returns their number.
template <class A, class V>
int64_t pack_block(const Product& product, const Part& part, int64_t block, int64_t first_row_block,
                   int64_t end_row_block, Workspace<A>& space) {
  const ConvIndex& index = product.index();
  int64_t most = 0;
  for (int64_t row_block = first_row_block; row_block < end_row_block; ++row_block) {
    const int64_t brick = product.brick(block, row_block);
    for (const ConvIndex::Slot& slot : part.slots) most += slot.brick_starts[brick + 1] - slot.brick_starts[brick];
  }
  const int64_t num_phases = product.num_phases(), brick_rows = product.row_block() * num_phases;
  ConvWeight<A>* const weights = space.weights.room_for(most);
  int32_t* row_ends = space.row_ends.room_for((end_row_block - first_row_block) * brick_rows);
  const int32_t* const offset_of = space.offset_of.room_for(0);
  ConvWeight<A>* to = weights;

  if (product.way == Way::forward) {
    for (int64_t row_block = first_row_block; row_block < end_row_block; ++row_block) {
      const int64_t brick = product.brick(block, row_block);
      int32_t at[2] = {0, 0};
      for (size_t s = 0; s < part.slots.size(); ++s) at[s] = part.slots[s].brick_starts[brick];
      for (int64_t row = 0; row < brick_rows; ++row) {
        for (size_t s = 0; s < part.slots.size(); ++s) {
          const ConvIndex::Slot& slot = part.slots[s];
          const V* values = static_cast<const V*>(part.values[s]);
          const int32_t end = at[s] + slot.row_counts[brick * brick_rows + row];
          for (int32_t n = at[s]; n < end; ++n) *to++ = {as_sum(values[slot.places[n]]), offset_of[slot.columns[n]]};
          at[s] = end;
        }
        *row_ends++ = static_cast<int32_t>(to - weights);
      }
    }
    return to - weights;
  }

  // Here the brick's order is by the other channel: a counting sort.
  const int32_t* const row_of = space.row_of.room_for(0);
  const int64_t channel_offset = part.plan->source.channel_pitch * (product.call.kernels->vector_bytes / sizeof(A));
  int32_t* const next = space.next.room_for(brick_rows);
  for (int64_t row_block = first_row_block; row_block < end_row_block; ++row_block) {
    const int64_t brick = product.brick(block, row_block);
    std::fill(next, next + brick_rows, 0);
    for (const ConvIndex::Slot& slot : part.slots) {
      for (int32_t n = slot.brick_starts[brick]; n < slot.brick_starts[brick + 1]; ++n) ++next[row_of[slot.columns[n]]];
    }
    int32_t total = static_cast<int32_t>(to - weights);
    for (int64_t row = 0; row < brick_rows; ++row) {
      const int32_t begin = total;
      total += next[row];
      next[row] = begin;
      *row_ends++ = total;
    }
    to = weights + total;
    for (size_t s = 0; s < part.slots.size(); ++s) {
      const ConvIndex::Slot& slot = part.slots[s];
      const V* values = static_cast<const V*>(part.values[s]);
      int32_t n = slot.brick_starts[brick];
      for (int64_t o = 0; o < index.block_o; ++o) {
        const int32_t channel = static_cast<int32_t>(o * channel_offset);
        for (const int32_t end = n + slot.row_counts[brick * index.block_o + o]; n < end; ++n) {
          const uint16_t column = slot.columns[n];
          weights[next[row_of[column]]++] = {as_sum(values[slot.places[n]]), offset_of[column] + channel};
        }
      }
    }
  }
  return to - weights;
}

// For each column of a brick: its offset in the source tile and, for the gradient, its row in the brick.
template <class A>
void fill_tables(const Product& product, const ConvPlan& plan, Workspace<A>& space) {
  const ConvIndex& index = product.index();
  const int64_t lanes = product.call.kernels->vector_bytes / sizeof(A), positions = index.P * index.Q;
  int32_t* const offset_of = space.offset_of.room_for(positions * index.block_c);
  int32_t* const row_of = space.row_of.room_for(positions * index.block_c);
  for (int64_t position = 0; position < positions; ++position) {
    const int64_t phase = product.h.phase[position / index.Q] * product.w.num_phases +
                          product.w.phase[position % index.Q];
    for (int64_t c = 0; c < index.block_c; ++c) {
      const int64_t channel = product.way == Way::forward ? c * plan.source.channel_pitch : 0;
      offset_of[position * index.block_c + c] = static_cast<int32_t>((plan.tap[position] + channel) * lanes);
      row_of[position * index.block_c + c] = static_cast<int32_t>(c * product.num_phases() + phase);
    }
  }
}

// Job: kLanes * num_groups pictures of one slot, one panel of the result's channels.
template <class A, class V>
void do_job(const Product& product, const Part& part, int64_t job, Workspace<A>& space) {
  const ConvCall& call = product.call;
  const ConvPlan& plan = *part.plan;
  const TaskConv2dKernels& kernels = *call.kernels;
  const int sum_type = call.is_double() ? 1 : 0;
  const int64_t lanes = kernels.vector_bytes / sizeof(A), tile_lanes = lanes * plan.num_groups;
  const int64_t panel = job % part.num_panels, num_phases = product.num_phases();
  const int64_t num_lanes =
      fill_lanes(call, *part.group, plan, job / part.num_panels * tile_lanes, tile_lanes, space.lanes);
  fill_tables(product, plan, space);

  const int64_t first_block = panel * plan.panel_blocks;
  const int64_t end_block = std::min(product.num_row_blocks(), first_block + plan.panel_blocks);
  const int64_t first_channel = first_block * product.row_block();
  const int64_t num_channels = std::min(product.num_rows(), end_block * product.row_block()) - first_channel;
  const int64_t num_rows = num_channels * num_phases;
  A* const start = space.start.room_for(num_rows);
  std::fill(start, start + num_rows, A(0));
  if (product.bias != nullptr) {  // forward: one phase
    const V* bias = static_cast<const V*>(product.bias) + part.group->slot * product.num_rows() + first_channel;
    for (int64_t o = 0; o < num_channels; ++o) start[o] = as_sum(bias[o]);
  }

  A* const results = space.results.room_for(num_rows * plan.result.pitch * lanes);
  A* const source = space.source.room_for(product.block_channels() * plan.source.channel_pitch * lanes);
  bool has_started = false;
  const int64_t num_blocks = std::max<int64_t>(1, product.num_blocks());
  for (int64_t block = 0; block < num_blocks; ++block) {
    int64_t num_weights = 0;
    if (part.slots.empty()) std::fill_n(space.row_ends.room_for(num_rows), num_rows, 0);
    else num_weights = pack_block<A, V>(product, part, block, first_block, end_block, space);
    if (num_weights == 0 && (has_started || block + 1 < num_blocks)) continue;
    if (num_weights > 0) {
      const int64_t first = block * product.block_channels();
      kernels.copy_in[call.image_dtype](product.source, plan.source, space.lanes.data(), num_lanes, first,
                                        std::min(product.block_channels(), product.num_channels() - first), source);
    }
    kernels.walk[sum_type]({space.weights.room_for(0), space.row_ends.room_for(0), num_rows,
                            has_started ? nullptr : start, source, results, plan.num_groups * plan.rows, plan.columns,
                            plan.source_row_pitch, plan.result.pitch});
    has_started = true;
  }
  kernels.copy_out[call.image_dtype](product.result, plan.result, space.lanes.data(), num_lanes, first_channel,
                                     num_channels, product.relu, results);
}

template <class A, class V>
void run(const Product& product) {
  const ConvCall& call = product.call;
  const int64_t lanes = call.kernels->vector_bytes / sizeof(A);
  std::map<std::pair<int64_t, int64_t>, ConvPlan> plans;  // by number of images and of weights
  std::vector<Part> parts;
  int64_t num_jobs = 0;
  for (const ConvGroup& group : call.groups) {
    Part part{&group, nullptr, {}, {}, num_jobs, 0};
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
      const int64_t num_threads = call.groups.size() == 1 ? call.threads.number : 1;
      make_plan(product.h, product.w,
                {num_images, num_owned, product.num_channels(), product.block_channels(), product.num_rows(),
                 product.row_block(), lanes, call.kernels->vector_bytes, num_threads, false},
                plan);
    }
    part.plan = &plan;
    part.num_panels = divide_up(product.num_row_blocks(), plan.panel_blocks);
    num_jobs += part.num_panels * divide_up(num_images * plan.tiles_per_image(), lanes * plan.num_groups);
    parts.push_back(std::move(part));
  }
  share_jobs<Workspace<A>>(call.threads, num_jobs, [&](Workspace<A>& space, int64_t job) {
    const auto after = std::upper_bound(parts.begin(), parts.end(), job,
                                        [](int64_t j, const Part& part) { return j < part.first_job; });
    const Part& part = *(after - 1);
    do_job<A, V>(product, part, job - part.first_job, space);
  });
}

void run_any(const Product& product) {
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
  run_any({call, Way::forward, forward_axis(call.shape, 0), forward_axis(call.shape, 1), x, y, stores, bias, relu});
}

void conv_grad_input(const ConvCall& call, const ConvImages& grad_y, const std::vector<ConvStore>& stores,
                     const ConvImages& grad_x) {
  run_any({call, Way::grad_input, grad_input_axis(call.shape, 0), grad_input_axis(call.shape, 1), grad_y, grad_x,
           stores, nullptr, false});
}

}  // namespace rsn2
