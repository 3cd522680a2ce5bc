// tensor.cu: a small bf16 product on cp.async, ldmatrix and mma.sync, and planted mistakes in its inline assembly.
//
//   c[m, n] = sum_k a[m, k] * b[k, n]
//
// Shapes    a [m, k], b [k, n] bf16 row-major; c [m, n] f32. m and n are multiples of 32, k of 32.
// Launch    grid (n / 32, m / 32), block 128: four warps, each 16 x 16 of c. Shared 10,240 B.
#include <cuda_bf16.h>
#include <stdint.h>

enum Mistake { kNone, kSwappedA, kSwappedHalves, kNoTrans, kWrongWait, kNoPad };

__device__ uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

__device__ void copy16(void* to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from) : "memory");
}

template <int kMistake>
__device__ void product(const __nv_bfloat16* a, const __nv_bfloat16* b, float* c, unsigned n, unsigned k) {
  constexpr int kPad = kMistake == kNoPad ? 0 : 8;  // rows of 40 elements: eight rows in eight different bank groups
  __shared__ alignas(16) __nv_bfloat16 a_tile[2][32][32 + kPad];
  __shared__ alignas(16) __nv_bfloat16 b_tile[2][32][32 + kPad];
  const unsigned row0 = blockIdx.y * 32, column0 = blockIdx.x * 32;
  const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const unsigned warp_row = warp / 2 * 16, warp_column = warp % 2 * 16;

  auto fetch = [&](int stage, unsigned k0) {
    const unsigned row = threadIdx.x / 4, column = threadIdx.x % 4 * 8;
    copy16(&a_tile[stage][row][column], a + size_t(row0 + row) * k + k0 + column);
    copy16(&b_tile[stage][row][column], b + size_t(k0 + row) * n + column0 + column);
    asm volatile("cp.async.commit_group;" ::: "memory");
  };

  float sum[2][4] = {};
  fetch(0, 0);
  for (unsigned k0 = 0; k0 < k; k0 += 32) {
    const int stage = k0 / 32 % 2;
    if (k0 + 32 < k) {
      fetch(stage ^ 1, k0 + 32);
      asm volatile("cp.async.wait_group %0;" ::"n"(kMistake == kWrongWait ? 2 : 1) : "memory");
    } else {
      asm volatile("cp.async.wait_group %0;" ::"n"(kMistake == kWrongWait ? 1 : 0) : "memory");
    }
    __syncthreads();
    for (int step = 0; step < 32; step += 16) {
      uint32_t x[4];
      const void* from = &a_tile[stage][warp_row + lane % 16][step + lane / 16 * 8];
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                   : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                   : "r"(shared_address(from))
                   : "memory");
      if (kMistake == kSwappedA) {
        uint32_t swap = x[1];
        x[1] = x[2];
        x[2] = swap;
      }
      if (kMistake == kSwappedHalves) x[0] = x[0] << 16 | x[0] >> 16;
      for (int half = 0; half < 2; ++half) {
        uint32_t y[2];
        const void* from = &b_tile[stage][step + lane % 16][warp_column + half * 8];
        if (kMistake == kNoTrans) {
          asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                       : "=r"(y[0]), "=r"(y[1])
                       : "r"(shared_address(from))
                       : "memory");
        } else {
          asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                       : "=r"(y[0]), "=r"(y[1])
                       : "r"(shared_address(from))
                       : "memory");
        }
        float* d = sum[half];
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
            "{%0, %1, %2, %3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(y[0]), "r"(y[1]));
      }
    }
    __syncthreads();
  }
  for (int half = 0; half < 2; ++half) {
    for (int i = 0; i < 4; ++i) {
      const unsigned row = row0 + warp_row + lane / 4 + i / 2 * 8;
      const unsigned column = column0 + warp_column + half * 8 + lane % 4 * 2 + i % 2;
      c[size_t(row) * n + column] = sum[half][i];
    }
  }
}

#define PRODUCT(name, mistake)                                                                                  \
  extern "C" __global__ void name(const __nv_bfloat16* a, const __nv_bfloat16* b, float* c, unsigned n, unsigned k) { \
    product<mistake>(a, b, c, n, k);                                                                            \
  }

PRODUCT(product_right, kNone)
PRODUCT(product_swapped_a, kSwappedA)
PRODUCT(product_swapped_halves, kSwappedHalves)
PRODUCT(product_without_trans, kNoTrans)
PRODUCT(product_wrong_wait, kWrongWait)
PRODUCT(product_without_pad, kNoPad)
