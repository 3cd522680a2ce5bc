// product_many.cuh: the form of product.cuh for many rows.
#pragma once

#include "product.cuh"

// A block's work: FEATURES features (of all sides together) x ROWS rows by F_WARPS x R_WARPS warps, STAGES tiles under
// way.
template <class Format, int N_SIDE, int N_FEATURE, int N_ROW, int N_F_WARP, int N_R_WARP, int N_STAGE>
struct Tiling {
  using F = Format;
  static constexpr int SIDES = N_SIDE, FEATURES = N_FEATURE, ROWS = N_ROW, F_WARPS = N_F_WARP, STAGES = N_STAGE;
  static constexpr int THREADS = N_F_WARP * N_R_WARP * WARP;
  static constexpr int M = FEATURES / 16 / N_F_WARP;             // tiles of 16 features of a warp
  static constexpr int N = ROWS / 8 / N_R_WARP;                  // tiles of 8 rows of a warp
  static constexpr unsigned W_BYTES = F::STAGE / F::BLOCKS * 2;  // of a feature's row in a stage: 128 or 64
  static constexpr unsigned X_BYTES = F::STAGE * 2;
  static constexpr unsigned STAGE_BYTES = FEATURES * W_BYTES + ROWS * X_BYTES;
  static constexpr unsigned SUM_BYTES = ROWS * (FEATURES + 4) * 4;
  static constexpr unsigned SHARED_BYTES = STAGES * STAGE_BYTES > SUM_BYTES ? STAGES * STAGE_BYTES : SUM_BYTES;
  static_assert(M % SIDES == 0, "a warp has tiles of every side: tile m is of side m % SIDES");
};

// The place of unit `u` (16 bytes) of a row. Lanes of a fragment read four neighbouring units of each of eight rows,
// eight lanes at a time: rows of 128 bytes and more would meet in the same banks, so odd ones have their groups of four
// exchanged.
template <unsigned ROW_BYTES>
__device__ __forceinline__ unsigned place(unsigned row, unsigned u) {
  return row * ROW_BYTES + (ROW_BYTES == 64 ? u : u ^ (row % 2 * 4)) * 16;
}

// What one thread copies in every stage: units at fixed places, whose sources move on with the columns.
template <class T, class Rows>
struct Copies {
  static constexpr unsigned W_UNITS = T::W_BYTES / 16, X_UNITS = T::X_BYTES / 16;
  static constexpr unsigned W_EACH = T::FEATURES * W_UNITS / T::THREADS, X_EACH = T::ROWS * X_UNITS / T::THREADS;
  static_assert(T::FEATURES * W_UNITS % T::THREADS == 0 && T::ROWS * X_UNITS % T::THREADS == 0, "every thread alike");
  // Units of a row are neighbours in a warp: thread t has unit t % UNITS of rows t / UNITS + i * THREADS / UNITS.
  const char* w_from[W_EACH];
  const bf16* x_from[X_EACH];
  unsigned w_there = 0, x_there = 0;  // one bit for each: the row is part of the matrix

  __device__ __forceinline__ Copies(const Matrices<T::SIDES>& w, unsigned feature, const Rows& rows, unsigned n_row) {
#pragma unroll
    for (unsigned i = 0; i < W_EACH; ++i) {
      const unsigned at = threadIdx.x / W_UNITS + i * (T::THREADS / W_UNITS);
      // A choice, not an index: sides stay in registers.
      const void* quants = at / 16 % T::SIDES == 0 ? w.side[0].quants : w.side[T::SIDES - 1].quants;
      const unsigned row = feature + at / 16 / T::SIDES * 16 + at % 16;
      const bool there = row < w.side[0].n_out;
      w_there |= unsigned(there) << i;
      w_from[i] = static_cast<const char*>(quants) + (there ? row : 0) * T::F::row_bytes(w.side[0].quant_stride) +
                  threadIdx.x % W_UNITS * 16;
    }
#pragma unroll
    for (unsigned i = 0; i < X_EACH; ++i) {
      const unsigned at = threadIdx.x / X_UNITS + i * (T::THREADS / X_UNITS);
      const bool there = at < n_row;
      x_there |= unsigned(there) << i;
      x_from[i] = rows.row(there ? at : 0) + threadIdx.x % X_UNITS * 8;
    }
  }

