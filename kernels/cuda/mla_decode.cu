// mla_decode.cu: absorbed attention over the paged latent cache, for rows in decode form.
//
//   s[h, u] = scale * (q_latent[h] . c_kv[u] + q_pe[h] . k_pe[u]),   o_latent[h] = sum_u softmax(s[h])[u] c_kv[u]
//
// Shapes    one row: q_latent [H, c], q_pe [H, r], o_latent [H, c] bf16; cache rows [c_kv, k_pe] bf16, keys and values
//           at once. c <= 512, r <= 64. Scores, softmax and sums in f32; weights of values in bf16.
// Launch    mla_decode_<n>: grid (heads / n, splits, rows), a warp for 16 heads x 8 tokens and for 16 heads x 128
//           columns: block 128 for 16 heads, 512 for 64. Shared 93 and 152 KB. mla_combine: grid (heads, rows), block
//           128.
// Splits    a context is cut in up to 32 parts of 256 tokens or more, by its length alone; so a row's bits depend on
//           its own tokens, and the blocks of a long one fill the card.
// Bytes     the row's cache once for every n heads (from L2 after the first), q_latent, o_latent; f32 parts where there
//           are splits.
// Roofline  2 (2c + r) H flops a token against 2 (c + r) bytes: 242 flops a byte with 128 heads, so tensor-core-bound
//           on most cards; 30 with 16 heads, memory-bound. 128 heads x 4096 tokens: 1.1 GFLOP, 4.7 MB = 1.6 us on an
//           H100.
#include "mla_decode.h"
#include "tile.cuh"

constexpr unsigned PAGE_TOKENS = 64;
// Half a page: two tiles of 576 numbers, one under way while the other is used, and queries of 16 heads fit 99 KB.
constexpr unsigned TOKENS = 32;
constexpr unsigned STAGES = 2;
constexpr unsigned C_MAX = 512, R_MAX = 64;
// Eight rows of a matrix load start 4 banks apart.
constexpr unsigned PITCH = C_MAX + R_MAX + 8;
constexpr unsigned P_PITCH = TOKENS + 8;
constexpr unsigned SPLIT_TOKENS_MIN = 256;
constexpr unsigned SPLITS_MAX = 32;
constexpr unsigned COMBINE_THREADS = 128;
constexpr float LOG2_E = 1.44269504f;

// Tokens of a split: whole pages. geometry/mla_decode.rs has the same rule.
__device__ __forceinline__ unsigned split_tokens(unsigned context) {
  const unsigned even = (context + SPLITS_MAX - 1) / SPLITS_MAX;
  return max(SPLIT_TOKENS_MIN, (even + PAGE_TOKENS - 1) / PAGE_TOKENS * PAGE_TOKENS);
}

// Columns of a row in shared memory: latent, zeros to a multiple of 8, rotary part, zeros to a multiple of 32.
struct Columns {
  unsigned latent, latent_units, rope, units;

  __device__ __forceinline__ explicit Columns(const MlaDecodeParams& p)
      : latent(p.kv_lora_rank), rope(p.k_pe_head_stride == 0 ? p.qk_rope_head_dim : 0) {
    latent_units = (latent + 7) / 8;
    units = (latent_units * 8 + rope + 31) / 32 * 4;
  }
  // Numbers of unit `u`: of the latent, of the rotary part, or none.
  __device__ __forceinline__ unsigned in_latent(unsigned u) const {
    return u * 8 < latent ? min(8u, latent - u * 8) : 0;
  }
  __device__ __forceinline__ unsigned in_rope(unsigned u) const {
    return u >= latent_units && (u - latent_units) * 8 < rope ? min(8u, rope - (u - latent_units) * 8) : 0;
  }
};

// Queries of HEADS heads; those that are not there are zero.
template <unsigned HEADS>
__device__ __forceinline__ void load_queries(bf16* to, const MlaDecodeParams& p, const Columns& columns, unsigned row,
                                             unsigned head) {
  const bf16* latent = static_cast<const bf16*>(p.q_latent) + size_t(row) * p.q_latent_stride;
  const bf16* q = static_cast<const bf16*>(p.q) + size_t(row) * p.q_stride;
  const unsigned width = p.qk_nope_head_dim + p.qk_rope_head_dim;
  const bool even = p.kv_lora_rank % 8 == 0 && width % 8 == 0 && p.qk_nope_head_dim % 8 == 0;
  for (unsigned h = threadIdx.x / WARP; h < HEADS; h += HEADS / 4) {
    const bool there = head + h < p.n_head;
    for (unsigned u = lane_id(); u < columns.units; u += WARP) {
      const bf16* at = latent + size_t(head + h) * columns.latent + u * 8;
      unsigned n = columns.in_latent(u);
      if (n == 0) {
        n = columns.in_rope(u);
        at = q + size_t(head + h) * width + p.qk_nope_head_dim + (u - columns.latent_units) * 8;
      }
      uint4 x = zero16();
      if (there && n > 0) x = even && n == 8 ? *reinterpret_cast<const uint4*>(at) : gather16(at, n);
      *reinterpret_cast<uint4*>(to + h * PITCH + u * 8) = x;
    }
  }
}

