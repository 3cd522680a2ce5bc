// mla_prefill.cu: multi-head attention of prompts' rows, causal, over the paged latent cache.
//
//   mla_expand    k[u, h] = [W_uk[h] c_kv[u], k_pe[u]],  v[u, h] = W_uv[h] c_kv[u]
//   mla_prefill   o[r, h] = sum_u softmax(scale * q[r, h] . k[u, h])[u] v[u, h],  u <= position of r
//
// Shapes    q [n_row, H, n + r], o [n_row, H, v], cache rows [c_kv, k_pe] bf16; k and v bf16, of a group of heads and
//           all tokens. Scores, softmax and sums in f32; keys, values and weights of values in bf16.
// Launch    mla_expand_<mid|many>  grid (features, tokens, 2 * heads): product.cuh's tiles of 64 x 64 and 128 x 128
//           mla_prefill_<width>    grid (tiles of 64 rows, heads), block 128: a warp for 16 rows, tokens 32 at a time
//           Widths up to 64 / 64, 192 / 128 and 256 / 256 for keys / values; shared 18, 43 and 99 KB.
// Order     a row's softmax runs over the tiles of its own tokens from the first on; tiles behind it add nothing,
//           exactly.
// Bytes     expand: latents once for every head and tile of features, weights, k and v. Attention: q, o, and k and v
//           once for every 64 rows (from L2: heads of a group are few).
// Roofline  2 (n + r + v) flops a row, head and token: 4096 rows of V3 are 0.69 TFLOP = 0.87 ms at 798 TFLOP/s,
//           tensor-core-bound; expanding them 0.14 TFLOP.
#include "mla_prefill.h"
#include "product_many.cuh"

constexpr unsigned ROWS = 64;
constexpr unsigned TOKENS = 32;
constexpr unsigned STAGES = 2;
constexpr unsigned WARPS = ROWS / 16;
constexpr unsigned THREADS = WARPS * WARP;
constexpr float LOG2_E = 1.44269504f;

// ---- expand ----

using Mid = Tiling<Bf16, 1, 64, 64, 2, 2, 3>;
using Many = Tiling<Bf16, 1, 128, 128, 4, 2, 3>;

// Latents by token.
struct SlotRows {
  const bf16* cache;
  const uint32_t* slot;
  size_t stride;
  __device__ __forceinline__ const bf16* row(unsigned i) const { return cache + slot[i] * stride; }
  static constexpr bool ALIGNED = true;
};

// Features of one head, elements where a head's numbers begin anywhere; zeros up to `room`.
struct StoreExpanded {
  bf16* to;  // of the tile's first row and feature
  size_t stride;
  unsigned feature, n_out, room;
  __device__ __forceinline__ void operator()(unsigned i, unsigned f, const Four& y) const {
    bf16* at = to + i * stride + f;
    if (feature + f + 4 <= room) {
      store4(at, inside(y, feature + f, n_out));
      return;
    }
#pragma unroll
    for (unsigned j = 0; j < 4; ++j) {
      if (feature + f + j < room) at[j] = to_bf16(y.v[j]);
    }
  }
};

// The rotary part of a tile's keys, and the zeros behind it.
__device__ __forceinline__ void copy_rotary(const MlaExpandParams& p, unsigned token, unsigned n_token, unsigned head,
                                            unsigned n_thread) {
  const unsigned width = p.k_head_stride - p.qk_nope_head_dim;
  for (unsigned i = threadIdx.x; i < n_token * width; i += n_thread) {
    const unsigned t = token + i / width, column = i % width;
    const bf16* from = static_cast<const bf16*>(p.cache) + size_t(p.slot[t]) * p.cache_stride + p.kv_lora_rank +
                       size_t(p.head_first + head) * p.k_pe_head_stride;
    bf16* to = static_cast<bf16*>(p.k) + (size_t(t) * p.n_head + head) * p.k_head_stride + p.qk_nope_head_dim;
    to[column] = column < p.qk_rope_head_dim ? from[column] : bf16{0};
  }
}

