// From lane-innermost tiles of results to images in memory: see task_conv2d_in.inl.

// Images whose columns are adjacent in memory.
template <typename A, typename E>
static void copy_out_pixels(const ConvImages& images, const ConvResultTile& form, const ConvLane* lanes,
                            int64_t num_lanes, E* data, int64_t num_channels, bool relu, const A* tile) {
  constexpr int L = kLanes<A>;
  const int64_t num_phases = int64_t(form.num_phases_h) * form.num_phases_w;
  const int64_t width = int64_t(form.columns) * form.num_phases_w, height = int64_t(form.rows) * form.num_phases_h;
  // A tile as wide as the image is one run of pixels.
  const bool is_run = width == images.W && images.stride[2] == images.W;
  const int64_t num_runs = is_run ? 1 : height, length = is_run ? height * width : width;
  E* to[L];
  int64_t rows[L], columns[L];  // that the image has from the lane's place on
  for (int64_t l = 0; l < num_lanes; ++l) {
    const int64_t h = lanes[l].i * form.num_phases_h, w = lanes[l].j * form.num_phases_w;
    to[l] = data + lanes[l].image * images.stride[0] + h * images.stride[2] + w;
    rows[l] = images.H - h;
    columns[l] = images.W - w;
  }
  for (int64_t c = 0; c < num_channels; ++c) {
    const A* from = tile + c * num_phases * form.pitch * L;
    const int64_t next_channel = c + 1 < num_channels ? images.stride[1] : 0;
    for (int64_t run = 0; run < num_runs; ++run) {
      const int32_t* pixel_at = form.pixel_at + run * width;
      int64_t room[L];
      for (int64_t l = 0; l < num_lanes; ++l) room[l] = is_run ? rows[l] * width : run < rows[l] ? columns[l] : 0;
      for (int64_t first = 0; first < length; first += L) {
        const int64_t count = length - first < L ? length - first : L;
        Vec<A> v[L];
        RSN2_UNROLL
        for (int k = 0; k < L; ++k) v[k] = load<A>(from + pixel_at[first + k] * int64_t(L));
        if (relu) {
          RSN2_UNROLL
          for (int k = 0; k < L; ++k) v[k] = positive_part<A>(v[k]);
        }
        transpose<A>(v);
        const int64_t at = c * images.stride[1] + run * images.stride[2] + first;
        RSN2_UNROLL
        for (int l = 0; l < L; ++l) {
          if (l >= num_lanes) break;
          const int64_t left = room[l] - first < count ? room[l] - first : count;
          __builtin_prefetch(to[l] + at + next_channel, 1);
          if (left > 0) store_first(to[l] + at, v[l], left);
        }
      }
    }
  }
}

// channels_last.
template <typename A, typename E>
static void copy_out_channels(const ConvImages& images, const ConvResultTile& form, const ConvLane* lanes,
                              int64_t num_lanes, E* data, int64_t num_channels, bool relu, const A* tile) {
  constexpr int L = kLanes<A>;
  const int64_t num_phases = int64_t(form.num_phases_h) * form.num_phases_w;
  const int64_t width = int64_t(form.columns) * form.num_phases_w, height = int64_t(form.rows) * form.num_phases_h;
  const int64_t channel = num_phases * form.pitch * L;
  for (int64_t u = 0; u < height; ++u) {
    E* to[L] = {};
    int64_t room[L] = {};  // columns that the image has from the lane's place on
    for (int64_t l = 0; l < num_lanes; ++l) {
      const int64_t h = lanes[l].i * form.num_phases_h + u, w = lanes[l].j * form.num_phases_w;
      to[l] = data + lanes[l].image * images.stride[0] + h * images.stride[2] + w * images.stride[3];
      room[l] = h < images.H ? images.W - w : 0;
    }
    for (int64_t k = 0; k < width; ++k) {
      const A* from = tile + form.pixel_at[u * width + k] * int64_t(L);
      const int64_t pixel = k * images.stride[3], ahead = k + AHEAD < width ? AHEAD * images.stride[3] : 0;
      for (int64_t c = 0; c < num_channels; c += L) {
        const int64_t count = num_channels - c < L ? num_channels - c : L;
        Vec<A> v[L];
        RSN2_UNROLL
        for (int n = 0; n < L; ++n) v[n] = load<A>(from + (c + (n < count ? n : 0)) * channel);
        if (relu) {
          RSN2_UNROLL
          for (int n = 0; n < L; ++n) v[n] = positive_part<A>(v[n]);
        }
        transpose<A>(v);
        RSN2_UNROLL
        for (int l = 0; l < L; ++l) {
          if (l >= num_lanes) break;
          __builtin_prefetch(to[l] + pixel + c + ahead, 1);
          if (k < room[l]) store_first(to[l] + pixel + c, v[l], count);
        }
      }
    }
  }
}

template <typename A, typename E>
static void copy_out(const ConvImages& images, const ConvResultTile& form, const ConvLane* lanes, int64_t num_lanes,
                     int64_t first_channel, int64_t num_channels, bool relu, const void* tile) {
  constexpr int L = kLanes<A>;
  E* data = static_cast<E*>(images.data) + first_channel * images.stride[1];
  for (int64_t g = 0; g * L < num_lanes; ++g) {
    const A* from = static_cast<const A*>(tile) + g * form.rows * form.columns * L;
    const int64_t count = num_lanes - g * L < L ? num_lanes - g * L : L;
    const auto copy = images.stride[3] == 1 ? copy_out_pixels<A, E> : copy_out_channels<A, E>;
    copy(images, form, lanes + g * L, count, data, num_channels, relu, from);
  }
}
