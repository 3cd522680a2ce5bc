// gaps.cu: the kernels of embed.cu and page_copy.cu, made worse on purpose. The gate must refuse both.
#include "device.cuh"
#include "embed.h"
#include "page_copy.h"

constexpr unsigned THREADS = 256;

// Eight numbers a thread: each request of a warp has gaps as wide as what it takes, so every sector moves twice.
KERNEL(embed, EmbedParams, THREADS) {
  const unsigned n_vector = (p.dim + 7) / 8;
  const size_t row = blockIdx.x;
  const unsigned vector = blockIdx.y * THREADS + threadIdx.x;
  if (vector >= n_vector) return;
  const unsigned at = vector * 8;
  const bf16* table = static_cast<const bf16*>(p.table) + size_t(p.token[row]) * p.table_stride + at;
  float* y = p.y + row * p.y_stride + at;
  store4(y, load4(table));
  store4(y + 4, load4(table + 4));
}

// By way of shared memory, in columns: all lanes of a warp on the same banks.
KERNEL(page_copy, PageCopyParams, THREADS) {
  __shared__ uint32_t column[THREADS * 4];
  const unsigned n_vector = p.page_bytes / 16;
  const size_t copy = blockIdx.x;
  const unsigned at = blockIdx.y * THREADS + threadIdx.x;
  if (at >= n_vector) return;
  uint4* cache = static_cast<uint4*>(p.cache);
  const uint4 x = cache[size_t(p.from[copy]) * n_vector + at];
  const unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  uint32_t* own = column + warp * WARP * 4;
  own[lane * 4] = x.x;
  own[lane * 4 + 1] = x.y;
  own[lane * 4 + 2] = x.z;
  own[lane * 4 + 3] = x.w;
  __syncwarp();
  store16(cache + size_t(p.to[copy]) * n_vector + at,
          make_uint4(own[lane * 4], own[lane * 4 + 1], own[lane * 4 + 2], own[lane * 4 + 3]));
}
