// Tiles of the convolution: from images in memory to lane-innermost tiles and back.
//
// A square of kLanes x kLanes numbers is transposed in registers: lanes x pixels when an image's columns are adjacent in
// memory (NCHW), lanes x channels when its channels are (channels_last).

// ---- loads and stores of part of a vector ---------------------------------------------------------------------------

RSN2_INLINE uint32_t bits_between(int64_t first, int64_t end) {  // bits first .. end - 1, 0 <= first, end <= 16
  return end <= first ? 0 : ((1u << end) - 1) & ~((1u << first) - 1);
}

// The elements whose bit of mask is set; zero elsewhere, where nothing is read.
template <typename A, typename E>
RSN2_INLINE Vec<A> load_masked(const E* from, uint32_t mask) {
  E part[kLanes<A>];
  __builtin_memset(part, 0, sizeof(part));
  for (int l = 0; l < kLanes<A>; ++l) {
    if (mask >> l & 1) part[l] = from[l];
  }
  return load_as<A, E>(part);
}

#if RSN2_VECTOR_BYTES == 64 && defined(__AVX512BW__)
template <>
inline __attribute__((always_inline)) Vec<float> load_masked<float, float>(const float* from, uint32_t mask) {
  return Vec<float>(_mm512_maskz_loadu_ps(__mmask16(mask), from));
}
template <>
inline __attribute__((always_inline)) Vec<double> load_masked<double, double>(const double* from, uint32_t mask) {
  return Vec<double>(_mm512_maskz_loadu_pd(__mmask8(mask), from));
}
template <>
inline __attribute__((always_inline)) Vec<float> load_masked<float, BFloat16>(const BFloat16* from, uint32_t mask) {
  return widen_bfloat16(bit_cast<HalfVecU16>(_mm256_maskz_loadu_epi16(__mmask16(mask), from)));
}
template <>
inline __attribute__((always_inline)) Vec<float> load_masked<float, Float16>(const Float16* from, uint32_t mask) {
  return widen_float16(bit_cast<HalfVecU16>(_mm256_maskz_loadu_epi16(__mmask16(mask), from)));
}
RSN2_INLINE void store_masked(float* to, Vec<float> v, uint32_t mask) {
  _mm512_mask_storeu_ps(to, __mmask16(mask), __m512(v));
}
RSN2_INLINE void store_masked(double* to, Vec<double> v, uint32_t mask) {
  _mm512_mask_storeu_pd(to, __mmask8(mask), __m512d(v));
}
RSN2_INLINE void store_masked(BFloat16* to, Vec<float> v, uint32_t mask) {
  _mm256_mask_storeu_epi16(to, __mmask16(mask), bit_cast<__m256i>(narrow_bfloat16(v)));
}
RSN2_INLINE void store_masked(Float16* to, Vec<float> v, uint32_t mask) {
  _mm256_mask_storeu_epi16(to, __mmask16(mask), bit_cast<__m256i>(narrow_float16(v)));
}
// The first n elements, or all of them.
template <typename A, typename E>
RSN2_INLINE void store_first(E* to, A v, int64_t n) {
  constexpr int L = int(sizeof(A) / sizeof(v[0]));
  store_masked(to, v, bits_between(0, n < L ? n : L));
}
#else
#if RSN2_VECTOR_BYTES == 32 && defined(__AVX2__)
template <>
inline __attribute__((always_inline)) Vec<float> load_masked<float, float>(const float* from, uint32_t mask) {
  const VecI32 lanes = (VecI32{} + int32_t(mask)) >> VecI32{0, 1, 2, 3, 4, 5, 6, 7} & 1;
  return Vec<float>(_mm256_maskload_ps(from, __m256i(-lanes)));
}
template <>
inline __attribute__((always_inline)) Vec<double> load_masked<double, double>(const double* from, uint32_t mask) {
  typedef typename MaskOf<double>::type VecI64;
  const VecI64 lanes = (VecI64{} + int64_t(mask)) >> VecI64{0, 1, 2, 3} & 1;
  return Vec<double>(_mm256_maskload_pd(from, __m256i(-lanes)));
}
#endif
template <typename A, typename E>
RSN2_INLINE void store_first(E* to, A v, int64_t n) {
  constexpr int L = int(sizeof(A) / sizeof(v[0]));
  if (n >= L) {
    store_as(to, v);
    return;
  }
  E part[L];
  store_as(part, v);
  for (int64_t l = 0; l < n; ++l) to[l] = part[l];
}
#endif

