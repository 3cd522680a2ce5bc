// route.cu: router logits, and the choice of experts.
//
//   logits[r, e] = gate[e] . x[r]                                                     (route_logits)
//   score = sigmoid(logits) or softmax(logits); the num_experts_per_tok best experts of the topk_group best groups, and
//   their weights                                                                     (route)
//
// Shapes    x [n_row, dim] bf16, gate [n_expert, dim] bf16 or f32, logits [n_row, n_expert] f32. Products and sums in f32: two
//           experts are close more often than bf16 could tell.
// Launch    route_logits: a warp for 1 expert and 4 rows (few rows: as many blocks as there can be), or 2 experts and 8 rows
//           (many: less traffic). Both sum a row and an expert in the same order. route: a warp a row, 4 rows a block.
// Bytes     gate once, n_row * dim * 2, n_row * n_expert * 4; the gate is read by every 4 or 8 rows out of L2.
// Roofline  decode: the gate's bytes; 256 x 7168 bf16 = 3.7 MB = 1.2 us at 3.0 TB/s, about one launch. Prefill: f32 units,
//           4096 rows = 15 GFLOP = 0.23 ms at 67 TFLOP/s. route is a launch, whatever the card.
#include "device.cuh"
#include "route.h"

constexpr unsigned THREADS = 128;
constexpr unsigned N_WARP = THREADS / WARP;

template <typename Gate, unsigned EXPERTS, unsigned ROWS>
__device__ __forceinline__ void route_logits(const RouteLogitsParams& p) {
  const unsigned lane = threadIdx.x % WARP;
  const unsigned expert = (blockIdx.x * N_WARP + threadIdx.x / WARP) * EXPERTS;
  const unsigned row = blockIdx.y * ROWS;
  // Experts and rows behind the last are computed as the last one and not stored: no lane waits for another.
  const Gate* gate[EXPERTS];
  const bf16* x[ROWS];
#pragma unroll
  for (unsigned e = 0; e < EXPERTS; ++e) {
    gate[e] = static_cast<const Gate*>(p.gate) + size_t(min(expert + e, p.n_expert - 1)) * p.gate_stride;
  }
#pragma unroll
  for (unsigned r = 0; r < ROWS; ++r) {
    x[r] = static_cast<const bf16*>(p.x) + size_t(min(row + r, p.n_row - 1)) * p.x_stride;
  }
  float sum[EXPERTS][ROWS] = {};
  for (unsigned i = lane * 4; i < p.dim; i += WARP * 4) {
    Four g[EXPERTS];
#pragma unroll
    for (unsigned e = 0; e < EXPERTS; ++e) g[e] = load4(gate[e] + i);
#pragma unroll
    for (unsigned r = 0; r < ROWS; ++r) {
      const Four a = load4(x[r] + i);
#pragma unroll
      for (unsigned e = 0; e < EXPERTS; ++e) {
#pragma unroll
        for (unsigned j = 0; j < 4; ++j) sum[e][r] = fmaf(a.v[j], g[e].v[j], sum[e][r]);
      }
    }
  }
#pragma unroll
  for (unsigned r = 0; r < ROWS; ++r) {
#pragma unroll
    for (unsigned e = 0; e < EXPERTS; ++e) {
      const float logit = warp_reduce<Sum>(sum[e][r]);
      if (lane == 0 && row + r < p.n_row && expert + e < p.n_expert) {
        p.logits[size_t(row + r) * p.n_expert + expert + e] = logit;
      }
    }
  }
}

KERNEL(route_logits_bf16, RouteLogitsParams, THREADS) { route_logits<bf16, 1, 4>(p); }
KERNEL(route_logits_f32, RouteLogitsParams, THREADS) { route_logits<float, 1, 4>(p); }
KERNEL(route_logits_bf16_many, RouteLogitsParams, THREADS) { route_logits<bf16, 2, 8>(p); }
KERNEL(route_logits_f32_many, RouteLogitsParams, THREADS) { route_logits<float, 2, 8>(p); }

