// rope.cu: rotary positions of queries, in place.
//
//   (q[h, n + i], q[h, n + k]) = (a cos - b sin, b cos + a sin)   for every pair (i, k) of head h, by the row's position
//
// Shapes    q [n_row, H, n + r] bf16, rows q_stride apart; cos, sin [context, r / 2] f32; position [n_row] u32.
// Launch    grid (n_row, stretches of a row), block 128: a thread for four pairs in 16-byte accesses (rope_wide), or for one pair (rope) where widths or
//           strides are no multiples of what that needs. The same arithmetic: the same bits.
// Bytes     2 * n_row * H * r * 2, and the table's row of each position.
// Roofline  under 1 flop a byte, memory-bound. 64 rows of 128 heads of 64 = 2.1 MB = 0.7 us at 3.0 TB/s: one launch.
#include "rope.h"
#include "rotary.cuh"

constexpr unsigned THREADS = 128;

KERNEL(rope, RopeParams, THREADS) {
  const unsigned half = p.qk_rope_head_dim / 2;
  const unsigned i = blockIdx.y * THREADS + threadIdx.x;
  const unsigned head = i / half, j = i % half;
  if (head >= p.n_head) return;
  const unsigned row = blockIdx.x;
  const size_t width = p.qk_nope_head_dim + p.qk_rope_head_dim;
  bf16* q = static_cast<bf16*>(p.q) + size_t(row) * p.q_stride + head * width + p.qk_nope_head_dim;
  const size_t angle = size_t(p.position[row]) * half + j;
  const PairPlaces at = pair_places(j, half, p.pairs_are_halves);
  float a = to_f32(q[at.first]), b = to_f32(q[at.second]);
  turn(a, b, p.cos[angle], p.sin[angle]);
  q[at.first] = to_bf16(a);
  q[at.second] = to_bf16(b);
}

// Neighbours: one vector of eight holds four pairs. Halves: four numbers of each half, 8 bytes each.
KERNEL(rope_wide, RopeParams, THREADS) {
  const unsigned half = p.qk_rope_head_dim / 2, n_four = half / 4;
  const unsigned i = blockIdx.y * THREADS + threadIdx.x;
  const unsigned head = i / n_four, j = i % n_four * 4;
  if (head >= p.n_head) return;
  const unsigned row = blockIdx.x;
  const size_t width = p.qk_nope_head_dim + p.qk_rope_head_dim;
  bf16* q = static_cast<bf16*>(p.q) + size_t(row) * p.q_stride + head * width + p.qk_nope_head_dim;
  const size_t angle = size_t(p.position[row]) * half + j;
  const Four cos = load4(p.cos + angle), sin = load4(p.sin + angle);
  if (p.pairs_are_halves) {
    Four x = load4(q + j), y = load4(q + half + j);
#pragma unroll
    for (int m = 0; m < 4; ++m) turn(x.v[m], y.v[m], cos.v[m], sin.v[m]);
    store4(q + j, x);
    store4(q + half + j, y);
  } else {
    Eight x = load8(q + 2 * j);
#pragma unroll
    for (int m = 0; m < 4; ++m) turn(x.v[2 * m], x.v[2 * m + 1], cos.v[m], sin.v[m]);
    store8(q + 2 * j, x);
  }
}