// ---- in ---------------------------------------------------------------------------------------------------------------

// kLanes neighbouring source pixels of every lane, which one transpose brings into the tile.
template <typename A>
struct ConvChunk {
  int64_t at[kLanes<A>];      // of each lane's first pixel, in elements from channel 0 of the block
  uint32_t mask[kLanes<A>];   // which of a lane's pixels are inside its image
  int32_t place[kLanes<A>];   // in the tile, or -1 for a pixel that is not needed
  bool is_full, is_empty;     // all, none of the mask's bits are set
};
constexpr int AHEAD = 4;  // pixels that are fetched early
constexpr int kConvMostChunks = 32;  // prepared together, then done for every channel

// Sets the chunk's masks: lane l has pixels first .. first + count of its run, of which begin[l] .. end[l] are inside.
template <typename A>
RSN2_INLINE void set_masks(ConvChunk<A>& chunk, int64_t first, int64_t count, const int64_t* begin, const int64_t* end) {
  uint32_t all = 0, common = ~0u;
  for (int l = 0; l < kLanes<A>; ++l) {
    const int64_t from = begin[l] - first, to = end[l] - first;
    const uint32_t mask = bits_between(from < 0 ? 0 : from < count ? from : count, to < 0 ? 0 : to < count ? to : count);
    chunk.mask[l] = mask;
    all |= mask;
    common &= mask;
  }
  chunk.is_empty = all == 0;
  chunk.is_full = common == bits_between(0, kLanes<A>);
}

template <typename A, typename E>
static void copy_chunks(const ConvImages& images, const ConvSourceTile& form, const ConvChunk<A>* chunks,
                        int64_t num_chunks, const E* data, int64_t num_channels, A* to) {
  constexpr int L = kLanes<A>;
  for (int64_t c = 0; c < num_channels; ++c, data += images.stride[1], to += form.channel_pitch * L) {
    const int64_t next_channel = c + 1 < num_channels ? images.stride[1] : 0;
    for (const ConvChunk<A>* chunk = chunks; chunk != chunks + num_chunks; ++chunk) {
      Vec<A> v[L];
      // The processor cannot foresee the jump to the next channel: without this, copying takes twice as long.
      RSN2_UNROLL
      for (int l = 0; l < L; ++l) __builtin_prefetch(data + next_channel + chunk->at[l]);
      if (chunk->is_full) {
        RSN2_UNROLL
        for (int l = 0; l < L; ++l) v[l] = load_as<A, E>(data + chunk->at[l]);
        transpose<A>(v);
      } else if (!chunk->is_empty) {
        RSN2_UNROLL
        for (int l = 0; l < L; ++l) v[l] = load_masked<A, E>(data + chunk->at[l], chunk->mask[l]);
        transpose<A>(v);
      } else {
        RSN2_UNROLL
        for (int l = 0; l < L; ++l) v[l] = Vec<A>{};
      }
      RSN2_UNROLL
      for (int k = 0; k < L; ++k) {
        if (chunk->place[k] >= 0) store<A>(to + chunk->place[k] * int64_t(L), v[k]);
      }
    }
  }
}