// TOKENS cache rows from `slot` on, the first `n` of which are there.
template <unsigned WARPS>
__device__ __forceinline__ void load_tokens(bf16* to, const MlaDecodeParams& p, const Columns& columns, size_t slot,
                                            unsigned n) {
  const bf16* cache = static_cast<const bf16*>(p.cache) + slot * p.cache_stride;
  // The cache is zero behind a row's numbers, so that a unit may be read whole.
  const bool even = p.kv_lora_rank % 8 == 0;
  for (unsigned t = threadIdx.x / WARP; t < TOKENS; t += WARPS) {
    for (unsigned u = lane_id(); u < columns.units; u += WARP) {
      bf16* unit = to + t * PITCH + u * 8;
      unsigned from = u * 8, count = columns.in_latent(u);
      if (count == 0) {
        from = columns.latent + (u - columns.latent_units) * 8;
        count = columns.in_rope(u);
      }
      const bool there = t < n && count > 0;
      if (even) {
        copy16(unit, there ? cache + size_t(t) * p.cache_stride + from : cache, there ? 16 : 0);
      } else {
        *reinterpret_cast<uint4*>(unit) = there ? gather16(cache + size_t(t) * p.cache_stride + from, count) : zero16();
      }
    }
  }
}

// q_pe[h] . k_pe[u] where every head has a rotary key of its own: no product of matrices.
__device__ __forceinline__ float own_key_score(const MlaDecodeParams& p, unsigned row, unsigned head, size_t slot) {
  if (head >= p.n_head) return 0.0f;
  const unsigned width = p.qk_nope_head_dim + p.qk_rope_head_dim;
  const bf16* q = static_cast<const bf16*>(p.q) + size_t(row) * p.q_stride + size_t(head) * width + p.qk_nope_head_dim;
  const bf16* k =
      static_cast<const bf16*>(p.cache) + slot * p.cache_stride + p.kv_lora_rank + size_t(head) * p.k_pe_head_stride;
  float sum = 0.0f;
  for (unsigned i = 0; i < p.qk_rope_head_dim; ++i) sum = fmaf(to_f32(q[i]), to_f32(k[i]), sum);
  return sum;
}

// 16 heads x 8 tokens: even and odd steps of 16 columns have sums of their own, so that one does not wait for the
// other.
__device__ __forceinline__ void scores(float (&s)[4], const bf16* q, const bf16* k, unsigned units) {
  float odd[4] = {};
  const bf16* q_at = q + lane_id() % 16 * PITCH + lane_id() / 16 * 8;
  const bf16* k_at = k + lane_id() % 8 * PITCH + lane_id() / 8 * 8;
#pragma unroll 2
  for (unsigned column = 0; column < units * 8; column += 32) {
    uint32_t a[4], b[4];
    load_matrices(b, k_at + column);
    load_matrices(a, q_at + column);
    multiply(s, a, b[0], b[1]);
    load_matrices(a, q_at + column + 16);
    multiply(odd, a, b[2], b[3]);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) s[i] += odd[i];
}

// o += weights [16 heads, TOKENS] x values [TOKENS, 128 columns], as far as there are columns.
__device__ __forceinline__ void add_values(float (&o)[16][4], const bf16* weights, const bf16* values, unsigned column,
                                           unsigned n_column) {
#pragma unroll
  for (unsigned token = 0; token < TOKENS; token += 16) {
    uint32_t a[4];
    load_matrices(a, weights + lane_id() % 16 * P_PITCH + token + lane_id() / 16 * 8);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      if (column + 16 * j < n_column) {
        uint32_t b[4];
        load_matrices_transposed(b, values + (token + lane_id() % 16) * PITCH + column + 16 * j + lane_id() / 16 * 8);
        multiply(o[2 * j], a, b[0], b[1]);
        multiply(o[2 * j + 1], a, b[2], b[3]);
      }
    }
  }
}

// A row's weight so far, and its part of the sum of weights: of two rows, `group` and group + 8.
struct Softmax {
  float max[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0.0f, 0.0f};
};

extern __shared__ __align__(128) char shared_tiles[];

