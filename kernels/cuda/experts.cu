// experts.cu: the routed experts of a mixture: dispatch, gate and up with SwiGLU, down, combine.
//
//   h[pair] = silu(gate_e x[row]) * (up_e x[row]),  y[row] = shared[row] + sum_k weight[row, k] * down_e h[row, k]
//
// Shapes    gate, up [M, D], down [D, M] of each expert as in weight.h; x, y, shared [n_row, D] bf16; a pair is one of
//           a row's n_chosen choices. Sums in f32, in product.cuh's order: a row has the same bits whoever shares its
//           experts.
// Launch    experts_dispatch  one block of 512: a stable counting sort of pairs by expert, and a list of tiles
//           experts_gate_up_<format>_<few|mid>, experts_down_...  grid (features, tiles): 8 or 64 pairs of one expert
//           experts_combine   grid n_row, block 256
//           The number of tiles is the card's affair: the grid is the most there can be, blocks behind the last tile
//           end.
// Bytes     weights of the experts that rows chose, once for every tile; x, h and out once a pair, y.
// Roofline  up to some 8 rows an expert memory-bound: 8 experts of V3 in fp8 are 352 MB = 117 us at 3.0 TB/s; 4096 rows
//           choose 128 times each: 2.9 TFLOP = 3.6 ms at 798 TFLOP/s.
#include "experts.h"
#include "product_many.cuh"

constexpr unsigned NO_EXPERT = 0xffffffffu;
constexpr unsigned DISPATCH_WARPS = 16;
constexpr unsigned DISPATCH_THREADS = DISPATCH_WARPS * WARP;
constexpr unsigned COMBINE_THREADS = 256;

// ---- dispatch ----

// Lanes with the same key as this one (9.7.13.9 match.sync, ISA 9.0).
__device__ __forceinline__ uint32_t same_lanes(uint32_t key) {
  uint32_t lanes;
  asm volatile("match.any.sync.b32 %0, %1, 0xffffffff;" : "=r"(lanes) : "r"(key));
  return lanes;
}

// The sum of x over lanes up to this one.
__device__ __forceinline__ unsigned scan(unsigned x) {
#pragma unroll
  for (unsigned step = 1; step < WARP; step *= 2) {
    const unsigned below = __shfl_up_sync(ALL_LANES, x, step);
    if (lane_id() >= step) x += below;
  }
  return x;
}

extern __shared__ __align__(16) unsigned shared_counts[];