template <class T>
__device__ __forceinline__ void mla_expand(const MlaExpandParams& p) {
  const unsigned feature = blockIdx.x * T::FEATURES, token = blockIdx.y * T::ROWS;
  const unsigned head = blockIdx.z / 2;
  const bool is_key = blockIdx.z % 2 == 0;
  const unsigned n_token = min(p.n_token - token, unsigned(T::ROWS));
  WeightMatrix w = is_key ? p.w_uk : p.w_uv;
  const size_t of = p.head_first + head;
  const size_t first = is_key ? of * p.uk_row_stride : p.uv_row_first + of * p.uv_row_stride;
  w.quants = static_cast<const bf16*>(w.quants) + first * w.quant_stride;
  w.n_out = is_key ? p.qk_nope_head_dim : p.v_head_dim;
  w.n_in = p.kv_lora_rank;
  if (is_key && blockIdx.x == 0) copy_rotary(p, token, n_token, head, T::THREADS);
  const unsigned room = is_key ? p.qk_nope_head_dim : p.v_head_stride;
  if (feature >= room) return;
  const size_t head_stride = is_key ? p.k_head_stride : p.v_head_stride, stride = p.n_head * head_stride;
  bf16* to = static_cast<bf16*>(is_key ? p.k : p.v) + token * stride + head * head_stride + feature;
  const SlotRows rows = {static_cast<const bf16*>(p.cache), p.slot + token, p.cache_stride};
  product_many<T>(Matrices<1>{{w}}, feature, rows, n_token, shared_stages,
                  StoreExpanded{to, stride, feature, w.n_out, room});
}

KERNEL_BLOCKS(mla_expand_mid, MlaExpandParams, Mid::THREADS, 2) { mla_expand<Mid>(p); }
KERNEL_BLOCKS(mla_expand_many, MlaExpandParams, Many::THREADS, 1) { mla_expand<Many>(p); }

// ---- attention ----

// Widest keys and values of a variant. Queries stay in registers where there is room for them, else in shared memory.
template <unsigned KEY_MAX, unsigned VALUE_MAX, bool REGISTERS>
struct Widths {
  static constexpr unsigned KEY = KEY_MAX, VALUE = VALUE_MAX;
  static constexpr bool QUERIES_IN_REGISTERS = REGISTERS;
  // Eight rows of a matrix load start 4 banks apart.
  static constexpr unsigned K_PITCH = KEY + 8, V_PITCH = VALUE + 8;
  static constexpr unsigned K_STAGE = TOKENS * K_PITCH, V_STAGE = TOKENS * V_PITCH;
};

struct PrefillTile {
  unsigned row, n_row, position, token;
};

// Queries of one head; rows and columns that are not there are zero. Heads of 20 or 28 numbers begin anywhere.
template <class W>
__device__ __forceinline__ void load_queries(bf16* to, const MlaPrefillParams& p, const PrefillTile& tile) {
  const size_t of_head = size_t(p.head_first + blockIdx.y) * p.qk_head_dim;
  const bool even = p.qk_head_dim % 8 == 0 && p.q_stride % 8 == 0;
  for (unsigned r = threadIdx.x / WARP; r < ROWS; r += WARPS) {
    const bf16* q = static_cast<const bf16*>(p.q) + size_t(tile.row + r) * p.q_stride + of_head;
    for (unsigned column = lane_id() * 8; column < p.k_head_stride; column += WARP * 8) {
      uint4 x = zero16();
      if (r < tile.n_row && column < p.qk_head_dim) {
        const unsigned n = min(8u, p.qk_head_dim - column);
        x = even ? *reinterpret_cast<const uint4*>(q + column) : gather16(q + column, n);
      }
      *reinterpret_cast<uint4*>(to + r * W::K_PITCH + column) = x;
    }
  }
}

// TOKENS keys and values from `token` on, the first `n` of which are there.
template <class W>
__device__ __forceinline__ void load_tokens(bf16* keys, bf16* values, const MlaPrefillParams& p, size_t token,
                                            unsigned n) {
  const bf16* k = static_cast<const bf16*>(p.k) + (token * p.n_head + blockIdx.y) * p.k_head_stride;
  const bf16* v = static_cast<const bf16*>(p.v) + (token * p.n_head + blockIdx.y) * p.v_head_stride;
  for (unsigned t = threadIdx.x / WARP; t < TOKENS; t += WARPS) {
    const size_t k_at = size_t(t) * p.n_head * p.k_head_stride, v_at = size_t(t) * p.n_head * p.v_head_stride;
    for (unsigned column = lane_id() * 8; column < p.k_head_stride; column += WARP * 8) {
      copy16(keys + t * W::K_PITCH + column, t < n ? k + k_at + column : k, t < n ? 16 : 0);
    }
    for (unsigned column = lane_id() * 8; column < p.v_head_stride; column += WARP * 8) {
      copy16(values + t * W::V_PITCH + column, t < n ? v + v_at + column : v, t < n ? 16 : 0);
    }
  }
}

