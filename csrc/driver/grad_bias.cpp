// grad_bias against plain loops.
#include "../cpu/grad_bias.h"

#include <optional>

#include "driver.h"

namespace rsn2::driver {

void check_grad_bias(const Array& grad_y, const Batch& batch, int64_t T, const std::vector<int64_t>& threads) {
  const Dtype result = grad_y.block.dtype() == F64 ? F64 : F32;
  const int64_t B = grad_y.size[0], O = grad_y.size[1];
  std::vector<int64_t> wanted;
  for (int64_t t = 0; t < T; ++t) wanted.push_back(t);
  const ConvImages images{grad_y.block.data(),
                          {grad_y.stride[0], grad_y.stride[1], grad_y.stride[2], grad_y.stride[3]},
                          grad_y.size[2],
                          grad_y.size[3]};
  std::optional<Block> first;
  for (const int64_t number : threads) {
    set_num_threads(number);
    Block sums(result, T * O);
    grad_bias(images, static_cast<ConvDtype>(grad_y.block.dtype()), O, group_rows("grad_bias", batch.view(), B, T),
              wanted, sums.data());
    if (first) {
      expect(sums.same_bits(*first), "grad_bias has other bits with " + std::to_string(number) + " threads");
    } else {
      first = std::move(sums);
    }
  }
  std::vector<Exact> exact(static_cast<size_t>(T * O));
  for (int64_t b = 0; b < B; ++b) {
    for (int64_t o = 0; o < O; ++o) {
      for (int64_t h = 0; h < grad_y.size[2]; ++h) {
        for (int64_t w = 0; w < grad_y.size[3]; ++w) exact[batch.slot(b) * O + o].add(grad_y.get(b, o, h, w));
      }
    }
  }
  for (int64_t i = 0; i < T * O; ++i) {
    expect_sum("grad_bias " + std::to_string(i), first->get(i), exact[i], F64, result);
  }
}

}  // namespace rsn2::driver