// Each warp has a range of pairs, counts it, and later puts its pairs behind those of the warps before it: order is
// kept, and no count is shared while it changes.
KERNEL(experts_dispatch, ExpertsDispatchParams, DISPATCH_THREADS) {
  unsigned* const counts = shared_counts;                         // [DISPATCH_WARPS, n_expert]
  unsigned* const starts = counts + DISPATCH_WARPS * p.n_expert;  // [n_expert + 1]
  unsigned* const tiles = starts + p.n_expert + 1;                // [n_expert + 1]
  const unsigned n_pair = p.n_row * p.n_chosen, warp = threadIdx.x / WARP;
  const unsigned per_warp = (n_pair + DISPATCH_WARPS - 1) / DISPATCH_WARPS;
  const unsigned begin = min(n_pair, warp * per_warp), end = min(n_pair, begin + per_warp);
  unsigned* const own = counts + warp * p.n_expert;

  for (unsigned i = threadIdx.x; i < DISPATCH_WARPS * p.n_expert; i += DISPATCH_THREADS) counts[i] = 0;
  __syncthreads();
  for (unsigned first = begin; first < end; first += WARP) {
    const unsigned i = first + lane_id();
    const unsigned expert = i < end ? p.expert[i] : NO_EXPERT;
    const uint32_t same = same_lanes(expert);
    const bool is_first = (same & ((1u << lane_id()) - 1)) == 0;
    if (is_first && expert != NO_EXPERT) own[expert] += __popc(same);
    __syncwarp();
  }
  __syncthreads();
  // Counts become the pairs of warps before; an expert's sum waits in `starts`.
  for (unsigned e = threadIdx.x; e < p.n_expert; e += DISPATCH_THREADS) {
    unsigned sum = 0;
#pragma unroll
    for (unsigned w = 0; w < DISPATCH_WARPS; ++w) {
      const unsigned n = counts[w * p.n_expert + e];
      counts[w * p.n_expert + e] = sum;
      sum += n;
    }
    starts[e] = sum;
  }
  __syncthreads();
  if (warp == 0) {
    unsigned n_before = 0, n_tile = 0, n_touched = 0;
    for (unsigned first = 0; first < p.n_expert; first += WARP) {
      const unsigned e = first + lane_id();
      const unsigned n = e < p.n_expert ? starts[e] : 0, t = (n + p.tile_pairs - 1) / p.tile_pairs;
      const unsigned pairs = scan(n), of_tiles = scan(t);
      __syncwarp();
      if (e < p.n_expert) {
        starts[e] = n_before + pairs - n;
        tiles[e] = n_tile + of_tiles - t;
      }
      n_touched += __popc(__ballot_sync(ALL_LANES, n > 0));
      n_before += __shfl_sync(ALL_LANES, pairs, WARP - 1);
      n_tile += __shfl_sync(ALL_LANES, of_tiles, WARP - 1);
    }
    if (lane_id() == 0) {
      starts[p.n_expert] = n_before;
      tiles[p.n_expert] = n_tile;
      *p.touched += n_touched;
    }
  }
  __syncthreads();
  for (unsigned e = threadIdx.x; e <= p.n_expert; e += DISPATCH_THREADS) {
    p.expert_start[e] = starts[e];
    if (e == p.n_expert) break;
    for (unsigned t = tiles[e]; t < tiles[e + 1]; ++t) {
      p.tile[2 * t] = e;
      p.tile[2 * t + 1] = starts[e] + (t - tiles[e]) * p.tile_pairs;
    }
  }
  for (unsigned t = tiles[p.n_expert] + threadIdx.x; t < p.n_tile_max; t += DISPATCH_THREADS) {
    p.tile[2 * t] = NO_EXPERT;
    p.tile[2 * t + 1] = 0;
  }
  for (unsigned first = begin; first < end; first += WARP) {
    const unsigned i = first + lane_id();
    const unsigned expert = i < end ? p.expert[i] : NO_EXPERT;
    const uint32_t same = same_lanes(expert);
    const unsigned before = __popc(same & ((1u << lane_id()) - 1));
    if (expert != NO_EXPERT) p.pair[starts[expert] + own[expert] + before] = i;
    __syncwarp();
    if (before == 0 && expert != NO_EXPERT) own[expert] += __popc(same);
    __syncwarp();
  }
}

// ---- products ----

// Tiles of pairs: few, or many. Gate and up are two sides of one tile; a warp has 16 features of each.
template <class F, int SIDES>
using Mid = Tiling<F, SIDES, 64, 64, 2, 2, F::STAGE == 64 ? 3 : 2>;

struct Tile {
  unsigned expert, first, n;

  template <class P>
  __device__ __forceinline__ Tile(const P& p, unsigned size)
      : expert(p.tile[2 * blockIdx.y]), first(p.tile[2 * blockIdx.y + 1]), n(0) {
    if (expert != NO_EXPERT) n = min(size, p.expert_start[expert + 1] - first);
  }
};

__device__ __forceinline__ WeightMatrix matrix(const ExpertMatrices& m, unsigned expert) {
  return {m.quants[expert], m.scales == nullptr ? nullptr : m.scales[expert], m.n_out, m.n_in, m.quant_stride,
          m.scale_stride};
}

// Rows of x by pair.
struct PairRows {
  const bf16* x;
  const uint32_t* pair;
  unsigned n_chosen;
  size_t stride;
  __device__ __forceinline__ const bf16* row(unsigned i) const { return x + pair[i] / n_chosen * stride; }
  static constexpr bool ALIGNED = true;
};

struct StoreGateUp {
  const ExpertsGateUpParams& p;
  unsigned first, feature;
  __device__ __forceinline__ void operator()(unsigned i, unsigned f, const Four& gate, const Four& up) const {
    if (feature + f >= (p.gate.n_out + 7) / 8 * 8) return;
    Four y;
#pragma unroll
    for (int j = 0; j < 4; ++j) y.v[j] = silu(gate.v[j]) * up.v[j];
    store4(static_cast<bf16*>(p.h) + size_t(first + i) * p.h_stride + feature + f,
           inside(y, feature + f, p.gate.n_out));
  }
};

struct StoreDown {
  const ExpertsDownParams& p;
  unsigned first, feature;
  __device__ __forceinline__ void operator()(unsigned i, unsigned f, const Four& y) const {
    if (feature + f >= (p.down.n_out + 7) / 8 * 8) return;
    store4(static_cast<bf16*>(p.out) + size_t(p.pair[first + i]) * p.out_stride + feature + f,
           inside(y, feature + f, p.down.n_out));
  }
};

