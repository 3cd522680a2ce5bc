// sample.cu: one token a row: bias, penalties, mask, temperature, top-k, top-p, min-p, draw.
//
//   weight(t) = exp((logit(t) - largest logit) / temperature); candidates are ordered by logit, then by id; top-k keeps k of
//   them, top-p the shortest head with its share of the weight, min-p those with that weight at least. The draw is a hash of
//   (seed, position) laid along the kept weights: in that order, or in the order of ids with neither top-k nor top-p.
//
// Shapes    logits [n_row, vocab_size] f32, rows a multiple of 4 apart. Weights are added as whole multiples of 2^-40: sums
//           are exact, so no order of threads decides a token, and what weighs less than that is never drawn.
// Launch    grid n_row, block 1024: one block a row. Shared 33 kB.
// Bytes     n_row * vocab_size * 4, two or three times, the later ones out of L2.
// Method    No sort: a place in the order is found bit by bit, with one sum over the candidates for each bit. Candidates
//           are those that reach the n-th largest of the threads' own maxima, which at least n do: a few hundred, in
//           shared memory. Where they do not suffice (flat distributions), the same search runs over the whole row.
// Roofline  latency, not bandwidth: 129,280 logits are 517 kB a row, 5 us for one multiprocessor at 100 GB/s.
#include "device.cuh"
#include "sample.h"

constexpr unsigned THREADS = 1024;
constexpr unsigned N_WARP = THREADS / WARP;
constexpr unsigned CANDIDATES_MAX = 2048;
// Thread maxima that bound the candidates where top-p alone limits them.
constexpr unsigned HEAD = 512;
// Loads of a thread that are under way at once; fewer in the search over a row, which needs the registers.
constexpr unsigned LOADS = 3, SEARCH_LOADS = 1;
constexpr uint32_t NOT_FINITE = 0xffffffffu;

typedef unsigned long long u64;

struct Shared {
  u64 partial[2][N_WARP];
  u64 warp_sum[N_WARP];
  u64 order[CANDIDATES_MAX];
  float weight[CANDIDATES_MAX];
  unsigned n_candidate;
  unsigned is_bad;
};

// A sum or a maximum over the block, in every thread. Two buffers take turns, so that one barrier is enough.
struct Reduce {
  Shared& shared;
  unsigned turn;

  template <typename Join>
  __device__ __forceinline__ u64 over(u64 x, Join join) {
#pragma unroll
    for (unsigned step = WARP / 2; step > 0; step /= 2) x = join(x, __shfl_xor_sync(ALL_LANES, x, step));
    turn ^= 1;
    if (threadIdx.x % WARP == 0) shared.partial[turn][threadIdx.x / WARP] = x;
    __syncthreads();
    x = shared.partial[turn][threadIdx.x % WARP];
#pragma unroll
    for (unsigned step = WARP / 2; step > 0; step /= 2) x = join(x, __shfl_xor_sync(ALL_LANES, x, step));
    return x;
  }
  __device__ __forceinline__ u64 sum(u64 x) {
    return over(x, [](u64 a, u64 b) { return a + b; });
  }
  __device__ __forceinline__ u64 max(u64 x) {
    return over(x, [](u64 a, u64 b) { return a > b ? a : b; });
  }
};

