// cache_store.cu: a token's row of the latent cache.
//
//   cache_store         cache[slot] = [rms_norm(kv[..c]) * norm, rotate(kv[c..])]
//   cache_store_heads   cache[slot] = [latent, last r channels of every head's key]
//
// Shapes    kv [n_row, c + r], latent [n_row, c], k [n_row, H, n + r], cache [n_page * 64, cache_stride], all bf16; norm [c],
//           cos, sin [context, r / 2] f32. Sums in f32. What lies behind a row's numbers in the cache is not touched.
// Launch    grid n_row, block 128: one block a row.
// Bytes     2 * n_row * (c + r) * 2, and the norm and the table's row out of L2.
// Roofline  memory-bound, and tiny: 64 rows of 576 are 147 kB. One launch where norm, rotation and store would be three.
#include "cache_store.h"
#include "rotary.cuh"

// A latent of 512 is a vector a thread; the rotary key's 32 pairs are one warp.
constexpr unsigned THREADS = 128;

KERNEL(cache_store, CacheStoreParams, THREADS) {
  __shared__ float partial[THREADS / WARP];
  const unsigned c = p.kv_lora_rank, half = p.qk_rope_head_dim / 2, row = blockIdx.x;
  const bf16* kv = static_cast<const bf16*>(p.kv) + size_t(row) * p.kv_stride;
  bf16* to = static_cast<bf16*>(p.cache) + size_t(p.slot[row]) * p.cache_stride;
  // Whole vectors, then the numbers behind the last.
  const unsigned whole = c / 4 * 4;
  float square_sum = 0.0f;
  for (unsigned i = threadIdx.x * 4; i < whole; i += THREADS * 4) square_sum += sum_of_squares(load4(kv + i));
  for (unsigned i = whole + threadIdx.x; i < c; i += THREADS) square_sum += to_f32(kv[i]) * to_f32(kv[i]);
  const float scale = 1.0f / sqrtf(block_sum<THREADS>(square_sum, partial) / float(c) + p.eps);
  for (unsigned i = threadIdx.x * 4; i < whole; i += THREADS * 4) {
    Four a = load4(kv + i);
    const Four w = load4(p.norm + i);
#pragma unroll
    for (int j = 0; j < 4; ++j) a.v[j] = a.v[j] * scale * w.v[j];
    store4(to + i, a);
  }
  for (unsigned i = whole + threadIdx.x; i < c; i += THREADS) to[i] = to_bf16(to_f32(kv[i]) * scale * p.norm[i]);
  const size_t angle = size_t(p.position[row]) * half;
  // Neighbours on a word's border go as one word.
  const bool are_words = !p.pairs_are_halves && c % 2 == 0;
  for (unsigned j = threadIdx.x; j < half; j += THREADS) {
    const float cos = p.cos[angle + j], sin = p.sin[angle + j];
    if (are_words) {
      const uint32_t pair = reinterpret_cast<const uint32_t*>(kv + c)[j];
      float a = low_bf16(pair), b = high_bf16(pair);
      turn(a, b, cos, sin);
      reinterpret_cast<uint32_t*>(to + c)[j] = pack_bf16(a, b);
    } else {
      const PairPlaces at = pair_places(j, half, p.pairs_are_halves);
      float a = to_f32(kv[c + at.first]), b = to_f32(kv[c + at.second]);
      turn(a, b, cos, sin);
      to[c + at.first] = to_bf16(a);
      to[c + at.second] = to_bf16(b);
    }
  }
}

KERNEL(cache_store_heads, CacheStoreHeadsParams, THREADS) {
  const unsigned c = p.kv_lora_rank, n = p.qk_nope_head_dim, r = p.qk_rope_head_dim, row = blockIdx.x;
  const bf16* latent = static_cast<const bf16*>(p.latent) + size_t(row) * p.latent_stride;
  const bf16* k = static_cast<const bf16*>(p.k) + size_t(row) * p.k_stride + n;
  bf16* to = static_cast<bf16*>(p.cache) + size_t(p.slot[row]) * p.cache_stride;
  if (c % 8 == 0 && n % 8 == 0 && r % 8 == 0) {
    for (unsigned i = threadIdx.x * 8; i < c; i += THREADS * 8) store8(to + i, load8(latent + i));
    for (unsigned i = threadIdx.x * 8; i < p.n_head * r; i += THREADS * 8) {
      store8(to + c + i, load8(k + size_t(i / r) * (n + r) + i % r));
    }
  } else {
    for (unsigned i = threadIdx.x; i < c; i += THREADS) to[i] = latent[i];
    for (unsigned i = threadIdx.x; i < p.n_head * r; i += THREADS) to[c + i] = k[size_t(i / r) * (n + r) + i % r];
  }
}
