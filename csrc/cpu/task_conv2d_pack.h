// The owned weights of a slot made ready for a walk: value and offset, in the walk's order. Torch-free.
#pragma once

#include "task_conv2d_run.h"

namespace rsn2 {

// Which way the matrix is read: forward its rows are output channels, for the gradient of the input (input channel,
// phase) pairs.
enum class ConvWay { forward, grad_input };

struct ConvProduct {
  const ConvCall& call;
  ConvWay way;
  ConvAxis h, w;
  const ConvImages& source;
  const ConvImages& result;
  const std::vector<ConvStore>& stores;
  const void* bias;
  bool relu;

  const ConvIndex& index() const { return stores[0].index; }
  int64_t lanes() const { return call.kernels->vector_bytes / (call.is_double() ? 8 : 4); }
  int64_t num_phases() const { return h.num_phases * w.num_phases; }
  int64_t num_blocks() const { return way == ConvWay::forward ? index().num_blocks_c : index().num_blocks_o; }
  int64_t block_channels() const { return way == ConvWay::forward ? index().block_c : index().block_o; }
  int64_t num_channels() const { return way == ConvWay::forward ? index().C : index().O; }
  int64_t num_row_blocks() const { return way == ConvWay::forward ? index().num_blocks_o : index().num_blocks_c; }
  int64_t row_block() const { return way == ConvWay::forward ? index().block_o : index().block_c; }
  int64_t num_rows() const { return way == ConvWay::forward ? index().O : index().C; }
  int64_t brick(int64_t block, int64_t row_block) const {
    return way == ConvWay::forward ? index().brick(block, row_block) : index().brick(row_block, block);
  }
};

// What a job is part of: a slot's images under a plan.
struct ConvPart {
  const ConvGroup* group;
  const ConvPlan* plan;
  std::vector<ConvIndex::Slot> slots;  // of each store that has weights of it
  std::vector<const void*> values;
  int64_t first_job, jobs_per_panel;
};

// A panel of result bricks, all source blocks. Kept from one job to the next while it is small; else block by block.
template <class A>
class ConvPanel {
 public:
  static constexpr int64_t MOST_KEPT_BYTES = 256 << 10;  // of the second-level cache

  struct Block {
    int64_t num_weights;
    const ConvWeight<A>* weights;
    const int32_t* row_ends;
  };

  // Makes this panel the current one.
  template <class V>
  void select(const ConvProduct& product, const ConvPart& part, int64_t first_row_block, int64_t end_row_block);
  // One source block of it; valid until the next call.
  template <class V>
  Block block(int64_t block);

 private:
  void fill_tables();
  int64_t count(int64_t block) const;
  template <class V>
  void pack(int64_t block, ConvWeight<A>* weights, int32_t* row_ends);
  template <class V>
  void pack_forward(int64_t brick, ConvWeight<A>* weights, int32_t first, int32_t* row_ends);
  template <class V>
  void pack_grad_input(int64_t brick, ConvWeight<A>* weights, int32_t first, int32_t* row_ends);

