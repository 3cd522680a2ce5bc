// rms_norm.cu: RMSNorm over the rows of an activation matrix, alone or after the residual add.
//
//   x[r, i] += delta[r, i]                                            (add_rms_norm only)
//   y[r, i] = weight[i] * x[r, i] / sqrt(mean_j(x[r, j]^2) + eps)
//
// Shapes    y [n_row, dim] bf16; x [n_row, dim] f32 (residual stream) or bf16 (latents); delta bf16; weight [dim] f32.
//           Rows are padded with zeros to a multiple of 8, and stay so. Sums in f32.
// Launch    grid n_row, block 256: one block a row. Shared 32 B.
// Bytes     n_row * dim * (4 + 2), added form (4 + 4 + 2 + 2); weight comes from L2. The second read of x hits L1.
// Roofline  about 1 flop a byte, memory-bound. 64 x 7168 added = 5.5 MB = 1.8 us at 3.0 TB/s: near one launch, so the
//           add is fused and decode has one launch where two would be.
#include "device.cuh"
#include "rms_norm.h"

// Four warps: a row of 7168 is seven loads a thread, and six rows fill a multiprocessor of 1,536 threads.
constexpr unsigned THREADS = 256;

// Where a row's zeros end.
__device__ __forceinline__ unsigned padded(unsigned dim) { return (dim + 7) / 8 * 8; }

template <typename T>
__device__ __forceinline__ void scale_row(bf16* y, const T* x, const float* weight, unsigned dim, float square_sum,
                                          float eps) {
  __shared__ float partial[THREADS / WARP];
  const float mean = block_sum<THREADS>(square_sum, partial) / float(dim);
  const float scale = 1.0f / sqrtf(mean + eps);
  for (unsigned i = threadIdx.x * 4; i < padded(dim); i += THREADS * 4) {
    Four a = load4(x + i);
    const Four w = load4(weight + i);
#pragma unroll
    for (int j = 0; j < 4; ++j) a.v[j] = a.v[j] * scale * w.v[j];
    store4(y + i, a);
  }
}

template <typename T>
__device__ __forceinline__ void rms_norm(const RmsNormParams& p) {
  const T* x = static_cast<const T*>(p.x) + size_t(blockIdx.x) * p.x_stride;
  bf16* y = static_cast<bf16*>(p.y) + size_t(blockIdx.x) * p.y_stride;
  float square_sum = 0.0f;
  for (unsigned i = threadIdx.x * 4; i < padded(p.dim); i += THREADS * 4) {
    square_sum += sum_of_squares(load4(x + i));
  }
  scale_row(y, x, p.weight, p.dim, square_sum, p.eps);
}

KERNEL(rms_norm_f32, RmsNormParams, THREADS) { rms_norm<float>(p); }
KERNEL(rms_norm_bf16, RmsNormParams, THREADS) { rms_norm<bf16>(p); }

KERNEL(add_rms_norm, AddRmsNormParams, THREADS) {
  float* x = p.x + size_t(blockIdx.x) * p.x_stride;
  const bf16* delta = static_cast<const bf16*>(p.delta) + size_t(blockIdx.x) * p.delta_stride;
  bf16* y = static_cast<bf16*>(p.y) + size_t(blockIdx.x) * p.y_stride;
  float square_sum = 0.0f;
  for (unsigned i = threadIdx.x * 4; i < padded(p.dim); i += THREADS * 4) {
    Four a = load4(x + i);
    const Four d = load4(delta + i);
#pragma unroll
    for (int j = 0; j < 4; ++j) a.v[j] += d.v[j];
    square_sum += sum_of_squares(a);
    store4(x + i, a);  // the same thread reads it again below
  }
  scale_row(y, x, p.weight, p.dim, square_sum, p.eps);
}