template <class F>
__device__ __forceinline__ void gate_up_few(const ExpertsGateUpParams& p) {
  const Tile tile(p, FEW_ROWS);
  if (tile.expert == NO_EXPERT) return;
  const PairRows rows = {static_cast<const bf16*>(p.x), p.pair + tile.first, p.n_chosen, p.x_stride};
  const unsigned feature = blockIdx.x * 16;
  product_few<F, 1>(Matrices<2>{{matrix(p.gate, tile.expert), matrix(p.up, tile.expert)}}, feature, rows, tile.n,
                    StoreGateUp{p, tile.first, feature});
}

template <class F>
__device__ __forceinline__ void gate_up_mid(const ExpertsGateUpParams& p) {
  using T = Mid<F, 2>;
  const Tile tile(p, T::ROWS);
  if (tile.expert == NO_EXPERT) return;
  const PairRows rows = {static_cast<const bf16*>(p.x), p.pair + tile.first, p.n_chosen, p.x_stride};
  const unsigned feature = blockIdx.x * (T::FEATURES / 2);
  product_many<T>(Matrices<2>{{matrix(p.gate, tile.expert), matrix(p.up, tile.expert)}}, feature, rows, tile.n,
                  shared_stages, StoreGateUp{p, tile.first, feature});
}

template <class F>
__device__ __forceinline__ void down_few(const ExpertsDownParams& p) {
  const Tile tile(p, FEW_ROWS);
  if (tile.expert == NO_EXPERT) return;
  const PlainRows rows = {static_cast<const bf16*>(p.h) + size_t(tile.first) * p.h_stride, p.h_stride};
  const unsigned feature = blockIdx.x * 16;
  product_few<F, 1>(Matrices<1>{{matrix(p.down, tile.expert)}}, feature, rows, tile.n,
                    StoreDown{p, tile.first, feature});
}

template <class F>
__device__ __forceinline__ void down_mid(const ExpertsDownParams& p) {
  using T = Mid<F, 1>;
  const Tile tile(p, T::ROWS);
  if (tile.expert == NO_EXPERT) return;
  const PlainRows rows = {static_cast<const bf16*>(p.h) + size_t(tile.first) * p.h_stride, p.h_stride};
  const unsigned feature = blockIdx.x * T::FEATURES;
  product_many<T>(Matrices<1>{{matrix(p.down, tile.expert)}}, feature, rows, tile.n, shared_stages,
                  StoreDown{p, tile.first, feature});
}

#define EXPERTS(format, F)                                                                          \
  KERNEL(experts_gate_up_##format##_few, ExpertsGateUpParams, FEW_THREADS) { gate_up_few<F>(p); }   \
  KERNEL_BLOCKS(experts_gate_up_##format##_mid, ExpertsGateUpParams, 128, 2) { gate_up_mid<F>(p); } \
  KERNEL(experts_down_##format##_few, ExpertsDownParams, FEW_THREADS) { down_few<F>(p); }           \
  KERNEL_BLOCKS(experts_down_##format##_mid, ExpertsDownParams, 128, 2) { down_mid<F>(p); }

EXPERTS(bf16, Bf16)
EXPERTS(fp8, Fp8)
EXPERTS(int8, Int8)
EXPERTS(int4_g32, Int4G32)
EXPERTS(int4_g128, Int4G128)

// ---- combine ----

// A row's choices in the order they were made, after the shared experts.
KERNEL(experts_combine, ExpertsCombineParams, COMBINE_THREADS) {
  const size_t row = blockIdx.x;
  const bf16* shared = static_cast<const bf16*>(p.shared);
  const bf16* out = static_cast<const bf16*>(p.out) + row * p.n_chosen * p.out_stride;
  for (unsigned i = threadIdx.x * 8; i < p.dim; i += COMBINE_THREADS * 8) {
    Eight sum = {};
    if (shared != nullptr) sum = load8(shared + row * p.shared_stride + i);
    for (unsigned k = 0; k < p.n_chosen; ++k) {
      const float weight = p.weight[row * p.n_chosen + k];
      const Eight part = load8(out + size_t(k) * p.out_stride + i);
#pragma unroll
      for (int j = 0; j < 8; ++j) sum.v[j] = fmaf(weight, part.v[j], sum.v[j]);
    }
    store8(static_cast<bf16*>(p.y) + row * p.y_stride + i, sum);
  }
}
