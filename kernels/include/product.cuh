// product.cuh: y[row, o] = sum_i W[o, i] x[row, i] on tensor cores, for few rows and for many, with the same bits.
//
// Weights are the first operand of m16n8k16 (16 features) and activations the second (8 rows), whatever the number of
// rows. The order of a sum is the same in every form:
//
//   segment   128 columns: four blocks of 32, each two instructions (columns 8t + 0..3, then 8t + 4..7 of lane t), from
//             zero
//   total     ((0 + segment 0) + segment 1) + ... , each addition rounded by itself; scales of 128 columns multiply a
//             segment before it, scales of 32 columns a block inside its segment
//
// So a row's result depends on nothing but the row: a tile's size, a split of segments over warps and the place of a
// row in its tile are free to choose. Both forms read 16 bytes a lane of a weight row and multiply what they read as it
// lies:
//
//   product_few    8 or 32 rows; weights go from global memory into registers, eight warps take every eighth segment
//                  each (or, where rows are short, other features), sums meet in shared memory in their order
//   product_many   ROWS rows x FEATURES features a block; cp.async stages in shared memory, warps side by side
//
// SIDES is 2 where two matrices of one shape meet in the epilogue (gate and up): tiles of 16 features alternate between
// them.
#pragma once

#include "quant/bf16.cuh"
#include "quant/fp8.cuh"
#include "quant/int4.cuh"
#include "quant/int8.cuh"

template <int SIDES>
struct Matrices {
  WeightMatrix side[SIDES];
};

// Rows of activations: `row(i)` points to n_in numbers. They begin at multiples of 16 bytes where ALIGNED, or else
// where `is_aligned` says so.
struct PlainRows {
  const bf16* x;
  size_t stride;
  __device__ __forceinline__ const bf16* row(unsigned i) const { return x + i * stride; }
  static constexpr bool ALIGNED = true;
};

// Eight columns of a row, `n` of which are left; behind them are the row's own zeros, or it meets weights that are.
template <class Rows>
__device__ __forceinline__ uint4 load_row(const Rows& rows, const bf16* at, unsigned n) {
  if constexpr (Rows::ALIGNED) {
    return *reinterpret_cast<const uint4*>(at);
  } else {
    if (rows.is_aligned) return *reinterpret_cast<const uint4*>(at);
    return gather16(at, n);
  }
}

// One block of 32 columns: `w` are M tiles of 16 features, `x` eight numbers of the lane's row.
template <class F, int M>
__device__ __forceinline__ void multiply_block(float (&sum)[M][4], const uint32_t (&w)[M][2][4], uint4 x,
                                               const typename F::Scale (&scale)[M], int block) {
#pragma unroll
  for (int m = 0; m < M; ++m) {
    if constexpr (F::GROUP == 32) {
      float part[4] = {};
      multiply(part, w[m][0][0], w[m][1][0], w[m][0][1], w[m][1][1], x.x, x.y);
      multiply(part, w[m][0][2], w[m][1][2], w[m][0][3], w[m][1][3], x.z, x.w);
#pragma unroll
      for (int i = 0; i < 4; ++i) sum[m][i] = F::fold(sum[m][i], part[i], scale[m], block, i / 2);
    } else {
      multiply(sum[m], w[m][0][0], w[m][1][0], w[m][0][1], w[m][1][1], x.x, x.y);
      multiply(sum[m], w[m][0][2], w[m][1][2], w[m][0][3], w[m][1][3], x.z, x.w);
    }
  }
}

// Four features from `feature` on: zero behind n_out, where an absent row of quants need not be zero.
__device__ __forceinline__ Four inside(Four y, unsigned feature, unsigned n_out) {
#pragma unroll
  for (unsigned i = 0; i < 4; ++i) y.v[i] = feature + i < n_out ? y.v[i] : 0.0f;
  return y;
}

// A finished tile of sums in shared memory, [rows][features], to the caller's `store(row, feature in tile, four sums)`.
// Rows are PITCH apart: lanes of a fragment then write to 32 banks.
template <int FEATURES, int THREADS, class Store>
__device__ __forceinline__ void store_tile(const float* tile, unsigned n_row, const Store& store) {
  constexpr unsigned PITCH = FEATURES + 4;
  for (unsigned i = threadIdx.x; i < n_row * (FEATURES / 4); i += THREADS) {
    const unsigned row = i / (FEATURES / 4), feature = i % (FEATURES / 4) * 4;
    store(row, feature, load4(tile + row * PITCH + feature));
  }
}