  const ConvProduct* product_ = nullptr;
  const ConvPart* part_ = nullptr;
  int64_t first_row_block_ = -1, end_row_block_ = -1, num_rows_ = 0;
  bool is_kept_ = false;
  std::vector<int64_t> block_starts_;  // of each source block's weights, when kept
  ConvBuffer<ConvWeight<A>> weights_;
  ConvBuffer<int32_t> row_ends_, next_, offset_of_, row_of_;
};

// For each column of a brick: its offset in the source tile and, for the gradient, its row in the brick.
template <class A>
void ConvPanel<A>::fill_tables() {
  const ConvIndex& index = product_->index();
  const ConvPlan& plan = *part_->plan;
  const int64_t lanes = product_->lanes(), positions = index.P * index.Q;
  int32_t* const offset_of = offset_of_.room_for(positions * index.block_c);
  int32_t* const row_of = row_of_.room_for(positions * index.block_c);
  for (int64_t position = 0; position < positions; ++position) {
    const int64_t phase =
        product_->h.phase[position / index.Q] * product_->w.num_phases + product_->w.phase[position % index.Q];
    for (int64_t c = 0; c < index.block_c; ++c) {
      const int64_t channel = product_->way == ConvWay::forward ? c * plan.source.channel_pitch : 0;
      offset_of[position * index.block_c + c] = static_cast<int32_t>((plan.tap[position] + channel) * lanes);
      row_of[position * index.block_c + c] = static_cast<int32_t>(c * product_->num_phases() + phase);
    }
  }
}

template <class A>
int64_t ConvPanel<A>::count(int64_t block) const {
  int64_t total = 0;
  for (int64_t row_block = first_row_block_; row_block < end_row_block_; ++row_block) {
    const int64_t brick = product_->brick(block, row_block);
    for (const ConvIndex::Slot& slot : part_->slots) total += slot.brick_starts[brick + 1] - slot.brick_starts[brick];
  }
  return total;
}

template <class A>
template <class V>
void ConvPanel<A>::select(const ConvProduct& product, const ConvPart& part, int64_t first_row_block,
                          int64_t end_row_block) {
  if (part_ == &part && first_row_block_ == first_row_block) return;
  product_ = &product;
  part_ = &part;
  first_row_block_ = first_row_block;
  end_row_block_ = end_row_block;
  num_rows_ = (end_row_block - first_row_block) * product.row_block() * product.num_phases();
  fill_tables();
  block_starts_ = {0};
  for (int64_t block = 0; block < product.num_blocks(); ++block) {
    block_starts_.push_back(block_starts_.back() + count(block));
  }
  is_kept_ = block_starts_.back() * static_cast<int64_t>(sizeof(ConvWeight<A>)) <= MOST_KEPT_BYTES;
  if (!is_kept_) return;
  ConvWeight<A>* const weights = weights_.room_for(block_starts_.back());
  int32_t* const row_ends = row_ends_.room_for(std::max<int64_t>(1, product.num_blocks()) * num_rows_);
  std::fill(row_ends, row_ends + num_rows_, 0);  // for a product without source channels
  for (int64_t block = 0; block < product.num_blocks(); ++block) {
    pack<V>(block, weights + block_starts_[block], row_ends + block * num_rows_);
  }
}

template <class A>
template <class V>
typename ConvPanel<A>::Block ConvPanel<A>::block(int64_t block) {
  if (product_->num_blocks() == 0) return {0, weights_.room_for(0), row_ends_.room_for(0)};
  const int64_t num_weights = block_starts_[block + 1] - block_starts_[block];
  if (is_kept_) {
    return {num_weights, weights_.room_for(0) + block_starts_[block], row_ends_.room_for(0) + block * num_rows_};
  }
  ConvWeight<A>* const weights = weights_.room_for(num_weights);
  int32_t* const row_ends = row_ends_.room_for(num_rows_);
  pack<V>(block, weights, row_ends);
  return {num_weights, weights, row_ends};
}

template <class A>
template <class V>
void ConvPanel<A>::pack(int64_t block, ConvWeight<A>* weights, int32_t* row_ends) {
  const int64_t brick_rows = product_->row_block() * product_->num_phases();
  int32_t first = 0;
  for (int64_t row_block = first_row_block_; row_block < end_row_block_; ++row_block, row_ends += brick_rows) {
    const int64_t brick = product_->brick(block, row_block);
    if (product_->way == ConvWay::forward)
      pack_forward<V>(brick, weights, first, row_ends);
    else
      pack_grad_input<V>(brick, weights, first, row_ends);
    first = row_ends[brick_rows - 1];
  }
}

template <class A>
template <class V>
void ConvPanel<A>::pack_forward(int64_t brick, ConvWeight<A>* weights, int32_t first, int32_t* row_ends) {
  const int64_t brick_rows = product_->row_block();
  const int32_t* const offset_of = offset_of_.room_for(0);
  ConvWeight<A>* to = weights + first;
  int32_t at[2] = {0, 0};
  for (size_t s = 0; s < part_->slots.size(); ++s) at[s] = part_->slots[s].brick_starts[brick];
  for (int64_t row = 0; row < brick_rows; ++row) {
    for (size_t s = 0; s < part_->slots.size(); ++s) {
      const ConvIndex::Slot& slot = part_->slots[s];
      const V* const values = static_cast<const V*>(part_->values[s]);
      const int32_t end = at[s] + slot.row_counts[brick * brick_rows + row];
      for (int32_t n = at[s]; n < end; ++n) *to++ = {as_sum(values[slot.places[n]]), offset_of[slot.columns[n]]};
      at[s] = end;
    }
    row_ends[row] = static_cast<int32_t>(to - weights);
  }
}

// The brick's order is by the other channel: a counting sort.
template <class A>
template <class V>
void ConvPanel<A>::pack_grad_input(int64_t brick, ConvWeight<A>* weights, int32_t first, int32_t* row_ends) {
  const int64_t brick_rows = product_->row_block() * product_->num_phases(), block_o = product_->index().block_o;
  const int64_t channel_offset = part_->plan->source.channel_pitch * product_->lanes();
  const int32_t* const offset_of = offset_of_.room_for(0);
  const int32_t* const row_of = row_of_.room_for(0);
  int32_t* const next = next_.room_for(brick_rows);
  std::fill(next, next + brick_rows, 0);
  for (const ConvIndex::Slot& slot : part_->slots) {
    for (int32_t n = slot.brick_starts[brick]; n < slot.brick_starts[brick + 1]; ++n) ++next[row_of[slot.columns[n]]];
  }
  for (int64_t row = 0; row < brick_rows; ++row) {
    const int32_t begin = first;
    first += next[row];
    next[row] = begin;
    row_ends[row] = first;
  }
  for (size_t s = 0; s < part_->slots.size(); ++s) {
    const ConvIndex::Slot& slot = part_->slots[s];
    const V* const values = static_cast<const V*>(part_->values[s]);
    int32_t n = slot.brick_starts[brick];
    for (int64_t o = 0; o < block_o; ++o) {
      const int32_t channel = static_cast<int32_t>(o * channel_offset);
      for (const int32_t end = n + slot.row_counts[brick * block_o + o]; n < end; ++n) {
        const uint16_t column = slot.columns[n];
        weights[next[row_of[column]]++] = {as_sum(values[slot.places[n]]), offset_of[column] + channel};
      }
    }
  }
}

}  // namespace rsn2