// Images whose columns are adjacent in memory. Where a tile is as wide as the image, its rows are one run of pixels.
template <typename A, typename E>
static void copy_in_pixels(const ConvImages& images, const ConvSourceTile& form, const ConvLane* lanes,
                           int64_t num_lanes, const E* data, int64_t num_channels, A* to) {
  constexpr int L = kLanes<A>;
  const bool is_run = form.run_length > 0 && images.stride[2] == images.W;
  const int64_t num_runs = is_run ? 1 : form.num_rows, length = is_run ? form.run_length : form.width;
  const int32_t* const places = is_run ? form.run_place : form.column_place;
  if (is_run) {  // the columns outside the image are in no run
    for (int64_t k = 0; k < form.width; ++k) {
      const int64_t column = form.first_column + k;
      if (form.column_place[k] < 0 || (column >= 0 && column < images.W)) continue;
      for (int64_t c = 0; c < num_channels; ++c) {
        for (int64_t u = 0; u < form.num_rows; ++u) {
          store<A>(to + (c * form.channel_pitch + u * form.row_pitch + form.column_place[k]) * L, Vec<A>{});
        }
      }
    }
  }
  ConvChunk<A> chunks[kConvMostChunks];
  int64_t num_chunks = 0;
  for (int64_t run = 0; run < num_runs; ++run) {
    int64_t at[L], begin[L], end[L];
    for (int64_t l = 0; l < L; ++l) {
      at[l] = begin[l] = end[l] = 0;
      if (l >= num_lanes) continue;
      const int64_t h = lanes[l].i * form.row_step + (is_run ? form.first_row : int64_t(form.row_source[run]));
      const int64_t w = is_run ? 0 : lanes[l].j * form.column_step + form.first_column;
      at[l] = lanes[l].image * images.stride[0] + h * images.stride[2] + w;
      if (is_run) {
        begin[l] = h < 0 ? -h * images.W : 0;
        end[l] = (images.H - h) * images.W;
      } else if (h >= 0 && h < images.H) {
        begin[l] = w < 0 ? -w : 0;
        end[l] = images.W - w;
      }
    }
    const int64_t row = is_run ? 0 : run * form.row_pitch;
    for (int64_t first = 0; first < length; first += L) {
      ConvChunk<A>& chunk = chunks[num_chunks];
      const int64_t count = length - first < L ? length - first : L;
      bool is_needed = false;
      for (int k = 0; k < L; ++k) {
        const int32_t place = k < count ? places[first + k] : -1;
        chunk.place[k] = place < 0 ? -1 : int32_t(row + place);
        is_needed = is_needed || place >= 0;
      }
      if (is_needed) {
        set_masks<A>(chunk, first, count, begin, end);
        for (int l = 0; l < L; ++l) chunk.at[l] = at[l] + first;
        ++num_chunks;
      }
      const bool is_last = run + 1 == num_runs && first + L >= length;
      if (num_chunks == kConvMostChunks || is_last) {
        copy_chunks<A, E>(images, form, chunks, num_chunks, data, num_channels, to);
        num_chunks = 0;
      }
    }
  }
}

// One row of the window in every lane.
template <typename A, typename E>
struct ConvLaneRow {
  const E* at[kLanes<A>];                     // its first column, which may be outside the image
  int64_t begin[kLanes<A>], end[kLanes<A>];   // its columns that are inside
  int64_t any_begin, any_end;                 // of some lane
  int64_t all_begin, all_end;                 // of all lanes
};

template <typename A, typename E>
static ConvLaneRow<A, E> lane_row(const ConvImages& images, const ConvSourceTile& form, const ConvLane* lanes,
                                  int64_t num_lanes, int64_t row_source, const E* data) {
  ConvLaneRow<A, E> row;
  row.any_begin = row.all_end = form.width;
  row.any_end = row.all_begin = 0;
  for (int64_t l = 0; l < kLanes<A>; ++l) {
    row.at[l] = data;
    row.begin[l] = row.end[l] = 0;
    const int64_t h = l < num_lanes ? lanes[l].i * form.row_step + row_source : -1;
    if (h >= 0 && h < images.H) {
      const int64_t w = lanes[l].j * form.column_step + form.first_column, right = images.W - w;
      row.at[l] = data + lanes[l].image * images.stride[0] + h * images.stride[2] + w * images.stride[3];
      row.begin[l] = w < 0 ? -w : 0;
      row.end[l] = right < form.width ? right : form.width;
    }
    if (row.begin[l] < row.end[l]) {
      row.any_begin = row.begin[l] < row.any_begin ? row.begin[l] : row.any_begin;
      row.any_end = row.end[l] > row.any_end ? row.end[l] : row.any_end;
    }
    row.all_begin = row.begin[l] > row.all_begin ? row.begin[l] : row.all_begin;
    row.all_end = row.end[l] < row.all_end ? row.end[l] : row.all_end;
  }
  return row;
}