// The same with two sides side by side: features, then features.
template <int FEATURES, int THREADS, class Store>
__device__ __forceinline__ void store_tiles(const float* tile, unsigned n_row, const Store& store) {
  constexpr unsigned PITCH = 2 * FEATURES + 4;
  for (unsigned i = threadIdx.x; i < n_row * (FEATURES / 4); i += THREADS) {
    const unsigned row = i / (FEATURES / 4), feature = i % (FEATURES / 4) * 4;
    const float* at = tile + row * PITCH + feature;
    store(row, feature, load4(at), load4(at + FEATURES));
  }
}

// ---- few rows ----

constexpr unsigned FEW_ROWS = 8;
constexpr unsigned FEW_WARPS = 8;
constexpr unsigned FEW_THREADS = FEW_WARPS * WARP;

// A warp's tile of 16 features of each side and N times 8 rows: where it lies, and the weights of one segment, as they
// are.
//
// Rows that are not there are read as another row: what comes of them is not stored.
template <class F, int SIDES, int N, class Rows>
struct Few {
  static constexpr int UNITS = 4 / F::BLOCKS;
  const char* quants[SIDES][2];
  const bf16* x[N];
  uint4 raw[SIDES][2][UNITS];
  typename F::Scale scale[SIDES];

  __device__ __forceinline__ Few(const Matrices<SIDES>& w, unsigned feature, const Rows& rows, unsigned n_row) {
    const unsigned group = lane_id() / 4, quad = lane_id() % 4;
#pragma unroll
    for (int s = 0; s < SIDES; ++s) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const unsigned row = min(feature + group + 8 * half, w.side[s].n_out - 1);
        quants[s][half] =
            static_cast<const char*>(w.side[s].quants) + row * F::row_bytes(w.side[s].quant_stride) + quad * 16;
      }
    }
#pragma unroll
    for (int n = 0; n < N; ++n) x[n] = rows.row(8 * n + group < n_row ? 8 * n + group : 0) + quad * 8;
  }

  __device__ __forceinline__ void load(const Matrices<SIDES>& w, unsigned feature, unsigned segment) {
    const size_t from = size_t(segment) * 64 * UNITS;
#pragma unroll
    for (int s = 0; s < SIDES; ++s) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int u = 0; u < UNITS; ++u) raw[s][half][u] = load_stream(quants[s][half] + from + 64 * u);
      }
      scale[s] = F::scale(w.side[s], feature + lane_id() / 4, segment);
    }
  }

  __device__ __forceinline__ void multiply_segment(float (&sum)[N][SIDES][4], const Rows& rows, unsigned n_in,
                                                   unsigned segment) const {
    const unsigned quad = lane_id() % 4, first = segment * SEGMENT;
    uint4 columns[4][N];
#pragma unroll
    for (int b = 0; b < 4; ++b) {
      const unsigned column = first + 32 * b + 8 * quad;
#pragma unroll
      for (int n = 0; n < N; ++n) {
        columns[b][n] = zero16();
        if (first + SEGMENT <= n_in || column < n_in)
          columns[b][n] = load_row(rows, x[n] + first + 32 * b, n_in - column);
      }
    }
#pragma unroll
    for (int b = 0; b < 4; ++b) {
      uint32_t w[SIDES][2][4];
#pragma unroll
      for (int s = 0; s < SIDES; ++s) {
        F::expand(w[s][0], raw[s][0][b / F::BLOCKS], b % F::BLOCKS);
        F::expand(w[s][1], raw[s][1][b / F::BLOCKS], b % F::BLOCKS);
      }
#pragma unroll
      for (int n = 0; n < N; ++n) multiply_block<F>(sum[n], w, columns[b][n], scale, b);
    }
#pragma unroll
    for (int n = 0; n < N; ++n) {
#pragma unroll
      for (int s = 0; s < SIDES; ++s) {
#pragma unroll
        for (int i = 0; i < 4; ++i) sum[n][s][i] = F::add(0.0f, sum[n][s][i], scale[s], i / 2);
      }
    }
  }
};

