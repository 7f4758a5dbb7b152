// From images in memory to lane-innermost tiles of the source.
//
// A square of kLanes x kLanes numbers is transposed in registers: lanes x pixels when an image's columns are adjacent
// in memory (NCHW), lanes x channels when its channels are (channels_last).

// kLanes neighbouring source pixels of every lane, which one transpose brings into the tile.
template <typename A>
struct ConvChunk {
  int64_t at[kLanes<A>];     // of each lane's first pixel, in elements from channel 0 of the block
  uint32_t mask[kLanes<A>];  // which of a lane's pixels are inside its image
  int32_t place[kLanes<A>];  // in the tile, or -1 for a pixel that is not needed
  bool is_full, is_empty;    // all, none of the mask's bits are set
};
constexpr int AHEAD = 4;             // pixels that are fetched early
constexpr int kConvMostChunks = 32;  // prepared together, then done for every channel

// Sets the chunk's masks: lane l has pixels first .. first + count of its run, of which begin[l] .. end[l] are inside.
template <typename A>
RSN2_INLINE void set_masks(ConvChunk<A>& chunk, int64_t first, int64_t count, const int64_t* begin,
                           const int64_t* end) {
  uint32_t all = 0, common = ~0u;
  for (int l = 0; l < kLanes<A>; ++l) {
    const int64_t from = begin[l] - first < count ? begin[l] - first : count;
    const int64_t to = end[l] - first < count ? end[l] - first : count;
    const uint32_t mask = bits_between(from < 0 ? 0 : from, to < 0 ? 0 : to);
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
  const E* at[kLanes<A>];                    // its first column, which may be outside the image
  int64_t begin[kLanes<A>], end[kLanes<A>];  // its columns that are inside
  int64_t any_begin, any_end;                // of some lane
  int64_t all_begin, all_end;                // of all lanes
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
    const auto copy = images.stride[3] == 1 ? copy_in_pixels<A, E> : copy_in_channels<A, E>;
    copy(images, form, lanes + g * L, num_lanes - g * L, data, num_channels, to);
  }
}
