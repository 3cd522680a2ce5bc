// page_copy.cu: pages of one layer's latent cache, copied so that a sequence can go its own way.
//
//   cache[to[i]] = cache[from[i]]
//
// Shapes    cache [n_page, page_bytes]; from, to [n_copy] u32; no page is in both.
// Launch    grid (n_copy, stretches of a page), block 256: a thread for 16 bytes.
// Bytes     2 * n_copy * page_bytes.
// Roofline  no flop, memory-bound. A V3 page of one layer is 73,728 B: 0.05 us at 3.0 TB/s, one launch in truth.
#include "device.cuh"
#include "page_copy.h"

constexpr unsigned THREADS = 256;

KERNEL(page_copy, PageCopyParams, THREADS) {
  const unsigned n_vector = p.page_bytes / 16;
  const size_t copy = blockIdx.x;
  const unsigned at = blockIdx.y * THREADS + threadIdx.x;
  if (at >= n_vector) return;
  uint4* cache = static_cast<uint4*>(p.cache);
  cache[size_t(p.to[copy]) * n_vector + at] = cache[size_t(p.from[copy]) * n_vector + at];
}
