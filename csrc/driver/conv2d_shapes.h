// Shapes on which the driver tries the convolution, named after why they are there.
#pragma once

#include <cstdint>
#include <vector>

namespace rsn2::driver {

struct ConvCase {
  const char* name;
  int64_t B, C, H, W, O, kernel[2], T;
  double keep;
  int64_t stride[2], padding[4], dilation[2];
  std::vector<int64_t> owning_nothing;
  bool is_large;
};

const ConvCase CONV_CASES[] = {
    {"divides_nothing", 5, 7, 11, 13, 19, {3, 3}, 3, 0.1, {1, 1}, {1, 1, 1, 1}, {1, 1}, {}, false},
    {"size_one", 1, 1, 1, 1, 1, {1, 1}, 1, 1.0, {1, 1}, {0, 0, 0, 0}, {1, 1}, {}, false},
    {"no_images", 0, 3, 6, 5, 4, {3, 3}, 2, 0.2, {1, 1}, {1, 1, 1, 1}, {1, 1}, {}, false},
    {"owns_nothing", 6, 5, 7, 8, 6, {3, 3}, 4, 0.2, {1, 1}, {1, 1, 1, 1}, {1, 1}, {1, 3}, false},
    {"all_weights", 3, 6, 9, 10, 8, {3, 3}, 1, 1.0, {1, 1}, {1, 1, 1, 1}, {1, 1}, {}, false},
    {"many_slots", 210, 4, 4, 5, 10, {3, 2}, 200, 0.005, {1, 1}, {1, 1, 0, 1}, {1, 1}, {7}, false},
    {"strided", 4, 6, 15, 14, 10, {3, 3}, 2, 0.3, {2, 3}, {1, 0, 2, 1}, {1, 1}, {}, false},
    {"dilated", 4, 6, 15, 14, 10, {3, 2}, 2, 0.3, {1, 1}, {2, 3, 1, 2}, {3, 2}, {}, false},
    {"strided_dilated", 3, 5, 16, 17, 9, {2, 3}, 2, 0.3, {2, 2}, {1, 2, 0, 3}, {2, 3}, {}, false},
    {"pixels_unread", 3, 4, 9, 9, 5, {1, 1}, 2, 0.5, {3, 4}, {0, 0, 0, 0}, {1, 1}, {}, false},
    {"pointwise", 5, 40, 5, 5, 70, {1, 1}, 2, 0.2, {1, 1}, {0, 0, 0, 0}, {1, 1}, {}, false},
    {"pointwise_whole_vectors", 3, 40, 8, 8, 35, {1, 1}, 2, 0.2, {1, 1}, {0, 0, 0, 0}, {1, 1}, {}, false},
    {"one_pixel", 18, 20, 1, 1, 30, {1, 1}, 2, 0.2, {1, 1}, {0, 0, 0, 0}, {1, 1}, {}, false},
    {"large_kernel", 2, 2, 14, 15, 3, {7, 9}, 2, 0.3, {1, 1}, {3, 3, 4, 4}, {1, 1}, {}, false},
    {"many_channels", 20, 70, 12, 20, 75, {3, 3}, 3, 0.1, {1, 1}, {1, 1, 1, 1}, {1, 1}, {}, true},
    {"large_image", 2, 9, 70, 150, 12, {3, 3}, 2, 0.2, {1, 1}, {1, 1, 1, 1}, {1, 1}, {}, true},
};

}  // namespace rsn2::driver