// A number's place in the order of numbers, above 0; 0 for NaN, which comes before none. Both zeros are one.
__device__ __forceinline__ unsigned ordered(float x) {
  const unsigned bits = __float_as_uint(x + 0.0f);
  if (x != x) return 0;
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

constexpr float DROPPED = -INFINITY;

// One row's experts in shared memory. A gap after every 32 keeps lanes that read groups of 32 off each other's banks.
struct Row {
  float* score;   // what experts weigh
  float* choice;  // what they are chosen by
  float* group;   // [n_group] the groups' scores
  float* kept;    // [n_group] 1 where a group is kept
  float* chosen;  // [n_chosen] the chosen experts' scores
  unsigned n_expert;
};

__device__ __forceinline__ unsigned place(unsigned expert) { return expert + expert / 32; }

// Scores of all experts, and whether one of them is no number.
__device__ __forceinline__ bool score_row(const Row& row, const RouteParams& p, float* logits) {
  const unsigned lane = threadIdx.x % WARP;
  bool is_nan = false;
  if (p.is_sigmoid) {
    for (unsigned e = lane; e < p.n_expert; e += WARP) {
      const float score = 1.0f / (1.0f + expf(-logits[e]));
      row.score[place(e)] = score;
      row.choice[place(e)] = p.bias == nullptr ? score : score + p.bias[e];
      is_nan |= score != score;
    }
  } else {
    float most = -INFINITY, sum = 0.0f;
    for (unsigned e = lane; e < p.n_expert; e += WARP) {
      const float logit = p.bias == nullptr ? logits[e] : logits[e] + p.bias[e];
      if (p.bias != nullptr) logits[e] = logit;
      row.score[place(e)] = logit;
      most = fmaxf(most, logit);
    }
    most = warp_reduce<Max>(most);
    for (unsigned e = lane; e < p.n_expert; e += WARP) {
      const float score = expf(row.score[place(e)] - most);
      row.score[place(e)] = score;
      sum += score;
    }
    sum = warp_reduce<Sum>(sum);
    for (unsigned e = lane; e < p.n_expert; e += WARP) {
      const float score = row.score[place(e)] / sum;
      row.score[place(e)] = score;
      row.choice[place(e)] = score;
      is_nan |= score != score;
    }
  }
  __syncwarp();
  return __any_sync(ALL_LANES, is_nan);
}

// Drops the experts outside the topk_group best groups; ties by lowest group.
__device__ __forceinline__ void drop_groups(const Row& row, const RouteParams& p) {
  if (p.n_group <= 1) return;
  const unsigned lane = threadIdx.x % WARP;
  const unsigned size = p.n_expert / p.n_group;
  for (unsigned g = lane; g < p.n_group; g += WARP) {
    float best = -INFINITY, second = -INFINITY;
    for (unsigned e = g * size; e < (g + 1) * size; ++e) {
      const float value = row.choice[place(e)];
      if (value > best) {
        second = best;
        best = value;
      } else if (value > second) {
        second = value;
      }
    }
    row.group[g] = p.is_sigmoid ? best + (size < 2 ? 0.0f : second) : best;
  }
  __syncwarp();
  for (unsigned g = lane; g < p.n_group; g += WARP) {
    unsigned n_before = 0;
    for (unsigned h = 0; h < p.n_group; ++h) {
      n_before += row.group[h] > row.group[g] || (row.group[h] == row.group[g] && h < g);
    }
    row.kept[g] = n_before < p.topk_group ? 1.0f : 0.0f;
  }
  __syncwarp();
  for (unsigned e = lane; e < p.n_expert; e += WARP) {
    if (row.kept[e / size] == 0.0f) row.choice[place(e)] = DROPPED;
  }
  __syncwarp();
}

// The best expert that is not taken: the largest choice, ties by lowest expert. `taken` has a bit for each expert of a lane.
__device__ __forceinline__ unsigned take_best(const Row& row, uint32_t& taken) {
  const unsigned lane = threadIdx.x % WARP;
  unsigned long long best = 0;
  unsigned bit = 0;
  for (unsigned e = lane; e < row.n_expert; e += WARP, ++bit) {
    if (taken >> bit & 1) continue;
    const unsigned long long key = static_cast<unsigned long long>(ordered(row.choice[place(e)])) << 32 | ~e;
    best = max(best, key);
  }
#pragma unroll
  for (unsigned step = WARP / 2; step > 0; step /= 2) best = max(best, __shfl_xor_sync(ALL_LANES, best, step));
  const unsigned expert = ~unsigned(best);
  if (expert % WARP == lane) taken |= 1u << expert / WARP;
  return expert;
}

KERNEL(route, RouteParams, THREADS) {
  extern __shared__ float shared[];
  const unsigned lane = threadIdx.x % WARP;
  const unsigned r = blockIdx.x * N_WARP + threadIdx.x / WARP;
  if (r >= p.n_row) return;  // whole warps, and no barrier of blocks follows
  const unsigned n_place = place(p.n_expert);
  float* own = shared + size_t(threadIdx.x / WARP) * (2 * n_place + 2 * p.n_group + p.n_chosen);
  float* group = own + 2 * n_place;
  const Row row = {own, own + n_place, group, group + p.n_group, group + 2 * p.n_group, p.n_expert};

  const bool is_nan = score_row(row, p, p.logits + size_t(r) * p.n_expert);
  drop_groups(row, p);
  uint32_t taken = 0;
  for (unsigned k = 0; k < p.n_chosen; ++k) {
    const unsigned expert = take_best(row, taken);
    if (lane == 0) {
      p.expert[size_t(r) * p.n_chosen + k] = expert;
      row.chosen[k] = row.score[place(expert)];
    }
  }
  __syncwarp();
  // Every lane adds in the order chosen.
  float sum = 1e-20f;
  if (p.norm_topk_prob) {
    float chosen = 0.0f;
    for (unsigned k = 0; k < p.n_chosen; ++k) chosen += row.chosen[k];
    sum += chosen;
  } else {
    sum = 1.0f;
  }
  for (unsigned k = lane; k < p.n_chosen; k += WARP) {
    const float weight = row.chosen[k] / sum * p.routed_scaling_factor;
    p.weight[size_t(r) * p.n_chosen + k] = is_nan ? NAN : weight;
  }
}
