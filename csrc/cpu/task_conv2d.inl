// The sparse convolution's inner loops: see task_conv2d.h for the layout of tiles.

#include "task_conv2d_partial.inl"

#include "task_conv2d_in.inl"
#include "task_conv2d_out.inl"
#include "task_conv2d_sums.inl"

// A piece of R rows x N columns of pixels keeps its sums in registers while the weights of one output channel pass by.
// AVX-512 has 32 registers, the others 16, of which the weight takes one.
constexpr int kConvMostSums = RSN2_VECTOR_BYTES == 64 ? 16 : 12;
constexpr int kConvMostColumns = 8;
constexpr int kConvMostRows = 8;
// Products that are added up before they are added to the result: short chains of additions lose fewer bits. At a
// density of 0.2 this costs 3 % of the time against rows added up as a whole.
constexpr int64_t kConvMostChain = 16;

template <typename A, int R, int N>
static void walk_piece(const ConvWalk& work, const A* source, A* results) {
  constexpr int L = kLanes<A>;
  const ConvWeight<A>* weight = static_cast<const ConvWeight<A>*>(work.weights);
  const ConvWeight<A>* const first = weight;
  const A* start = static_cast<const A*>(work.start);
  const int64_t source_pitch = work.source_row_pitch * L, result_row = work.columns * L;
  for (int64_t row = 0; row < work.num_rows; ++row, results += work.result_pitch * L) {
    const ConvWeight<A>* const row_end = first + work.row_ends[row];
    const Vec<A> from = broadcast<A>(start != nullptr ? start[row] : A(0));
    bool is_first = start != nullptr;
    do {
      const ConvWeight<A>* const end = row_end - weight > kConvMostChain ? weight + kConvMostChain : row_end;
      Vec<A> sum[R][N] = {};
      for (; weight != end; ++weight) {
        const Vec<A> value = broadcast<A>(weight->value);
        const A* at = source + weight->offset;
        RSN2_UNROLL
        for (int r = 0; r < R; ++r) {
          RSN2_UNROLL
          for (int n = 0; n < N; ++n) sum[r][n] += value * load<A>(at + r * source_pitch + n * L);
        }
      }
      RSN2_UNROLL
      for (int r = 0; r < R; ++r) {
        RSN2_UNROLL
        for (int n = 0; n < N; ++n) {
          A* to = results + r * result_row + n * L;
          store<A>(to, sum[r][n] + (is_first ? from : load<A>(to)));
        }
      }
      is_first = false;
    } while (weight != row_end);
  }
}

// The gradient stays in registers while the weights of its output channel pass by.
template <typename A, int R, int N>
static void dots_piece(const ConvDots& work, const A* source, const A* grad) {
  constexpr int L = kLanes<A>;
  const int64_t source_pitch = work.source_row_pitch * L, grad_row = work.columns * L;
  const int32_t* offset = work.offsets;
  A* sums = static_cast<A*>(work.sums);
  for (int64_t row = 0; row < work.num_rows; ++row, grad += work.grad_pitch * L) {
    Vec<A> g[R][N];
    RSN2_UNROLL
    for (int r = 0; r < R; ++r) {
      RSN2_UNROLL
      for (int n = 0; n < N; ++n) g[r][n] = load<A>(grad + r * grad_row + n * L);
    }
    for (const int32_t* const end = work.offsets + work.row_ends[row]; offset != end; ++offset, sums += L) {
      const A* at = source + *offset;
      Vec<A> even = {}, odd = {};  // two chains of additions, so that they do not wait for each other
      RSN2_UNROLL
      for (int r = 0; r < R; ++r) {
        RSN2_UNROLL
        for (int n = 0; n < N; ++n) {
          const Vec<A> x = load<A>(at + r * source_pitch + n * L);
          if ((r * N + n) % 2 == 0)
            even += g[r][n] * x;
          else
            odd += g[r][n] * x;
        }
      }
      store<A>(sums, load<A>(sums) + (even + odd));
    }
  }
}

// ---- which piece ----------------------------------------------------------------------------------------------------

template <typename A, typename Work>
using ConvPiece = void (*)(const Work&, const A*, A*);

template <typename A, int R, int N>
static void any_piece(const ConvWalk& work, const A* source, A* tile) {
  walk_piece<A, R, N>(work, source, tile);
}
template <typename A, int R, int N>
static void any_piece(const ConvDots& work, const A* source, A* tile) {
  dots_piece<A, R, N>(work, source, tile);
}