// The finished split: to o_latent where it is the only one, to its place among the parts otherwise.
template <unsigned HEADS>
__device__ __forceinline__ void store_split(const MlaDecodeParams& p, float (&o)[16][4], const float (&lse)[2],
                                            unsigned row, unsigned head, unsigned split, unsigned n_split) {
  const unsigned warp = threadIdx.x / WARP, tile = warp / 4, column = warp % 4 * 128;
  const unsigned group = lane_id() / 4, quad = lane_id() % 4;
  const unsigned c = p.kv_lora_rank, c_units = (c + 7) / 8;
  if (n_split > 1) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const unsigned h = head + tile * 16 + group + 8 * half;
      if (h >= p.n_head) continue;
      const size_t part = (size_t(row) * p.n_head + h) * p.n_split_max + split;
      if (warp % 4 == 0 && quad == 0) p.lse[part] = lse[half];
#pragma unroll
      for (int j = 0; j < 16; ++j) {
        const unsigned at = column + 8 * j;
        if (at < c) store_pair(p.part + part * c_units * 8 + at + 2 * quad, o[j][2 * half], o[j][2 * half + 1]);
      }
    }
    return;
  }
  // Through shared memory, where the queries were: 4 bytes a lane become 16.
  bf16* tile_at = reinterpret_cast<bf16*>(shared_tiles);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    bf16* to = tile_at + (tile * 16 + group + 8 * half) * PITCH + column + 2 * quad;
#pragma unroll
    for (int j = 0; j < 16; ++j) {
      if (column + 8 * j < c) *reinterpret_cast<uint32_t*>(to + 8 * j) = pack_bf16(o[j][2 * half], o[j][2 * half + 1]);
    }
  }
  __syncthreads();
  bf16* out = static_cast<bf16*>(p.o_latent) + size_t(row) * p.o_stride;
  for (unsigned h = warp; h < HEADS && head + h < p.n_head; h += HEADS / 4) {
    for (unsigned u = lane_id(); u < c_units; u += WARP) {
      const bf16* from = tile_at + h * PITCH + u * 8;
      bf16* to = out + size_t(head + h) * c + u * 8;
      if (c % 8 == 0) {
        store16(to, *reinterpret_cast<const uint4*>(from));
      } else {
        for (unsigned i = 0; i < min(8u, c - u * 8); ++i) to[i] = from[i];
      }
    }
  }
}

template <unsigned HEADS>
__device__ __forceinline__ void mla_decode(const MlaDecodeParams& p) {
  constexpr unsigned WARPS = HEADS / 4;
  bf16* const queries = reinterpret_cast<bf16*>(shared_tiles);
  bf16* const tokens = queries + HEADS * PITCH;
  bf16* const weights = tokens + STAGES * TOKENS * PITCH;
  float* const exchange =
      reinterpret_cast<float*>(weights + HEADS * P_PITCH);  // [HEADS, 4]: one number a warp of 8 tokens

  const unsigned head = blockIdx.x * HEADS, split = blockIdx.y, row = blockIdx.z;
  const unsigned context = p.position[row] + 1, per_split = split_tokens(context);
  const unsigned n_split = (context + per_split - 1) / per_split;
  if (split >= n_split) return;
  const unsigned begin = split * per_split, end = min(context, begin + per_split);
  const uint32_t* page = p.page + p.page_start[p.sequence[row]];
  const unsigned warp = threadIdx.x / WARP, tile = warp / 4, share = warp % 4;
  const unsigned group = lane_id() / 4, quad = lane_id() % 4;
  const float scale = p.scale * LOG2_E;
  const Columns columns(p);
  const auto slot = [&](unsigned token) {
    return size_t(page[token / PAGE_TOKENS]) * PAGE_TOKENS + token % PAGE_TOKENS;
  };
  const auto fetch = [&](unsigned token) {
    load_tokens<WARPS>(tokens + token / TOKENS % STAGES * TOKENS * PITCH, p, columns, slot(token), end - token);
    copy_commit();
  };

  fetch(begin);
  load_queries<HEADS>(queries, p, columns, row, head);
  float o[16][4] = {};
  Softmax softmax;
  for (unsigned token = begin; token < end; token += TOKENS) {
    copy_wait<0>();
    // This tile is there for all, and the one before it, whose place the next one takes, is used up.
    __syncthreads();
    const bf16* keys = tokens + token / TOKENS % STAGES * TOKENS * PITCH;
    if (token + TOKENS < end) fetch(token + TOKENS);

    float s[4] = {};
    scores(s, queries + tile * 16 * PITCH, keys + share * 8 * PITCH, columns.units);
    float tile_max[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const unsigned u = token + share * 8 + 2 * quad + i % 2;
      if (p.k_pe_head_stride != 0 && u < end)
        s[i] += own_key_score(p, row, head + tile * 16 + group + i / 2 * 8, slot(u));
      s[i] = u < end ? s[i] * scale : -INFINITY;
      tile_max[i / 2] = fmaxf(tile_max[i / 2], s[i]);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float max = quad_reduce<Max>(tile_max[half]);
      if (quad == 0) exchange[(tile * 16 + group + 8 * half) * 4 + share] = max;
    }
    __syncthreads();
    // Every warp of a head keeps the same maximum; the first token of a tile is always there, so it is a number.
    float shrink[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float4 of = *reinterpret_cast<const float4*>(exchange + (tile * 16 + group + 8 * half) * 4);
      const float max = fmaxf(softmax.max[half], fmaxf(fmaxf(of.x, of.y), fmaxf(of.z, of.w)));
      shrink[half] = exp2_approx(softmax.max[half] - max);
      softmax.max[half] = max;
      const float a = exp2_approx(s[2 * half] - max), b = exp2_approx(s[2 * half + 1] - max);
      softmax.sum[half] = softmax.sum[half] * shrink[half] + (a + b);
      bf16* to = weights + (tile * 16 + group + 8 * half) * P_PITCH + share * 8 + 2 * quad;
      *reinterpret_cast<uint32_t*>(to) = pack_bf16(a, b);
    }
    __syncthreads();
#pragma unroll
    for (int j = 0; j < 16; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) o[j][i] *= shrink[i / 2];
    }
    add_values(o, weights + tile * 16 * P_PITCH, keys, share * 128, columns.latent);
  }

  // Each warp has summed its own tokens' weights.
  float lse[2], inverse[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float sum = quad_reduce<Sum>(softmax.sum[half]);
    if (quad == 0) exchange[(tile * 16 + group + 8 * half) * 4 + share] = sum;
  }
  __syncthreads();
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float4 of = *reinterpret_cast<const float4*>(exchange + (tile * 16 + group + 8 * half) * 4);
    const float sum = ((of.x + of.y) + of.z) + of.w;
    inverse[half] = 1.0f / sum;
    lse[half] = softmax.max[half] + log2_approx(sum);
  }