// Features `feature` .. + 16 of each side, up to N times 8 rows; the block's warps share the segments.
template <class F, int N, int SIDES, class Rows, class Store>
__device__ __forceinline__ void product_few(const Matrices<SIDES>& w, unsigned feature, const Rows& rows,
                                            unsigned n_row, const Store& store) {
  constexpr unsigned FEATURES = SIDES * 16, ROWS = N * FEW_ROWS;
  constexpr unsigned SUMS = FEATURES * ROWS;  // of a block, and of a segment
  constexpr unsigned EACH = (SUMS + FEW_THREADS - 1) / FEW_THREADS;
  constexpr unsigned PITCH = FEATURES + 4;
  __shared__ alignas(16) float part[2][FEW_WARPS][SUMS];
  __shared__ alignas(16) float tile[ROWS * PITCH];
  const unsigned warp = threadIdx.x / WARP, group = lane_id() / 4, quad = lane_id() % 4;
  const unsigned n_in = w.side[0].n_in, n_segment = (n_in + SEGMENT - 1) / SEGMENT;

  // Thread i keeps the totals of sums i, i + 256, ...: eight rows, side, feature, row, outermost first.
  float total[EACH] = {};
  Few<F, SIDES, N, Rows> weights(w, feature, rows, n_row);
  if (warp < n_segment) weights.load(w, feature, warp);
  for (unsigned first = 0; first < n_segment; first += FEW_WARPS) {
    float (&parts)[FEW_WARPS][SUMS] = part[first / FEW_WARPS % 2];
    const unsigned segment = first + warp;
    if (segment < n_segment) {
      float sum[N][SIDES][4] = {};
      weights.multiply_segment(sum, rows, n_in, segment);
      // The next weights are under way while sums meet.
      if (segment + FEW_WARPS < n_segment) weights.load(w, feature, segment + FEW_WARPS);
#pragma unroll
      for (int n = 0; n < N; ++n) {
#pragma unroll
        for (int s = 0; s < SIDES; ++s) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            float* at = &parts[warp][((n * SIDES + s) * 16 + group + 8 * half) * FEW_ROWS + 2 * quad];
            *reinterpret_cast<float2*>(at) = make_float2(sum[n][s][2 * half], sum[n][s][2 * half + 1]);
          }
        }
      }
    }
    // One barrier a round: the other half of `part` was read before it.
    __syncthreads();
#pragma unroll
    for (unsigned e = 0; e < EACH; ++e) {
      const unsigned i = threadIdx.x + e * FEW_THREADS;
      if (SUMS % FEW_THREADS != 0 && i >= SUMS) continue;
      for (unsigned k = 0; k < min(FEW_WARPS, n_segment - first); ++k) total[e] = __fadd_rn(total[e], parts[k][i]);
    }
  }
#pragma unroll
  for (unsigned e = 0; e < EACH; ++e) {
    const unsigned i = threadIdx.x + e * FEW_THREADS;
    if (SUMS % FEW_THREADS != 0 && i >= SUMS) continue;
    const unsigned row = i / (FEATURES * FEW_ROWS) * FEW_ROWS + i % FEW_ROWS;
    tile[row * PITCH + i / FEW_ROWS % FEATURES] = total[e];
  }
  __syncthreads();
  if constexpr (SIDES == 2) {
    store_tiles<16, FEW_THREADS>(tile, n_row, store);
  } else {
    store_tile<16, FEW_THREADS>(tile, n_row, store);
  }
}

// Short rows: features `feature` .. + 128, up to 8 rows; every warp has features of its own and all their segments.
template <class F, class Rows, class Store>
__device__ __forceinline__ void product_few_short(const Matrices<1>& w, unsigned feature, const Rows& rows,
                                                  unsigned n_row, const Store& store) {
  constexpr int FEATURES = 16 * FEW_WARPS;
  constexpr int PITCH = FEATURES + 4;
  __shared__ alignas(16) float tile[FEW_ROWS * PITCH];
  const unsigned warp = threadIdx.x / WARP, group = lane_id() / 4, quad = lane_id() % 4;
  const unsigned n_in = w.side[0].n_in, n_segment = (n_in + SEGMENT - 1) / SEGMENT;
  const unsigned own = feature + 16 * warp;
  float total[4] = {};
  if (own < w.side[0].n_out) {
    Few<F, 1, 1, Rows> weights(w, own, rows, n_row);
    for (unsigned segment = 0; segment < n_segment; ++segment) {
      weights.load(w, own, segment);
      float sum[1][1][4] = {};
      weights.multiply_segment(sum, rows, n_in, segment);
#pragma unroll
      for (int i = 0; i < 4; ++i) total[i] = __fadd_rn(total[i], sum[0][0][i]);
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) tile[(2 * quad + i % 2) * PITCH + 16 * warp + group + 8 * (i / 2)] = total[i];
  __syncthreads();
  store_tile<FEATURES, FEW_THREADS>(tile, n_row, store);
}
