// gather_rows.cu: the rows that want a token; and rows of one type as rows of another.
//
//   y[i, j] = x[row[i], j], or x[i, j] where there is no list
//
// Shapes    x [any, dim], y [n_out, dim], each f32 or bf16 by variant, padded to a multiple of 8; row [n_out] u32.
// Launch    grid (n, stretches of a row), block 256: a thread for four numbers.
// Bytes     n_out * dim * (bytes of both types).
// Roofline  no flop, memory-bound; one launch at any number of sequences.
#include "device.cuh"
#include "gather_rows.h"

constexpr unsigned THREADS = 256;

template <typename To, typename From>
__device__ __forceinline__ void gather(const GatherRowsParams& p) {
  const unsigned n_vector = (p.dim + 7) / 8 * 2;
  const size_t out = blockIdx.x;
  const unsigned vector = blockIdx.y * THREADS + threadIdx.x;
  if (vector >= n_vector) return;
  const unsigned at = vector * 4;
  const size_t row = p.row == nullptr ? out : p.row[out];
  const From* x = static_cast<const From*>(p.x) + row * p.x_stride + at;
  store4(static_cast<To*>(p.y) + out * p.y_stride + at, load4(x));
}

KERNEL(gather_bf16_to_bf16, GatherRowsParams, THREADS) { gather<bf16, bf16>(p); }
KERNEL(gather_bf16_to_f32, GatherRowsParams, THREADS) { gather<float, bf16>(p); }
KERNEL(gather_f32_to_bf16, GatherRowsParams, THREADS) { gather<bf16, float>(p); }
KERNEL(gather_f32_to_f32, GatherRowsParams, THREADS) { gather<float, float>(p); }
