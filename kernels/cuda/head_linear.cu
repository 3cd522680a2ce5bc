// head_linear.cu: one product a head with one half of kv_b: queries into the latent space, attention's output out of
// it.
//
//   y[r, h, o] = sum_i W_h[o, i] * x[r, h, i]
//
// Shapes    key half: W_h [c, n] (turned round when it is uploaded), x the first n of a head's n + r, y [H, c].
//           value half: W_h [v, c], x [H, c], y [H, v]. All bf16: kv_b is small, and halves of a quantised one are not
//           whole quant blocks. Sums in f32, in product.cuh's order: a row has the same bits in both variants.
// Launch    head_linear_few   grid (features / 128, rows / 8, heads), block 256: a warp for 16 features
//           head_linear_mid   grid (features / 64, rows / 64, heads), block 128, shared 48 KB of the launch
// Bytes     the weights once for every tile of rows, x and y once.
// Roofline  2 flops a weight and row: memory-bound below 300 rows. 128 heads x 512 x 128 in bf16 = 16.8 MB = 5.6 us at
//           3.0 TB/s.
#include "head_linear.h"
#include "product_many.cuh"

constexpr unsigned FEW_FEATURES = 16 * FEW_WARPS;
using Mid = Tiling<Bf16, 1, 64, 64, 2, 2, 3>;

// Heads of 12 or 20 numbers begin anywhere.
struct HeadRows {
  const bf16* x;
  size_t stride;
  bool is_aligned;
  __device__ __forceinline__ const bf16* row(unsigned i) const { return x + i * stride; }
  static constexpr bool ALIGNED = false;
};

struct StoreHead {
  const HeadLinearParams& p;
  unsigned row, feature;

  __device__ __forceinline__ void operator()(unsigned i, unsigned f, const Four& y) const {
    bf16* at =
        static_cast<bf16*>(p.y) + size_t(row + i) * p.y_stride + size_t(blockIdx.z) * p.y_head_stride + feature + f;
    if (p.y_head_stride % 4 == 0 && p.y_stride % 4 == 0 && feature + f + 4 <= p.n_out) {
      store4(at, y);
      return;
    }
#pragma unroll
    for (unsigned j = 0; j < 4; ++j) {
      if (feature + f + j < p.n_out) at[j] = to_bf16(y.v[j]);
    }
  }
};

__device__ __forceinline__ Matrices<1> matrix_of(const HeadLinearParams& p) {
  const size_t first = size_t(blockIdx.z) * p.head_row_stride + p.head_row_first;
  WeightMatrix w = p.w;
  w.quants = static_cast<const char*>(w.quants) + first * Bf16::row_bytes(w.quant_stride);
  w.n_out = p.n_out;
  w.n_in = p.n_in;
  return {{w}};
}

__device__ __forceinline__ HeadRows rows_of(const HeadLinearParams& p, unsigned row) {
  const bf16* x = static_cast<const bf16*>(p.x) + size_t(row) * p.x_stride + size_t(blockIdx.z) * p.x_head_stride;
  return {x, p.x_stride, p.x_head_stride % 8 == 0 && p.x_stride % 8 == 0 && p.n_in % 8 == 0};
}

KERNEL(head_linear_few, HeadLinearParams, FEW_THREADS) {
  const unsigned feature = blockIdx.x * FEW_FEATURES, row = blockIdx.y * FEW_ROWS;
  product_few_short<Bf16>(matrix_of(p), feature, rows_of(p, row), min(p.n_row - row, FEW_ROWS),
                          StoreHead{p, row, feature});
}

KERNEL_BLOCKS(head_linear_mid, HeadLinearParams, Mid::THREADS, 2) {
  const unsigned feature = blockIdx.x * Mid::FEATURES, row = blockIdx.y * Mid::ROWS;
  product_many<Mid>(matrix_of(p), feature, rows_of(p, row), min(p.n_row - row, unsigned(Mid::ROWS)), shared_stages,
                    StoreHead{p, row, feature});
}
