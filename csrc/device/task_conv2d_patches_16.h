// Patches of 16-bit images in shared memory as tensor cores read them: [pixels][256 columns of the weights], and what
// else the tensor core kernels of the convolution share.
#pragma once

#include "decode.h"
#include "task_conv2d_patches.h"

namespace rsn2 {

// 16 bytes of memory are 8 channels of one pixel, wherever a pixel begins.
RSN2_HOST_DEVICE bool has_whole_vectors(const void* images, const ImageStrides& strides, int channels) {
  return channels % 8 == 0 && strides.channel == 1 && (strides.image | strides.row | strides.column) % 8 == 0 &&
         reinterpret_cast<uintptr_t>(images) % 16 == 0;
}

template <typename E, int kPixels>
struct alignas(16) Patches16 {
  static constexpr int kThreads = kSpanColumns;
  static constexpr int kPitch = kTilePitch<E>;

  E numbers[kPixels * kPitch];
  Place columns[kSpanColumns];
  Place pixels[kPixels];
  int64_t outputs[kPixels];  // where the output's pixel lies, channel 0; -1: there is none

  RSN2_DEVICE void set_pixels(const ConvWindow& window, const ImageStrides& x, const ImageStrides& y,
                              const Groups& groups, const PixelPart& part) {
    if (thread_index() >= kPixels) return;
    const int64_t number = part.first + thread_index();
    pixels[thread_index()] = {0, kNowhere, 0};
    outputs[thread_index()] = -1;
    if (number >= part.last) return;
    const SlotPixel pixel = slot_pixel(groups, part.first_image, number, window.out_height, window.out_width);
    pixels[thread_index()] = place_of_pixel(window, x, pixel);
    outputs[thread_index()] = offset_of(y, pixel);
  }
  RSN2_DEVICE void set_columns(const ConvWindow& window, const ImageStrides& x, int64_t span) {
    columns[thread_index()] = place_of_column(window, x, span * kSpanColumns + thread_index());
  }

  // Whole vectors are there only after wait_for_copies<0>().
  RSN2_DEVICE void gather(const ConvWindow& window, const E* x, const ImageStrides& strides, bool whole_vectors) {
    if (whole_vectors) {
      gather_vectors(window, x);
    } else if (channels_are_near(strides)) {
      const int pair = thread_index() % kPairs;
      const Place first = columns[2 * pair], second = columns[2 * pair + 1];
      RSN2_NO_UNROLL
      for (int i = thread_index() / kPairs; i < kPixels; i += kAtOnce * (kThreads / kPairs)) {
        uint32_t found[kAtOnce];
        RSN2_UNROLL
        for (int n = 0; n < kAtOnce; ++n) {
          const Place& pixel = pixels[i + n * (kThreads / kPairs)];
          found[n] = two(window, x, pixel, first, second);
        }
        RSN2_UNROLL
        for (int n = 0; n < kAtOnce; ++n) word(i + n * (kThreads / kPairs), pair) = found[n];
      }
    } else {
      constexpr int kStep = kThreads / kPixels;
      const int i = thread_index() % kPixels;
      const Place pixel = pixels[i];
      RSN2_NO_UNROLL
      for (int pair = thread_index() / kPixels; pair < kPairs; pair += kAtOnce * kStep) {
        uint32_t found[kAtOnce];
        RSN2_UNROLL
        for (int n = 0; n < kAtOnce; ++n) {
          const Place* places = columns + 2 * (pair + n * kStep);
          found[n] = two(window, x, pixel, places[0], places[1]);
        }
        RSN2_UNROLL
        for (int n = 0; n < kAtOnce; ++n) word(i, pair + n * kStep) = found[n];
      }
    }
  }

 private:
  static constexpr int kPairs = kSpanColumns / 2;
  static constexpr int kAtOnce = 4;  // pairs of a thread on their way together

  RSN2_DEVICE uint32_t& word(int pixel, int pair) {
    return *reinterpret_cast<uint32_t*>(numbers + pixel * kPitch + 2 * pair);
  }
  static RSN2_DEVICE uint32_t one(const ConvWindow& window, const E* x, const Place& pixel, const Place& column) {
    return is_inside(window, pixel, column) ? x[pixel.offset + column.offset].bits : 0;
  }
  static RSN2_DEVICE uint32_t two(const ConvWindow& window, const E* x, const Place& pixel, const Place& first,
                                  const Place& second) {
    return one(window, x, pixel, first) | one(window, x, pixel, second) << 16;
  }
  // 8 neighbouring columns are channels of one position of the kernel.
  RSN2_DEVICE void gather_vectors(const ConvWindow& window, const E* x) {
    constexpr int kVectors = kSpanColumns / 8;
    const int vector = thread_index() % kVectors;
    const Place column = columns[8 * vector];
    RSN2_NO_UNROLL
    for (int i = thread_index() / kVectors; i < kPixels; i += kThreads / kVectors) {
      const bool inside = is_inside(window, pixels[i], column);
      copy_async(numbers + i * kPitch + 8 * vector, x + (inside ? pixels[i].offset + column.offset : 0), inside);
    }
    commit_copies();
  }
};

// Channels first .. first + kCount of images, for each pixel, [pixels][kCount]; `offsets` is where a pixel's channel 0
// lies, -1 for zeros. Channels from num_channels on are zero. Neighbouring threads take neighbours in memory.
template <int kCount>
constexpr int kChannelPitch = kCount + 8;
template <int kCount, int kPixels, int kThreads, typename E>
RSN2_DEVICE void gather_channels(const E* images, const ImageStrides& strides, int first, int num_channels,
                                 const int64_t* offsets, E* to) {
  constexpr int kAtOnce = 4;
  const bool channels_first = channels_are_near(strides);
  RSN2_NO_UNROLL
  for (int start = thread_index(); start < kCount * kPixels; start += kAtOnce * kThreads) {
    E found[kAtOnce];
    RSN2_UNROLL
    for (int n = 0; n < kAtOnce; ++n) {
      const int i = start + n * kThreads, channel = first + (channels_first ? i % kCount : i / kPixels);
      const int64_t at = offsets[channels_first ? i / kCount : i % kPixels];
      found[n].bits = 0;
      if (at >= 0 && channel < num_channels) found[n] = images[at + channel * strides.channel];
    }
    RSN2_UNROLL
    for (int n = 0; n < kAtOnce; ++n) {
      const int i = start + n * kThreads, pixel = channels_first ? i / kCount : i % kPixels;
      to[pixel * kChannelPitch<kCount> + (channels_first ? i % kCount : i / kPixels)] = found[n];
    }
  }
}

}  // namespace rsn2
