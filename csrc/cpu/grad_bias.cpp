#include "grad_bias.h"

#include "levels.h"
#include "threads.h"

namespace rsn2 {
namespace {

// A thread sums a run of outputs of one wanted slot over all of that slot's rows, in batch order and in double, so the
// bits depend neither on the rest of the batch nor on the number of threads.
template <class Out>
void sum_slots(ConvSumPixels sum_pixels, int64_t O, const ConvImages& images, const RowGroups& rows,
               const std::vector<int64_t>& wanted, Out* out) {
  constexpr int64_t RUN = 16;  // outputs that one step of the loop sums: a cache line of adjacent float32
  // Rows of one pixel that follow each other are one image of many: the additions and their order are the same.
  const bool is_matrix = images.H * images.W == 1 && images.stride[1] == 1 && rows.order.empty();
  const int64_t runs = (O + RUN - 1) / RUN, num_rows = rows.groups.empty() ? 0 : rows.groups.back().end;
  const int64_t work_per_run = RUN * num_rows * images.H * images.W / std::max<int64_t>(1, wanted.size());
  const int64_t grain = std::max<int64_t>(1, 32768 / std::max<int64_t>(1, work_per_run));
  parallel_for(static_cast<int64_t>(wanted.size()) * runs, grain, [&](int64_t begin, int64_t end) {
    std::vector<double> sums;
    while (begin < end) {  // the runs of one slot together
      const int64_t i = begin / runs, last_run = std::min(end - i * runs, runs);
      const int64_t first = begin % runs * RUN, count = std::min(O, last_run * RUN) - first;
      sums.assign(static_cast<size_t>(count), 0.0);
      const RowGroup* group = group_of(rows, wanted[i]);
      if (group != nullptr) {
        if (is_matrix) {
          const ConvImages image{images.data, {images.stride[0], 1, 0, images.stride[0]}, 1, group->end - group->begin};
          sum_pixels(image, group->begin, first, count, sums.data());
        }
        for (int64_t place = is_matrix ? group->end : group->begin; place < group->end; ++place) {
          sum_pixels(images, rows.row(place), first, count, sums.data());
        }
      }
      for (int64_t o = 0; o < count; ++o) out[i * O + first + o] = static_cast<Out>(sums[o]);
      begin = i * runs + last_run;
    }
  });
}

}  // namespace

void grad_bias(const ConvImages& grad_y, ConvDtype dtype, int64_t num_channels, const RowGroups& rows,
               const std::vector<int64_t>& wanted, void* sums) {
  ConvImages images = grad_y;
  if (num_channels == 1) images.stride[1] = 0;  // means nothing; adjacent are the pixels, if any
  const ConvSumPixels sum_pixels = cpu_kernels().conv2d.sum_pixels[dtype];
  if (dtype == CONV_FLOAT64) {
    sum_slots(sum_pixels, num_channels, images, rows, wanted, static_cast<double*>(sums));
  } else {
    sum_slots(sum_pixels, num_channels, images, rows, wanted, static_cast<float*>(sums));
  }
}

}  // namespace rsn2