// Images of other strides; adjacent channels (channels_last) are transposed, any others read one number at a time.
template <typename A, typename E>
static void copy_in_channels(const ConvImages& images, const ConvSourceTile& form, const ConvLane* lanes,
                             int64_t num_lanes, const E* data, int64_t num_channels, A* tile) {
  constexpr int L = kLanes<A>;
  const bool is_adjacent = images.stride[1] == 1;
  for (int64_t u = 0; u < form.num_rows; ++u) {
    const ConvLaneRow<A, E> row = lane_row<A, E>(images, form, lanes, num_lanes, form.row_source[u], data);
    for (int64_t k = 0; k < form.width; ++k) {
      if (form.column_place[k] < 0) continue;
      A* to = tile + (u * form.row_pitch + form.column_place[k]) * L;
      const bool any = k >= row.any_begin && k < row.any_end, all = k >= row.all_begin && k < row.all_end;
      const int64_t pixel = k * images.stride[3];
      for (int64_t c = 0; c < num_channels; c += L) {
        const int64_t count = num_channels - c < L ? num_channels - c : L;
        Vec<A> v[L];
        if (any && is_adjacent) {
          if (all && count == L) {
            const int64_t ahead = pixel + c + (k + AHEAD < row.all_end ? AHEAD * images.stride[3] : 0);
            RSN2_UNROLL
            for (int l = 0; l < L; ++l) __builtin_prefetch(row.at[l] + ahead);
            RSN2_UNROLL
            for (int l = 0; l < L; ++l) v[l] = load_as<A, E>(row.at[l] + pixel + c);
          } else {
            RSN2_UNROLL
            for (int l = 0; l < L; ++l) {
              const bool is_inside = k >= row.begin[l] && k < row.end[l];
              v[l] = load_masked<A, E>(row.at[l] + pixel + c, is_inside ? bits_between(0, count) : 0);
            }
          }
          transpose<A>(v);
        } else {
          for (int n = 0; n < L; ++n) v[n] = Vec<A>{};
          for (int64_t n = 0; n < count && any; ++n) {
            for (int l = 0; l < L; ++l) {
              if (k < row.begin[l] || k >= row.end[l]) continue;
              v[n][l] = load_one<A, E>(row.at[l] + pixel + (c + n) * images.stride[1]);
            }
          }
        }
        RSN2_UNROLL
        for (int n = 0; n < L; ++n) {
          if (n < count) store<A>(to + (c + n) * form.channel_pitch * L, v[n]);
        }
      }
    }
  }
}

template <typename A, typename E>
static void copy_in(const ConvImages& images, const ConvSourceTile& form, const ConvLane* lanes, int64_t num_lanes,
                    int64_t first_channel, int64_t num_channels, void* tile) {
  constexpr int L = kLanes<A>;
  const E* data = static_cast<const E*>(images.data) + first_channel * images.stride[1];
  for (int64_t g = 0; g < form.num_groups; ++g) {
    A* to = static_cast<A*>(tile) + g * form.group_pitch * L;
    if (images.stride[3] == 1) copy_in_pixels<A, E>(images, form, lanes + g * L, num_lanes - g * L, data, num_channels, to);
    else copy_in_channels<A, E>(images, form, lanes + g * L, num_lanes - g * L, data, num_channels, to);
  }
}

// ---- out --------------------------------------------------------------------------------------------------------------

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
    E* to[L];
    int64_t room[L];  // columns that the image has from the lane's place on
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
    if (images.stride[3] == 1) copy_out_pixels<A, E>(images, form, lanes + g * L, count, data, num_channels, relu, from);
    else copy_out_channels<A, E>(images, form, lanes + g * L, count, data, num_channels, relu, from);
  }
}