#pragma unroll
  for (int j = 0; j < 16; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) o[j][i] *= inverse[i / 2];
  }
  store_split<HEADS>(p, o, lse, row, head, split, n_split);
}

KERNEL(mla_decode_16, MlaDecodeParams, 128) { mla_decode<16>(p); }
KERNEL(mla_decode_64, MlaDecodeParams, 512) { mla_decode<64>(p); }

// o_latent = sum_i 2^(lse_i - max) part_i / sum_i 2^(lse_i - max), splits in their order.
KERNEL(mla_combine, MlaDecodeParams, COMBINE_THREADS) {
  const unsigned head = blockIdx.x, row = blockIdx.y;
  const unsigned context = p.position[row] + 1, per_split = split_tokens(context);
  const unsigned n_split = (context + per_split - 1) / per_split;
  if (n_split < 2) return;
  const size_t first = (size_t(row) * p.n_head + head) * p.n_split_max;
  const unsigned c = p.kv_lora_rank, width = (c + 7) / 8 * 8;
  const float lse = lane_id() < n_split ? p.lse[first + lane_id()] : -INFINITY;
  const float weight = exp2_approx(lse - warp_reduce<Max>(lse));
  const float inverse = 1.0f / warp_reduce<Sum>(weight);
  bf16* out = static_cast<bf16*>(p.o_latent) + size_t(row) * p.o_stride + size_t(head) * c;
  // Whole warps stay in the loop: they exchange weights.
  for (unsigned base = 0; base < width; base += COMBINE_THREADS * 4) {
    const unsigned column = base + threadIdx.x * 4;
    const bool there = column < c;
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    for (unsigned i = 0; i < n_split; ++i) {
      const float w = __shfl_sync(ALL_LANES, weight, int(i));
      if (!there) continue;
      const float4 part = *reinterpret_cast<const float4*>(p.part + (first + i) * width + column);
      sum = make_float4(fmaf(w, part.x, sum.x), fmaf(w, part.y, sum.y), fmaf(w, part.z, sum.z), fmaf(w, part.w, sum.w));
    }
    if (!there) continue;
    const Four y = {{sum.x * inverse, sum.y * inverse, sum.z * inverse, sum.w * inverse}};
    if (c % 4 == 0) {
      store4(out + column, y);
    } else {
#pragma unroll
      for (unsigned i = 0; i < 4; ++i) {
        if (column + i < c) out[column + i] = to_bf16(y.v[i]);
      }
    }
  }
}
