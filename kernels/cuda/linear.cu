// linear.cu: y[row] = W x[row], for one row to thousands, in every weight format.
//
//   y[r, o] = sum_i W[o, i] * x[r, i]
//
// Shapes    W [n_out, n_in] as in weight.h; x [n_row, n_in] bf16; y [n_row, n_out] bf16, or f32. Sums in f32, in the
//           order that product.cuh fixes: a row has the same bits in every variant below.
// Variants  linear_<format>_few   up to 8 rows a block and 16 features: for decoding
//           linear_<format>_some  up to 32 rows a block and 16 features: for batches, where a matrix has few features
//           linear_<format>_mid   64 rows x 64 features
//           linear_<format>_many  128 rows (64 where scales are of 32 columns) x 128 features: for prompts
// Launch    grid (features, rows) over the tile, block 256, 256, 128 and 256 threads; shared 9, 34, and 48 to 96 KB.
// Bytes     the plane of weights once for every tile of rows, the plane of scales, x once for every tile of features,
//           y.
// Roofline  up to 8 rows: 2 flops a weight and row, memory-bound: o_proj of 7168 x 16384 in fp8 is 117 MB = 39 us at
//           3.0 TB/s. From some 300 rows on (bf16) tensor-core-bound: 4096 rows of it are 0.96 TFLOP = 1.2 ms at 798
//           TFLOP/s.
#include "linear.h"
#include "product_many.cuh"

// Stages: 48 to 64 KB a block, most of it on its way, since matrices with few features make few blocks.
template <class F>
using Mid = Tiling<F, 1, 64, 64, 2, 2, F::STAGE == 64 ? 4 : 3>;
// 32 x 64 sums a warp: two instructions for every 16 bytes that a lane reads from shared memory. Scales inside a
// segment want the registers of half the rows.
template <class F>
using Many = Tiling<F, 1, 128, F::GROUP == 32 ? 64 : 128, 4, 2, F::STAGE == 64 ? 3 : 2>;

struct StoreLinear {
  const LinearParams& p;
  unsigned row, feature;

  // Rows have room for whole eights.
  __device__ __forceinline__ void operator()(unsigned i, unsigned f, Four y) const {
    if (feature + f >= (p.w.n_out + 7) / 8 * 8) return;
    y = inside(y, feature + f, p.w.n_out);
    const size_t at = size_t(row + i) * p.y_stride + feature + f;
    if (p.y_is_f32) {
      store4(static_cast<float*>(p.y) + at, y);
    } else {
      store4(static_cast<bf16*>(p.y) + at, y);
    }
  }
};

__device__ __forceinline__ PlainRows rows_of(const LinearParams& p, unsigned row) {
  return {static_cast<const bf16*>(p.x) + size_t(row) * p.x_stride, p.x_stride};
}

// Warps share the columns of 16 features, so that a matrix of 1536 features still fills 96 multiprocessors. With 8 rows
// x is half as many bytes as bf16 weights, with 32 twice as many, from L2.
template <class F, int N>
__device__ __forceinline__ void linear_few(const LinearParams& p) {
  const unsigned feature = blockIdx.x * 16, row = blockIdx.y * N * FEW_ROWS;
  product_few<F, N>(Matrices<1>{{p.w}}, feature, rows_of(p, row), min(p.n_row - row, N * FEW_ROWS),
                    StoreLinear{p, row, feature});
}

template <class T>
__device__ __forceinline__ void linear_many(const LinearParams& p) {
  const unsigned feature = blockIdx.x * T::FEATURES, row = blockIdx.y * T::ROWS;
  product_many<T>(Matrices<1>{{p.w}}, feature, rows_of(p, row), min(p.n_row - row, unsigned(T::ROWS)), shared_stages,
                  StoreLinear{p, row, feature});
}

#define LINEAR(format, F)                                                                            \
  KERNEL(linear_##format##_few, LinearParams, FEW_THREADS) { linear_few<F, 1>(p); }                  \
  KERNEL(linear_##format##_some, LinearParams, FEW_THREADS) { linear_few<F, 4>(p); }                 \
  KERNEL_BLOCKS(linear_##format##_mid, LinearParams, Mid<F>::THREADS, 2) { linear_many<Mid<F>>(p); } \
  KERNEL_BLOCKS(linear_##format##_many, LinearParams, Many<F>::THREADS, 1) { linear_many<Many<F>>(p); }

LINEAR(bf16, Bf16)
LINEAR(fp8, Fp8)
LINEAR(int8, Int8)
LINEAR(int4_g32, Int4G32)
LINEAR(int4_g128, Int4G128)
