// Patches of the input in shared memory: for one span of 256 columns of the weights and a tile of pixels of the output,
// what each column reads for each pixel, [256][pixels].
#pragma once

#include "task_conv2d_window.h"

namespace rsn2 {

// Sums of type A. The pitch puts neighbouring columns into different banks and keeps a lane's pixels aligned.
template <typename A>
struct Patches {
  static constexpr int kPixels = kPixelsOfWarp<A>;
  static constexpr int kPitch = kPixels + kPixelsOfLane<A>;
  static constexpr int kThreads = kSpanColumns;  // each has one column
  static constexpr int kAtOnce = 8;              // loads of a thread on their way together

  A numbers[kSpanColumns * kPitch];
  Place columns[kSpanColumns];
  Place pixels[kPixels];

  // The three that follow each other, barriers between them. For the pixels of a tile; those at `last` or beyond read
  // zeros.
  RSN2_DEVICE void set_pixels(const ConvWindow& window, const ImageStrides& x, const Groups& groups,
                              const PixelPart& part) {
    const int64_t pixel = part.first + thread_index();
    if (thread_index() >= kPixels) return;
    pixels[thread_index()] =
        pixel < part.last
            ? place_of_pixel(window, x,
                             slot_pixel(groups, part.first_image, pixel, window.out_height, window.out_width))
            : Place{0, kNowhere, 0};
  }
  RSN2_DEVICE void set_columns(const ConvWindow& window, const ImageStrides& x, int64_t span) {
    columns[thread_index()] = place_of_column(window, x, span * kSpanColumns + thread_index());
  }
  // Neighbouring threads take neighbouring pixels, or columns where channels are neighbours in memory.
  template <typename E>
  RSN2_DEVICE void gather(const ConvWindow& window, const E* x, bool columns_first) {
    if (columns_first) {
      const Place mine = columns[thread_index()];
      RSN2_NO_UNROLL
      for (int first = 0; first < kPixels; first += kAtOnce) {
        A found[kAtOnce];
        RSN2_UNROLL
        for (int i = 0; i < kAtOnce; ++i) found[i] = number(window, x, pixels[first + i], mine);
        RSN2_UNROLL
        for (int i = 0; i < kAtOnce; ++i) numbers[thread_index() * kPitch + first + i] = found[i];
      }
    } else {
      constexpr int kStep = kThreads / kPixels;
      const int pixel = thread_index() % kPixels;
      const Place mine = pixels[pixel];
      RSN2_NO_UNROLL
      for (int first = thread_index() / kPixels; first < kSpanColumns; first += kAtOnce * kStep) {
        A found[kAtOnce];
        RSN2_UNROLL
        for (int i = 0; i < kAtOnce; ++i) found[i] = number(window, x, mine, columns[first + i * kStep]);
        RSN2_UNROLL
        for (int i = 0; i < kAtOnce; ++i) numbers[(first + i * kStep) * kPitch + pixel] = found[i];
      }
    }
  }

 private:
  template <typename E>
  static RSN2_DEVICE A number(const ConvWindow& window, const E* x, const Place& pixel, const Place& column) {
    return is_inside(window, pixel, column) ? Convert<A, E>::from(x[pixel.offset + column.offset]) : A(0);
  }
};

// Channels are neighbours in memory, or nearer to each other than pixels are.
RSN2_HOST_DEVICE bool channels_are_near(const ImageStrides& x) { return x.channel < x.column; }

}  // namespace rsn2