  // Stage `n` of the columns into `stage`. A source that is not there is not read: zeros take its place.
  __device__ __forceinline__ void issue(char* stage, unsigned n, const Matrices<T::SIDES>& w, const Rows& rows) const {
    const unsigned w_unit = threadIdx.x % W_UNITS, x_unit = threadIdx.x % X_UNITS;
    const size_t w_at = size_t(n) * T::W_BYTES;
#pragma unroll
    for (unsigned i = 0; i < W_EACH; ++i) {
      const unsigned at = threadIdx.x / W_UNITS + i * (T::THREADS / W_UNITS);
      const bool there = w_there >> i & 1;
      copy16(stage + place<T::W_BYTES>(at, w_unit),
             there ? w_from[i] + w_at : static_cast<const char*>(w.side[0].quants), there ? 16 : 0);
    }
    char* x_stage = stage + T::FEATURES * T::W_BYTES;
    const unsigned column = n * T::F::STAGE + x_unit * 8;
    const unsigned n_in = w.side[0].n_in;
#pragma unroll
    for (unsigned i = 0; i < X_EACH; ++i) {
      const unsigned at = threadIdx.x / X_UNITS + i * (T::THREADS / X_UNITS);
      const bool there = column < n_in && (x_there >> i & 1);
      char* to = x_stage + place<T::X_BYTES>(at, x_unit);
      const bf16* from = x_from[i] + size_t(n) * T::F::STAGE;
      if constexpr (!Rows::ALIGNED) {
        if (!rows.is_aligned) {
          *reinterpret_cast<uint4*>(to) = there ? gather16(from, n_in - column) : zero16();
          continue;
        }
      }
      copy16(to, there ? static_cast<const void*>(from) : w.side[0].quants, there ? 16 : 0);
    }
  }
};

// One warp's part of one stage.
template <class T>
__device__ __forceinline__ void multiply_stage(float (&sum)[T::N][T::M][4], const char* stage, unsigned f_warp,
                                               unsigned r_warp, const typename T::F::Scale (&scale)[T::M],
                                               unsigned first_block) {
  using F = typename T::F;
  constexpr int UNITS = F::STAGE / 32 / F::BLOCKS;
  const unsigned group = lane_id() / 4, quad = lane_id() % 4;
  const char* x_stage = stage + T::FEATURES * T::W_BYTES;
#pragma unroll
  for (int u = 0; u < UNITS; ++u) {
    uint4 raw[T::M][2];
#pragma unroll
    for (int m = 0; m < T::M; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const unsigned row = (f_warp * T::M + m) * 16 + group + 8 * half;
        raw[m][half] = *reinterpret_cast<const uint4*>(stage + place<T::W_BYTES>(row, 4 * u + quad));
      }
    }
#pragma unroll
    for (int b = 0; b < F::BLOCKS; ++b) {
      uint32_t w[T::M][2][4];
#pragma unroll
      for (int m = 0; m < T::M; ++m) {
        F::expand(w[m][0], raw[m][0], b);
        F::expand(w[m][1], raw[m][1], b);
      }
      const int block = u * F::BLOCKS + b;
#pragma unroll
      for (int n = 0; n < T::N; ++n) {
        const unsigned row = (r_warp * T::N + n) * 8 + group;
        const uint4 x = *reinterpret_cast<const uint4*>(x_stage + place<T::X_BYTES>(row, 4 * block + quad));
        multiply_block<F, T::M>(sum[n], w, x, scale, first_block + block);
      }
    }
  }
}

