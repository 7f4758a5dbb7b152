#include "host.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <numeric>
#include <utility>

#include "counters.h"

namespace rsn2 {

Positions parse_positions(const char* op, const int64_t* words, int64_t num_words) {
  check_value(num_words >= 6, op, ": positions must have a header of at least 6 words, got ", num_words);
  check_value(words[0] == 1, op, ": positions must be of format version 1, got ", words[0]);
  const int64_t T = words[1], O = words[2], K = words[3];
  constexpr int64_t MOST = int64_t{1} << 40;  // so that no product of a check overflows
  check_value(T >= 0 && T <= (num_words - 6) / 2, op, ": positions name ", T, " slots, too many for ", num_words,
              " words");
  check_value(O >= 0 && O <= MOST && K >= 0 && K <= MOST, op, ": positions name a matrix of ", O, " x ", K);
  return {T, O, K, words, num_words, words + 4, words + 5 + T};
}

void check_slot(const char* op, const Positions& positions, int64_t t, int64_t num_values) {
  const int64_t first_word = positions.word_starts[t], last_word = positions.word_starts[t + 1];
  check_value(6 + 2 * positions.T <= first_word && first_word <= last_word && last_word <= positions.num_words, op,
              ": positions of slot ", t, " lie at words ", first_word, "..", last_word, " of ", positions.num_words);
  const int64_t first_value = positions.value_starts[t], last_value = positions.value_starts[t + 1];
  check_value(0 <= first_value && first_value <= last_value && last_value <= num_values, op, ": values of slot ", t,
              " lie at ", first_value, "..", last_value, " of ", num_values);
  // What is made for so many weights must not be out of all proportion to what names them.
  check_value((last_value - first_value - 1) / 64 < last_word - first_word || last_value == first_value, op,
              ": positions of slot ", t, " cannot name ", last_value - first_value, " weights in ",
              last_word - first_word, " words");
}

RowGroups group_rows(const char* op, const SlotIds& slots, int64_t num_rows, int64_t num_slots) {
  const int64_t* ids = slots.ids;
  const int64_t stride = slots.is_one ? 0 : slots.stride, num_ids = slots.is_one ? 1 : num_rows;

  bool is_sorted = true;
  for (int64_t i = 0; i < num_ids; ++i) {
    const int64_t id = ids[i * stride];
    if (id < 0 || id >= num_slots) {
      throw std::out_of_range(message(op, ": slots must be in 0..", num_slots - 1, ", got ", id));
    }
    is_sorted = is_sorted && (i == 0 || ids[(i - 1) * stride] <= id);
  }

  RowGroups result;
  const auto append_groups = [=](RowGroups& grouped) {
    for (int64_t place = 0; place < num_rows; ++place) {
      const int64_t id = ids[grouped.row(place) * stride];
      if (place == 0 || id != grouped.groups.back().slot) grouped.groups.push_back({id, place, place});
      grouped.groups.back().end = place + 1;
    }
  };
  if (num_rows == 0) return result;
  if (slots.is_one) {
    result.groups.push_back({ids[0], 0, num_rows});
    return result;
  }
  if (is_sorted) {
    append_groups(result);
    return result;
  }
  result.order.resize(static_cast<size_t>(num_rows));
  const auto id_of = [=](int64_t row) { return ids[row * stride]; };
  if (num_slots <= 4 * num_rows + 1024) {
    std::vector<int64_t> places(static_cast<size_t>(num_slots), 0);  // rows of a slot, then the place of its next one
    for (int64_t row = 0; row < num_rows; ++row) ++places[id_of(row)];
    int64_t next = 0;
    for (int64_t& place : places) place = std::exchange(next, next + place);
    for (int64_t row = 0; row < num_rows; ++row) result.order[places[id_of(row)]++] = row;
  } else {  // so many slots that walking over all of them would cost more than sorting
    std::iota(result.order.begin(), result.order.end(), int64_t{0});
    std::stable_sort(result.order.begin(), result.order.end(),
                     [=](int64_t a, int64_t b) { return id_of(a) < id_of(b); });
  }
  append_groups(result);
  return result;
}

const RowGroup* group_of(const RowGroups& rows, int64_t slot) {
  const auto found = std::lower_bound(rows.groups.begin(), rows.groups.end(), slot,
                                      [](const RowGroup& group, int64_t wanted) { return group.slot < wanted; });
  return found != rows.groups.end() && found->slot == slot ? &*found : nullptr;
}

namespace {

struct Counter {
  int64_t num_calls = 0, num_weights = 0;
};

bool debug_is_set() {
  const char* debug = std::getenv("RSN2_DEBUG");
  return debug != nullptr && std::strcmp(debug, "1") == 0;
}

std::atomic<bool> counting{debug_is_set()};
std::mutex counters_mutex;
std::map<std::string, Counter>& counters() {
  static std::map<std::string, Counter> all;
  return all;
}

}  // namespace

void count_weights_read(const char* op, int64_t num_weights) {
  if (!counting.load(std::memory_order_relaxed)) return;
  const std::lock_guard<std::mutex> lock(counters_mutex);
  Counter& counter = counters()[op];
  ++counter.num_calls;
  counter.num_weights += num_weights;
}

void visit_counters(void (*visit)(void*, const char*, int64_t, int64_t), void* context) {
  const std::lock_guard<std::mutex> lock(counters_mutex);
  for (const auto& [op, counter] : counters()) visit(context, op.c_str(), counter.num_calls, counter.num_weights);
}

void reset_counters() {
  const std::lock_guard<std::mutex> lock(counters_mutex);
  counters().clear();
}

void set_counting(bool on) { counting = on; }
bool is_counting() { return counting; }

namespace {

constexpr std::align_val_t SCRATCH_ALIGNMENT{64};
constexpr int64_t MOST_KEPT = int64_t{16} << 20;  // the system serves larger blocks with pages of their own

struct Block {
  char* data;
  int64_t num_bytes;
};

// Blocks in use come first, in the order in which they were taken; the others wait.
struct KeptBlocks {
  std::vector<Block> blocks;
  size_t num_used = 0;
  ~KeptBlocks() {
    for (const Block& block : blocks) ::operator delete(block.data, SCRATCH_ALIGNMENT);
  }
};

thread_local KeptBlocks kept;

}  // namespace

void* take_scratch(int64_t num_bytes) {
  if (kept.num_used == kept.blocks.size()) kept.blocks.push_back({nullptr, 0});
  const auto waiting = kept.blocks.begin() + static_cast<std::ptrdiff_t>(kept.num_used);
  std::iter_swap(waiting, std::max_element(waiting, kept.blocks.end(),
                                           [](const Block& a, const Block& b) { return a.num_bytes < b.num_bytes; }));
  Block& block = *waiting;
  if (block.data == nullptr || block.num_bytes < num_bytes) {
    ::operator delete(std::exchange(block.data, nullptr), SCRATCH_ALIGNMENT);
    block.data = static_cast<char*>(::operator new(static_cast<size_t>(num_bytes), SCRATCH_ALIGNMENT));
    block.num_bytes = num_bytes;
  }
  ++kept.num_used;
  return block.data;
}

void give_scratch_back(void* data) noexcept {
  const auto end = kept.blocks.begin() + static_cast<std::ptrdiff_t>(kept.num_used);
  const auto block = std::find_if(kept.blocks.begin(), end, [&](const Block& b) { return b.data == data; });
  if (block->num_bytes > MOST_KEPT) {
    ::operator delete(std::exchange(block->data, nullptr), SCRATCH_ALIGNMENT);
    block->num_bytes = 0;
  }
  std::iter_swap(block, end - 1);
  --kept.num_used;
}

}  // namespace rsn2