// A logit's place in the order of numbers, above 0. Both zeros are one.
__device__ __forceinline__ unsigned ordered(float x) {
  const unsigned bits = __float_as_uint(x + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// A candidate's place among all: larger logits above smaller ones, lower ids above higher ones.
__device__ __forceinline__ u64 order_of(float logit, unsigned id) { return u64(ordered(logit)) << 32 | ~id; }

__device__ __forceinline__ bool is_finite(float x) { return fabsf(x) < INFINITY; }

// A row's logits. Warps have stretches of ids, lanes of a warp four ids each in turns.
struct Row {
  const float* logits;
  const uint32_t* mask;  // null: all are allowed
  unsigned n;
  float most;  // the largest logit
  float temperature;

  __device__ __forceinline__ unsigned stretch() const { return (n + THREADS * 4 - 1) / (THREADS * 4) * WARP * 4; }
  __device__ __forceinline__ unsigned first() const { return threadIdx.x / WARP * stretch(); }
  __device__ __forceinline__ unsigned end() const { return min(first() + stretch(), n); }

  __device__ __forceinline__ unsigned allowed(unsigned at) const {
    return mask == nullptr ? 15 : mask[at / 32] >> at % 32 & 15;
  }

  // Calls f(id, logit, is_allowed) for every id of this thread. A few loads are under way at once: one block has nothing else
  // to hide their latency with.
  template <unsigned LOADS, typename F>
  __device__ __forceinline__ void each(F f) const {
    constexpr unsigned STEP = WARP * 4;
    for (unsigned base = first() + threadIdx.x % WARP * 4; base < end(); base += LOADS * STEP) {
      Four x[LOADS];
#pragma unroll
      for (unsigned u = 0; u < LOADS; ++u) {
        if (base + u * STEP < end()) x[u] = load4(logits + base + u * STEP);
      }
#pragma unroll
      for (unsigned u = 0; u < LOADS; ++u) {
        const unsigned at = base + u * STEP;
        if (at >= end()) break;
        const unsigned bits = allowed(at);
#pragma unroll
        for (unsigned j = 0; j < 4; ++j) {
          if (at + j < n) f(at + j, x[u].v[j], bits >> j & 1);
        }
      }
    }
  }

  __device__ __forceinline__ float weight(float logit) const { return expf((logit - most) / temperature); }
};

// A weight as a whole number: 1 is 2^40. A row's sum stays below 2^61.
__device__ __forceinline__ u64 whole(float weight) { return u64(weight * 1099511627776.0f); }

// The whole row as candidates.
struct WholeRow {
  const Row& row;
  template <typename F>
  __device__ __forceinline__ void each(F f) const {
    row.template each<SEARCH_LOADS>([&](unsigned id, float logit, bool is_allowed) {
      if (is_allowed) f(order_of(logit, id), row.weight(logit));
    });
  }
};

// The candidates in shared memory.
struct Few {
  const Shared& shared;
  unsigned n;
  template <typename F>
  __device__ __forceinline__ void each(F f) const {
    for (unsigned i = threadIdx.x; i < n; i += THREADS) f(shared.order[i], shared.weight[i]);
  }
};

// What is added up over candidates: how many there are, or what those of a weight of at least `least` weigh.
struct Measure {
  bool is_count;
  float least;
  __device__ __forceinline__ u64 of(float weight) const {
    if (is_count) return 1;
    return weight >= least ? whole(weight) : 0;
  }
};

template <typename Candidates>
__device__ __forceinline__ u64 measure_from(const Candidates& all, Measure measure, u64 place, Reduce& reduce) {
  u64 sum = 0;
  all.each([&](u64 order, float weight) {
    if (order >= place) sum += measure.of(weight);
  });
  return reduce.sum(sum);
}

// The place of the candidate at which the measure, summed from the best one on, reaches `target`. All together reach it.
template <typename Candidates>
__device__ __forceinline__ u64 find(const Candidates& all, Measure measure, u64 target, unsigned n_id, Reduce& reduce) {
  u64 place = 0;
  const int id_bits = 32 - __clz(int(n_id));
#pragma unroll 1
  for (int bit = 63; bit >= 0; --bit) {
    // Of ~id, bits above the largest id's are ones.
    if (bit < 32 && bit >= id_bits) {
      place |= u64(1) << bit;
      continue;
    }
    const u64 higher = place | u64(1) << bit;
    if (measure_from(all, measure, higher, reduce) >= target) place = higher;
  }
  return place;
}

// Two rounds of splitmix64's finaliser (Steele, Lea and Flood 2014).
__device__ __forceinline__ u64 mix(u64 z) {
  z += 0x9e3779b97f4a7c15ull;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ z >> 27) * 0x94d049bb133111ebull;
  return z ^ z >> 31;
}

// floor(u * sum) for the u in [0, 1), of 53 bits, that (seed, position) decides.
__device__ __forceinline__ u64 draw(const SampleRule& rule, u64 sum) {
  const u64 bits = mix(mix(rule.seed) + u64(rule.position) * 0x9e3779b97f4a7c15ull);
  return __umul64hi(bits >> 11 << 11, sum);
}

// Whether top-k leaves anything out.
__device__ __forceinline__ bool has_top_k(const SampleRule& rule, unsigned n_id) {
  return rule.top_k > 0 && rule.top_k < n_id;
}

// Top-k, top-p, min-p and the draw, over candidates that hold all that these keep. `mass` is what top-p takes its share of
// where there is no top-k.
template <typename Candidates>
__device__ __forceinline__ unsigned choose(const Candidates& all, const SampleRule& rule, u64 mass, unsigned n_id,
                                           Reduce& reduce) {
  u64 cut = 0;
  // One loop and not three searches: the search is long, and is compiled once.
#pragma unroll 1
  for (unsigned stage = 0; stage < 3; ++stage) {
    if (stage == 0 && !has_top_k(rule, n_id)) continue;
    if (stage == 1 && rule.top_p >= 1.0f) continue;
    const Measure measure = {stage == 0, stage == 2 ? rule.min_p : 0.0f};
    const u64 sum = measure_from(all, measure, cut, reduce);
    u64 target;
    if (stage == 0) {
      target = rule.top_k;
      if (sum <= target) continue;
    } else if (stage == 1) {
      const u64 whole_mass = has_top_k(rule, n_id) ? sum : mass;
      target = min(max(u64(ceil(double(whole_mass) * double(rule.top_p))), u64(1)), whole_mass);
    } else {
      if (sum == 0) return NOT_FINITE;  // a temperature that is no number
      target = draw(rule, sum) + 1;
    }
    cut = find(all, measure, target, n_id, reduce);
  }
  return ~unsigned(cut);
}

// The draw in the order of ids: the warp whose stretch holds it walks it again.
__device__ __forceinline__ void draw_by_id(const Row& row, const SampleRule& rule, Shared& shared, uint32_t* token) {
  const unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  const auto kept = [&](float logit, bool is_allowed) {
    const float weight = row.weight(logit);
    return is_allowed && weight >= rule.min_p ? whole(weight) : 0;
  };
  u64 sum = 0;
  row.each<LOADS>([&](unsigned, float logit, bool is_allowed) { sum += kept(logit, is_allowed); });
#pragma unroll
  for (unsigned step = WARP / 2; step > 0; step /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, step);
  if (lane == 0) shared.warp_sum[warp] = sum;
  __syncthreads();
  u64 total = 0, before = 0;
  for (unsigned w = 0; w < N_WARP; ++w) total += shared.warp_sum[w];
  if (total == 0) {
    if (threadIdx.x == 0) *token = NOT_FINITE;
    return;
  }
  const u64 left = draw(rule, total);
  unsigned owner = 0;
  while (left >= before + shared.warp_sum[owner]) before += shared.warp_sum[owner++];
  if (warp != owner) return;
  for (unsigned base = row.first(); base < row.end(); base += WARP * 4) {
    const unsigned at = base + lane * 4;
    u64 weight[4] = {};
    if (at < row.n) {
      const Four x = load4(row.logits + at);
      const unsigned bits = row.allowed(at);
#pragma unroll
      for (unsigned j = 0; j < 4; ++j) weight[j] = at + j < row.n ? kept(x.v[j], bits >> j & 1) : 0;
    }
    // Each lane's four from where the lanes before it end.
    u64 upto = weight[0] + weight[1] + weight[2] + weight[3];
    const u64 own = upto;
#pragma unroll
    for (unsigned step = 1; step < WARP; step *= 2) {
      const u64 other = __shfl_up_sync(ALL_LANES, upto, step);
      if (lane >= step) upto += other;
    }
    u64 at_lane = before + upto - own;
#pragma unroll
    for (unsigned j = 0; j < 4; ++j) {
      if (at_lane <= left && left < at_lane + weight[j]) *token = at + j;
      at_lane += weight[j];
    }
    before += __shfl_sync(ALL_LANES, upto, WARP - 1);
    if (before > left) return;
  }
}

// Bias, then penalties, on the logits in memory. Sets is_bad where a logit was no finite number before.
__device__ __forceinline__ void adjust(const SampleParams& p, const SampleRule& rule, float* logits, Shared& shared) {
  const unsigned r = blockIdx.x;
  for (unsigned i = p.bias_start[r] + threadIdx.x; i < p.bias_start[r + 1]; i += THREADS) {
    const SampleBias bias = p.bias[i];
    const float logit = logits[bias.token];
    if (!is_finite(logit)) atomicOr(&shared.is_bad, 1);
    logits[bias.token] = logit + bias.amount;
  }
  __syncthreads();
  for (unsigned i = p.penalty_start[r] + threadIdx.x; i < p.penalty_start[r + 1]; i += THREADS) {
    const SamplePenalty seen = p.penalty[i];
    float logit = logits[seen.token];
    if (!is_finite(logit)) atomicOr(&shared.is_bad, 1);
    logit = logit > 0.0f ? logit / rule.repetition : logit * rule.repetition;
    if (seen.in_output > 0) logit -= rule.presence + rule.frequency * float(seen.in_output);
    // A tiny penalty divides beyond all numbers.
    logits[seen.token] = fminf(fmaxf(logit, -3.402823466e38f), 3.402823466e38f);
  }
  __syncthreads();
}

// The largest key that at least n threads' own maxima reach; 0 where there are not as many.
__device__ __forceinline__ unsigned bound_of(unsigned own, unsigned n) {
  unsigned bound = 0;
#pragma unroll 1
  for (int bit = 31; bit >= 0; --bit) {
    const unsigned higher = bound | 1u << bit;
    if (__syncthreads_count(own >= higher) >= int(n)) bound = higher;
  }
  return bound;
}

KERNEL(sample, SampleParams, THREADS) {
  __shared__ Shared shared;
  Reduce reduce = {shared, 0};
  const unsigned r = blockIdx.x, n = p.vocab_size;
  SampleRule rule = p.rule[r];
  rule.min_p = fminf(rule.min_p, 1.0f);  // the best one stays, whatever is asked for
  float* logits = p.logits + size_t(r) * p.logits_stride;
  uint32_t* token = p.token + r;
  if (threadIdx.x == 0) shared.is_bad = shared.n_candidate = 0;
  __syncthreads();
  adjust(p, rule, logits, shared);

  const bool has_mask = p.masks != nullptr && rule.mask != 0xffffffffu;
  Row row = {logits, has_mask ? p.masks + size_t(rule.mask) * ((n + 31) / 32) : nullptr, n, 0.0f, rule.temperature};
  u64 own = 0;
  bool is_bad = shared.is_bad;
  row.each<LOADS>([&](unsigned id, float logit, bool is_allowed) {
    is_bad |= !is_finite(logit);
    if (is_allowed) own = max(own, order_of(logit, id));
  });
  const u64 best = reduce.max(own);
  const bool is_greedy = rule.temperature == 0.0f || rule.top_k == 1;
  if (__syncthreads_or(is_bad) || best == 0) {
    if (threadIdx.x == 0) *token = NOT_FINITE;
    return;
  }
  if (is_greedy) {
    if (threadIdx.x == 0) *token = ~unsigned(best);
    return;
  }
  row.most = logits[~unsigned(best)];
  const bool is_headed = has_top_k(rule, n);
  if (!is_headed && rule.top_p >= 1.0f) {
    draw_by_id(row, rule, shared, token);
    return;
  }

  // Candidates: what reaches the bound. More than there is room for, or less than top-p wants, and the row is searched.
  const unsigned n_bound = is_headed ? min(rule.top_k, THREADS + 1) : HEAD;
  bool is_few = n_bound <= THREADS;
  u64 mass = 0;
  if (!is_headed) {
    row.each<LOADS>([&](unsigned, float logit, bool is_allowed) { mass += is_allowed ? whole(row.weight(logit)) : 0; });
    mass = reduce.sum(mass);
  }
  if (is_few) {
    const unsigned bound = bound_of(unsigned(own >> 32), n_bound);
    row.each<LOADS>([&](unsigned id, float logit, bool is_allowed) {
      if (!is_allowed || ordered(logit) < bound) return;
      const unsigned at = atomicAdd(&shared.n_candidate, 1);
      if (at >= CANDIDATES_MAX) return;
      shared.order[at] = order_of(logit, id);
      shared.weight[at] = row.weight(logit);
    });
    __syncthreads();
    is_few = shared.n_candidate <= CANDIDATES_MAX;
  }
  if (is_few && !is_headed) {
    const Few few = {shared, shared.n_candidate};
    const u64 held = measure_from(few, {false, 0.0f}, 0, reduce);
    is_few = double(held) >= double(mass) * double(rule.top_p);
  }
  const unsigned drawn = is_few ? choose(Few{shared, shared.n_candidate}, rule, mass, n, reduce)
                                : choose(WholeRow{row}, rule, mass, n, reduce);
  if (threadIdx.x == 0) *token = drawn;
}