template <typename A, typename Work, int R, int N, bool FITS = (R * N <= kConvMostSums)>
struct PieceOf {
  static constexpr ConvPiece<A, Work> function = &any_piece<A, R, N>;
};
template <typename A, typename Work, int R, int N>
struct PieceOf<A, Work, R, N, false> {
  static constexpr ConvPiece<A, Work> function = nullptr;
};

template <typename A, typename Work>
struct PieceTable {
  ConvPiece<A, Work> of[kConvMostRows + 1][kConvMostColumns + 1];
};
#define RSN2_PIECES(R)               \
  {nullptr,                          \
   PieceOf<A, Work, R, 1>::function, \
   PieceOf<A, Work, R, 2>::function, \
   PieceOf<A, Work, R, 3>::function, \
   PieceOf<A, Work, R, 4>::function, \
   PieceOf<A, Work, R, 5>::function, \
   PieceOf<A, Work, R, 6>::function, \
   PieceOf<A, Work, R, 7>::function, \
   PieceOf<A, Work, R, 8>::function}
template <typename A, typename Work>
constexpr PieceTable<A, Work> kPieces = {
    {{}, RSN2_PIECES(1), RSN2_PIECES(2), RSN2_PIECES(3), RSN2_PIECES(4), {}, {}, {}, RSN2_PIECES(8)}};
#undef RSN2_PIECES

// Cuts a tile into pieces, as equal as can be, of at most kConvMostSums pixels; neighbours share source rows in the
// first-level cache.
template <typename A, typename Work>
static void cut_into_pieces(const Work& work, const A* source, A* tile) {
  constexpr int L = kLanes<A>;
  const int64_t num_cuts = (work.columns + kConvMostColumns - 1) / kConvMostColumns;
  const int64_t widest = (work.columns + num_cuts - 1) / num_cuts;
  int64_t most_rows = kConvMostSums / widest;
  most_rows = most_rows >= 8 ? 8 : most_rows > 4 ? 4 : most_rows;
  for (int64_t row = 0; row < work.rows;) {
    int64_t rows = work.rows - row;
    rows = rows >= most_rows ? most_rows : rows > 4 ? 4 : rows;
    for (int64_t cut = 0; cut < num_cuts; ++cut) {
      const int64_t first = work.columns * cut / num_cuts, end = work.columns * (cut + 1) / num_cuts;
      kPieces<A, Work>.of[rows][end - first](work, source + (row * work.source_row_pitch + first) * L,
                                             tile + (row * work.columns + first) * L);
    }
    row += rows;
  }
}

template <typename A>
static void walk_tile(const ConvWalk& work) {
  cut_into_pieces<A>(work, static_cast<const A*>(work.source), static_cast<A*>(work.results));
}

template <typename A>
static void dots_tile(const ConvDots& work) {
  cut_into_pieces<A>(work, static_cast<const A*>(work.source), static_cast<A*>(const_cast<void*>(work.grad)));
}

template <typename A>
static void sum_lanes(void* sums, int64_t n, void* totals) {
  constexpr int L = kLanes<A>;
  A* from = static_cast<A*>(sums);
  A* to = static_cast<A*>(totals);
  for (int64_t i = 0; i < n; i += L) {
    Vec<A> v[L];
    for (int64_t l = 0; l < L; ++l) {
      v[l] = i + l < n ? load<A>(from + (i + l) * L) : Vec<A>{};
      if (i + l < n) store<A>(from + (i + l) * L, Vec<A>{});
    }
    store<A>(to + i, load<A>(to + i) + sum_each<A>(v));
  }
}

constexpr TaskConv2dKernels task_conv2d_kernels = {
    RSN2_VECTOR_BYTES,
    {copy_in<float, float>, copy_in<double, double>, copy_in<float, BFloat16>, copy_in<float, Float16>},
    {copy_out<float, float>, copy_out<double, double>, copy_out<float, BFloat16>, copy_out<float, Float16>},
    {sum_pixels<float>, sum_pixels<double>, sum_pixels<BFloat16>, sum_pixels<Float16>},
    {walk_tile<float>, walk_tile<double>},
    {dots_tile<float>, dots_tile<double>},
    {sum_lanes<float>, sum_lanes<double>},
};