// Features `feature` .. + FEATURES / SIDES of each side, rows 0 .. n_row <= ROWS. `shared` has T::SHARED_BYTES.
template <class T, class Rows, class Store>
__device__ __forceinline__ void product_many(const Matrices<T::SIDES>& w, unsigned feature, const Rows& rows,
                                             unsigned n_row, char* shared, const Store& store) {
  using F = typename T::F;
  constexpr unsigned PER_SEGMENT = SEGMENT / F::STAGE;
  const unsigned warp = threadIdx.x / WARP, f_warp = warp % T::F_WARPS, r_warp = warp / T::F_WARPS;
  const unsigned group = lane_id() / 4, quad = lane_id() % 4;
  const unsigned n_stage = (w.side[0].n_in + F::STAGE - 1) / F::STAGE;
  const Copies<T, Rows> copies(w, feature, rows, n_row);

#pragma unroll
  for (unsigned i = 0; i < T::STAGES - 1; ++i) {
    if (i < n_stage) copies.issue(shared + i * T::STAGE_BYTES, i, w, rows);
    copy_commit();
  }
  float total[T::N][T::M][4] = {}, sum[T::N][T::M][4] = {};
  typename F::Scale scale[T::M];
  for (unsigned stage = 0; stage < n_stage; ++stage) {
    copy_wait<T::STAGES - 2>();
    // Everybody's copies of this stage are there, and nobody reads the stage before it any more.
    __syncthreads();
    const unsigned next = stage + T::STAGES - 1;
    if (next < n_stage) copies.issue(shared + next % T::STAGES * T::STAGE_BYTES, next, w, rows);
    copy_commit();
    if (stage % PER_SEGMENT == 0) {
#pragma unroll
      for (int m = 0; m < T::M; ++m) {
        const unsigned tile = f_warp * T::M + m;
        const WeightMatrix& matrix = w.side[m % T::SIDES];
        // Of a tile that is not there: any scales, it has no quants.
        const unsigned row = min(feature + tile / T::SIDES * 16, (matrix.n_out - 1) / 16 * 16) + group;
        scale[m] = F::scale(matrix, row, stage / PER_SEGMENT);
      }
    }
    multiply_stage<T>(sum, shared + stage % T::STAGES * T::STAGE_BYTES, f_warp, r_warp, scale,
                      stage % PER_SEGMENT * (F::STAGE / 32));
    if (stage % PER_SEGMENT == PER_SEGMENT - 1 || stage == n_stage - 1) {
#pragma unroll
      for (int n = 0; n < T::N; ++n) {
#pragma unroll
        for (int m = 0; m < T::M; ++m) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            total[n][m][i] = F::add(total[n][m][i], sum[n][m][i], scale[m], i / 2);
            sum[n][m][i] = 0.0f;
          }
        }
      }
    }
  }
  copy_wait<0>();
  __syncthreads();
  // The sums take the stages' place: [rows][side, features].
  float* tile = reinterpret_cast<float*>(shared);
  constexpr unsigned PITCH = T::FEATURES + 4;
#pragma unroll
  for (int n = 0; n < T::N; ++n) {
#pragma unroll
    for (int m = 0; m < T::M; ++m) {
      const unsigned of = f_warp * T::M + m;
      const unsigned at = m % T::SIDES * (T::FEATURES / T::SIDES) + of / T::SIDES * 16 + group;
      const unsigned row = (r_warp * T::N + n) * 8 + 2 * quad;
#pragma unroll
      for (int i = 0; i < 4; ++i) tile[(row + i % 2) * PITCH + at + i / 2 * 8] = total[n][m][i];
    }
  }
  __syncthreads();
  if constexpr (T::SIDES == 2) {
    store_tiles<T::FEATURES / 2, T::THREADS>(tile, n_row, store);
  } else {
    store_tile<T::FEATURES, T::THREADS>(tile, n_row, store);
  }
}

extern __shared__ __align__(128) char shared_stages[];