// 16 rows x TOKENS scores, tokens side by side.
template <class W>
__device__ __forceinline__ void scores(float (&s)[TOKENS / 8][4], const uint32_t (&q)[W::KEY / 16][4],
                                       const bf16* queries, const bf16* keys, unsigned width) {
  const bf16* k_at = keys + (lane_id() / 16 * 8 + lane_id() % 8) * W::K_PITCH + lane_id() / 8 % 2 * 8;
#pragma unroll
  for (int step = 0; step < int(W::KEY / 16); ++step) {
    if (step * 16 >= int(width)) break;
    uint32_t a[4];
    if constexpr (W::QUERIES_IN_REGISTERS) {
#pragma unroll
      for (int i = 0; i < 4; ++i) a[i] = q[step][i];
    } else {
      load_matrices(a, queries + lane_id() % 16 * W::K_PITCH + step * 16 + lane_id() / 16 * 8);
    }
#pragma unroll
    for (int pair = 0; pair < int(TOKENS / 16); ++pair) {
      uint32_t b[4];
      load_matrices(b, k_at + pair * 16 * W::K_PITCH + step * 16);
      multiply(s[2 * pair], a, b[0], b[1]);
      multiply(s[2 * pair + 1], a, b[2], b[3]);
    }
  }
}

// o += weights x values. The weights lie in lanes as sums do, two tiles of which are one operand.
template <class W>
__device__ __forceinline__ void add_values(float (&o)[W::VALUE / 8][4], const float (&s)[TOKENS / 8][4],
                                           const bf16* values, unsigned width) {
#pragma unroll
  for (int part = 0; part < int(TOKENS / 16); ++part) {
    const float (&a)[4] = s[2 * part], (&b)[4] = s[2 * part + 1];
    const uint32_t weights[4] = {pack_bf16(a[0], a[1]), pack_bf16(a[2], a[3]), pack_bf16(b[0], b[1]),
                                 pack_bf16(b[2], b[3])};
#pragma unroll
    for (int j = 0; j < int(W::VALUE / 16); ++j) {
      if (16 * j < int(width)) {
        uint32_t v[4];
        load_matrices_transposed(v, values + (part * 16 + lane_id() % 16) * W::V_PITCH + j * 16 + lane_id() / 16 * 8);
        multiply(o[2 * j], weights, v[0], v[1]);
        multiply(o[2 * j + 1], weights, v[2], v[3]);
      }
    }
  }
}

// A warp's 16 rows, through its own part of shared memory.
template <class W>
__device__ __forceinline__ void store_rows(const MlaPrefillParams& p, const PrefillTile& tile, bf16* part,
                                           const float (&o)[W::VALUE / 8][4], const float (&inverse)[2]) {
  const unsigned group = lane_id() / 4, quad = lane_id() % 4, first = threadIdx.x / WARP * 16;
#pragma unroll
  for (int j = 0; j < int(W::VALUE / 8); ++j) {
    if (8 * j < int(p.v_head_stride)) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t two = pack_bf16(o[j][2 * half] * inverse[half], o[j][2 * half + 1] * inverse[half]);
        *reinterpret_cast<uint32_t*>(part + (group + 8 * half) * W::V_PITCH + 8 * j + 2 * quad) = two;
      }
    }
  }
  __syncwarp();
  const bool even = p.v_head_dim % 8 == 0 && p.o_stride % 8 == 0;
  const unsigned units = (p.v_head_dim + 7) / 8;
  for (unsigned i = lane_id(); i < 16 * units; i += WARP) {
    const unsigned r = i / units, column = i % units * 8;
    if (first + r >= tile.n_row) continue;
    const bf16* from = part + r * W::V_PITCH + column;
    bf16* to = static_cast<bf16*>(p.o) + size_t(tile.row + first + r) * p.o_stride +
               size_t(p.head_first + blockIdx.y) * p.v_head_dim + column;
    if (even) {
      store16(to, *reinterpret_cast<const uint4*>(from));
    } else {
      for (unsigned j = 0; j < min(8u, p.v_head_dim - column); ++j) to[j] = from[j];
    }
  }
}

