// Packed stores for random masks: an encoder of its own, written from the text of rsn2_kernels/formats/packed.py.
#include <algorithm>
#include <cstring>

#include "driver.h"

namespace rsn2::driver {

uint64_t Random::bits() {
  uint64_t z = state_ += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

template <class T>
Words<T>::Words(const std::vector<T>& from) : data(new T[from.size()]), size(static_cast<int64_t>(from.size())) {
  std::copy(from.begin(), from.end(), data.get());
}
template struct Words<int64_t>;
template struct Words<int32_t>;

namespace {

int64_t tile_of(const Weight& w, int64_t K) {
  return w.row / TILE_ROWS * ceil_div(K, TILE_COLUMNS) + w.column / TILE_COLUMNS;
}

void put_short(uint64_t* words, int64_t i, int64_t number) {
  words[i / 4] |= static_cast<uint64_t>(number) << (i % 4 * 16);
}

// The segment of one slot; `owned` is in value order.
std::vector<uint64_t> encode(const std::vector<Weight>& owned, int64_t O, int64_t K) {
  if (owned.empty()) return {};
  const int64_t spans = ceil_div(K, TILE_COLUMNS), num_tiles = ceil_div(O, TILE_ROWS) * spans;
  std::vector<uint64_t> words(static_cast<size_t>(ceil_div(num_tiles, 4)), 0);
  auto next = owned.begin();
  for (int64_t tile = 0; tile < num_tiles; ++tile) {
    const auto first = next;
    while (next != owned.end() && tile_of(*next, K) == tile) ++next;
    const int64_t n = next - first;
    if (n == 0) continue;
    put_short(words.data(), tile, n);
    const int64_t first_row = tile / spans * TILE_ROWS, first_column = tile % spans * TILE_COLUMNS;
    const int64_t rows = std::min(TILE_ROWS, O - first_row), columns = std::min(TILE_COLUMNS, K - first_column);
    const int64_t as_bits = ceil_div(rows * columns, 64), as_offsets = ceil_div(n, 4);
    const size_t at = words.size();
    words.resize(at + static_cast<size_t>(std::min(as_bits, as_offsets)), 0);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t r = first[i].row - first_row, c = first[i].column - first_column;
      if (as_offsets < as_bits) {
        put_short(words.data() + at, i, r * TILE_COLUMNS + c);
      } else {
        const int64_t bit = r * columns + c;
        words[at + static_cast<size_t>(bit / 64)] |= uint64_t{1} << bit % 64;
      }
    }
  }
  return words;
}

std::vector<int64_t> encode_all(int64_t T, int64_t O, int64_t K, const std::vector<std::vector<Weight>>& owned) {
  std::vector<int64_t> words{1, T, O, K};
  std::vector<std::vector<uint64_t>> segments;
  for (const auto& weights : owned) segments.push_back(encode(weights, O, K));
  int64_t at = 6 + 2 * T, value = 0;
  for (const auto& segment : segments) words.push_back(std::exchange(at, at + static_cast<int64_t>(segment.size())));
  words.push_back(at);
  for (const auto& weights : owned) words.push_back(std::exchange(value, value + static_cast<int64_t>(weights.size())));
  words.push_back(value);
  for (const auto& segment : segments) {
    for (const uint64_t word : segment) words.push_back(static_cast<int64_t>(word));
  }
  return words;
}

std::vector<int64_t> first_values(const std::vector<std::vector<Weight>>& owned) {
  std::vector<int64_t> first{0};
  for (const auto& weights : owned) first.push_back(first.back() + static_cast<int64_t>(weights.size()));
  return first;
}

}  // namespace

Store::Store(Dtype dtype, int64_t num_slots, int64_t num_rows, int64_t num_columns,
             std::vector<std::vector<Weight>> weights)
    : T(num_slots),
      O(num_rows),
      K(num_columns),
      owned(std::move(weights)),
      first(first_values(owned)),
      positions(encode_all(T, O, K, owned)),
      values(dtype, first.back()) {}

Store random_store(Random& random, Dtype dtype, int64_t T, int64_t O, int64_t K, double keep,
                   const std::vector<int64_t>& owning_nothing) {
  std::vector<std::vector<Weight>> owned(static_cast<size_t>(T));
  for (int64_t o = 0; o < O; ++o) {
    for (int64_t k = 0; k < K; ++k) {
      const int64_t t = static_cast<int64_t>(random.uniform() / keep);
      const bool is_free = t >= T || std::count(owning_nothing.begin(), owning_nothing.end(), t) > 0;
      if (!is_free) owned[t].push_back({o, k});
    }
  }
  for (auto& weights : owned) {  // stable: by row, then column inside a tile
    std::stable_sort(weights.begin(), weights.end(),
                     [K](const Weight& a, const Weight& b) { return tile_of(a, K) < tile_of(b, K); });
  }
  Store store(dtype, T, O, K, std::move(owned));
  store.values.fill(random);
  return store;
}

Store only(const Store& store, int64_t t) {
  std::vector<std::vector<Weight>> owned(static_cast<size_t>(store.T));
  owned[t] = store.owned[t];
  Store result(store.values.dtype(), store.T, store.O, store.K, std::move(owned));
  for (int64_t n = 0; n < store.num_owned(t); ++n) result.values.set(n, store.value(t, n));
  return result;
}

Forbiddens forbid_others(const Store& store, const int32_t* index, const int32_t* segment_starts, int64_t t) {
  Forbiddens result;
  const auto forbid = [&](const void* begin, const void* end) {
    if (begin != end) result.push_back(std::make_unique<Forbidden>(begin, end));
  };
  const char* values = static_cast<const char*>(store.values.data());
  const int64_t bytes = bytes_of(store.values.dtype());
  const int64_t* words = store.positions.data.get();
  forbid(values, values + store.first[t] * bytes);
  forbid(values + store.first[t + 1] * bytes, values + store.first[store.T] * bytes);
  forbid(words + 6 + 2 * store.T, words + store.positions.size);  // kernels read the index alone
  forbid(index + segment_starts[0], index + segment_starts[t]);
  forbid(index + segment_starts[t + 1], index + segment_starts[store.T]);
  return result;
}

Batch::Batch(Random& random, int64_t T, int64_t B, bool one, int64_t slot)
    : is_one(one), ids([&] {
        std::vector<int64_t> result;
        if (one) return std::vector<int64_t>{slot};
        for (int64_t row = 0; row < B; ++row) {
          if (row > 0) result.push_back(-1);  // not an id: never read
          result.push_back(random.below(T));
        }
        return result;
      }()) {}

}  // namespace rsn2::driver
