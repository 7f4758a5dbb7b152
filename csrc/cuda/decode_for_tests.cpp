// For tests: one expanded tile, as kernels make it in shared memory. Nothing of this is in the GPU's library.
#ifdef RSN2_EMULATED

#include "../device/decode.h"

#include <vector>

#include "tensors.h"

namespace rsn2 {
namespace {

constexpr const char* OP = "decode";
constexpr int kRows = 64;

template <typename E, typename V>
struct DecodeTile {
  struct Arguments {
    PackedStore<V> weight, frozen;
    int slot;
    int64_t panel, span;
    E* tile;  // [64, 256]
  };
  static constexpr int kThreads = 256;
  static constexpr int kMinBlocks = 1;

  static RSN2_DEVICE void run(const Arguments& a) {
    E* tile = reinterpret_cast<E*>(shared_memory());
    const SlotWeights<V> own = weights_of(a.weight, a.slot), frozen = weights_of(a.frozen, a.slot);
    TileWeights<kRows, kThreads, V> ahead;
    ahead.fetch(own, a.panel, a.span);
    clear_tile<kRows, kThreads>(tile);
    sync_threads();
    ahead.put(own, tile);
    sync_threads();
    ahead.fetch(frozen, a.panel, a.span);
    ahead.add(frozen, tile);
    sync_threads();
    for (int i = thread_index(); i < kRows * kSpanColumns; i += kThreads) {
      a.tile[i] = tile[i / kSpanColumns * kTilePitch<E> + i % kSpanColumns];
    }
  }
};

template <typename E, typename V>
void decode(const OnDevice& device, Tensor& tile, const Tensor& values, const Tensor& index,
            const std::vector<Tensor>& frozen, int64_t slot, int64_t panel, int64_t span) {
  const int32_t* words = index.const_data_ptr<int32_t>();
  PackedStore<V> second = {nullptr, {nullptr, 0, 0, 0}};
  if (!frozen.empty()) {
    second = {static_cast<const V*>(frozen[0].const_data_ptr()),
              {frozen[1].const_data_ptr<int32_t>(), words[2], words[3], words[1]}};
  }
  launch<DecodeTile<E, V>>(device.launch(1, kTileBytes<kRows, E>),
                           {{static_cast<const V*>(values.const_data_ptr()), {words, words[2], words[3], words[1]}},
                            second,
                            int(slot),
                            panel,
                            span,
                            static_cast<E*>(tile.mutable_data_ptr())});
}

// The tile [64, 256] of rows 16 panel .. and columns 256 span .., in the dtype of `like`; float32 is rounded to TF32.
Tensor decode_of(const Tensor& like, const Tensor& values, const Tensor& index, std::vector<Tensor> frozen,
                 int64_t slot, int64_t panel, int64_t span) {
  const OnDevice device(OP, "like", like);
  Tensor tile = new_tensor(like, {kRows, kSpanColumns}, like.scalar_type());
  const auto run = [&](auto decode_typed) { decode_typed(device, tile, values, index, frozen, slot, panel, span); };
  const bool is_wide = values.scalar_type() == ScalarType::Float;
  switch (like.scalar_type()) {
    case ScalarType::Float: run(decode<Tf32, float>); break;
    case ScalarType::BFloat16: is_wide ? run(decode<BFloat16, float>) : run(decode<BFloat16, BFloat16>); break;
    default: is_wide ? run(decode<Float16, float>) : run(decode<Float16, Float16>); break;
  }
  return tile;
}

}  // namespace
}  // namespace rsn2

STABLE_TORCH_LIBRARY_IMPL(rsn2_emulated, CPU, m) { m.impl("decode", TORCH_BOX(&rsn2::decode_of)); }

#endif