template <class W>
__device__ __forceinline__ void mla_prefill(const MlaPrefillParams& p) {
  bf16* const keys = reinterpret_cast<bf16*>(shared_stages);  // [STAGES, TOKENS, K_PITCH]
  bf16* const values = keys + STAGES * W::K_STAGE;            // [STAGES, TOKENS, V_PITCH]
  // Queries on their way to registers have the place of keys: ROWS are as many as STAGES * TOKENS.
  static_assert(ROWS == STAGES * TOKENS, "queries fit where keys will be");
  bf16* const queries = W::QUERIES_IN_REGISTERS ? keys : values + STAGES * W::V_STAGE;
  const uint4 raw = reinterpret_cast<const uint4*>(p.tile)[blockIdx.x];
  const PrefillTile tile = {raw.x, raw.y, raw.z, raw.w};
  const unsigned warp = threadIdx.x / WARP, group = lane_id() / 4, quad = lane_id() % 4;
  const unsigned n_token = tile.position + tile.n_row;
  // Positions of the lane's two rows, and of the warp's last one.
  const unsigned position = tile.position + warp * 16 + group, last = tile.position + warp * 16 + 15;
  const float scale = p.scale * LOG2_E;

  load_queries<W>(queries, p, tile);
  __syncthreads();
  uint32_t q[W::KEY / 16][4];
  const bf16* own_queries = queries + warp * 16 * W::K_PITCH;
  if constexpr (W::QUERIES_IN_REGISTERS) {
#pragma unroll
    for (int step = 0; step < int(W::KEY / 16); ++step) {
      if (step * 16 < int(p.k_head_stride)) {
        load_matrices(q[step], own_queries + lane_id() % 16 * W::K_PITCH + step * 16 + lane_id() / 16 * 8);
      }
    }
    __syncthreads();
  }
  const auto fetch = [&](unsigned token) {
    const unsigned stage = token / TOKENS % STAGES;
    load_tokens<W>(keys + stage * W::K_STAGE, values + stage * W::V_STAGE, p, size_t(tile.token) + token,
                   n_token - token);
    copy_commit();
  };

  fetch(0);
  float o[W::VALUE / 8][4] = {};
  float max[2] = {-INFINITY, -INFINITY}, sum[2] = {0.0f, 0.0f};
  for (unsigned token = 0; token < n_token; token += TOKENS) {
    copy_wait<0>();
    // This tile is there for all, and the one before it, whose place the next one takes, is used up.
    __syncthreads();
    if (token + TOKENS < n_token) fetch(token + TOKENS);
    if (token > last) continue;  // all of it lies behind the warp's rows
    const unsigned stage = token / TOKENS % STAGES;
    float s[TOKENS / 8][4] = {};
    scores<W>(s, q, own_queries, keys + stage * W::K_STAGE, p.k_head_stride);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float most = max[half];
#pragma unroll
      for (int j = 0; j < int(TOKENS / 8); ++j) {
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; ++i) {
          const unsigned u = token + 8 * j + 2 * quad + i % 2;
          s[j][i] = u <= position + 8 * half ? s[j][i] * scale : -INFINITY;
          most = fmaxf(most, s[j][i]);
        }
      }
      // Every row sees token 0, so that this is a number from the first tile on.
      most = quad_reduce<Max>(most);
      const float shrink = exp2_approx(max[half] - most);
      max[half] = most;
      float part = 0.0f;
#pragma unroll
      for (int j = 0; j < int(TOKENS / 8); ++j) {
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; ++i) {
          s[j][i] = exp2_approx(s[j][i] - most);
          part += s[j][i];
        }
      }
      sum[half] = sum[half] * shrink + part;
#pragma unroll
      for (int j = 0; j < int(W::VALUE / 8); ++j) {
        o[j][2 * half] *= shrink;
        o[j][2 * half + 1] *= shrink;
      }
    }
    add_values<W>(o, s, values + stage * W::V_STAGE, p.v_head_stride);
  }
  const float inverse[2] = {1.0f / quad_reduce<Sum>(sum[0]), 1.0f / quad_reduce<Sum>(sum[1])};
  __syncthreads();
  // Values' stages have room for 64 rows.
  store_rows<W>(p, tile, values + warp * 16 * W::V_PITCH, o, inverse);
}

KERNEL(mla_prefill_64, MlaPrefillParams, THREADS) { mla_prefill<Widths<64, 64, true>>(p); }
KERNEL(mla_prefill_192, MlaPrefillParams, THREADS) { mla_prefill<Widths<192, 128, true>>(p); }
KERNEL_BLOCKS(mla_prefill_256, MlaPrefillParams, THREADS, 1) { mla_prefill<Widths<256, 256, false>>(p); }
