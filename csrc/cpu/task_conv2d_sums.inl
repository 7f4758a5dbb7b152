// The sum of each channel's pixels in double, for the gradient of the bias. Bound by the reading of the images.

RSN2_INLINE void widen(Vec<double> v, Vec<double>* to) { to[0] = v; }
RSN2_INLINE void widen(Vec<float> v, Vec<double>* to) {
  typedef float Half __attribute__((vector_size(RSN2_VECTOR_BYTES / 2)));
  Half halves[2];
  __builtin_memcpy(halves, &v, sizeof(v));
  to[0] = __builtin_convertvector(halves[0], Vec<double>);
  to[1] = __builtin_convertvector(halves[1], Vec<double>);
}

// Adjacent pixels: two vectors at a time, each with its own chains of additions, so that they do not wait for each
// other.
template <typename E>
static double sum_run(const E* from, int64_t length) {
  typedef Sum<E> A;
  constexpr int L = kLanes<A>, D = int(sizeof(double) / sizeof(A));
  Vec<double> sums[2 * D] = {}, wide[2 * D];
  int64_t n = 0;
  for (; n + 2 * L <= length; n += 2 * L) {
    widen(load_as<A, E>(from + n), wide);
    widen(load_as<A, E>(from + n + L), wide + D);
    RSN2_UNROLL
    for (int d = 0; d < 2 * D; ++d) sums[d] += wide[d];
  }
  for (; n < length; n += L) {
    widen(load_masked<A, E>(from + n, bits_between(0, length - n < L ? length - n : L)), wide);
    RSN2_UNROLL
    for (int d = 0; d < D; ++d) sums[d] += wide[d];
  }
  RSN2_UNROLL
  for (int d = 1; d < 2 * D; ++d) sums[0] += sums[d];
  double sum = 0;
  for (int l = 0; l < kLanes<double>; ++l) sum += sums[0][l];
  return sum;
}

// N vectors of adjacent channels of one image, or as many channels of them as the mask has, if N is 1.
template <typename E, int N>
static void sum_adjacent_channels(const ConvImages& images, const E* data, uint32_t mask, double* sums) {
  typedef Sum<E> A;
  constexpr int L = kLanes<A>, D = int(sizeof(double) / sizeof(A));
  double part[L * N] = {};
  for (int n = 0; n < L * N; ++n) {
    if (N > 1 || (mask >> n & 1)) part[n] = sums[n];
  }
  Vec<double> held[N * D], wide[D];
  __builtin_memcpy(held, part, sizeof(part));
  for (int64_t h = 0; h < images.H; ++h) {
    const E* from = data + h * images.stride[2];
    for (int64_t w = 0; w < images.W; ++w, from += images.stride[3]) {
      RSN2_UNROLL
      for (int n = 0; n < N; ++n) {
        widen(N > 1 ? load_as<A, E>(from + n * L) : load_masked<A, E>(from, mask), wide);
        RSN2_UNROLL
        for (int d = 0; d < D; ++d) held[n * D + d] += wide[d];
      }
    }
  }
  __builtin_memcpy(part, held, sizeof(part));
  for (int n = 0; n < L * N; ++n) {
    if (N > 1 || (mask >> n & 1)) sums[n] = part[n];
  }
}

// sums[o] += the sum of the pixels of channel first_channel + o.
template <typename E>
static void sum_pixels(const ConvImages& images, int64_t image, int64_t first_channel, int64_t num_channels,
                       double* sums) {
  typedef Sum<E> A;
  constexpr int L = kLanes<A>, N = 4;
  const int64_t channel = images.stride[1];
  const E* data = static_cast<const E*>(images.data) + image * images.stride[0] + first_channel * channel;
  int64_t c = 0;
  if (channel == 1) {
    for (; c + N * L <= num_channels; c += N * L) sum_adjacent_channels<E, N>(images, data + c, 0, sums + c);
    for (; c < num_channels; c += L) {
      const int64_t count = num_channels - c < L ? num_channels - c : L;
      sum_adjacent_channels<E, 1>(images, data + c, bits_between(0, count), sums + c);
    }
    return;
  }
  const bool is_run = images.stride[3] == 1 && images.stride[2] == images.W;
  const int64_t num_runs = is_run ? 1 : images.H, length = is_run ? images.H * images.W : images.W;
  for (; c < num_channels; ++c) {
    for (int64_t run = 0; run < num_runs; ++run) {
      const E* from = data + c * channel + run * images.stride[2];
      if (images.stride[3] == 1) {
        sums[c] += sum_run<E>(from, length);
        continue;
      }
      double sum[4] = {0, 0, 0, 0};  // four chains, as the processor can add four at a time
      for (int64_t w = 0; w < length; ++w) {
        sum[w % 4] += static_cast<double>(load_one<A, E>(from + w * images.stride[3]));
      }
      sums[c] += (sum[0] + sum[1]) + (sum[2] + sum[3]);
    }
  }
}
