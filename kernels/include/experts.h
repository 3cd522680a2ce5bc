/* experts.h: y[row] = shared[row] + sum over the row's choices of w * mlp_e(x[row]).
 *
 * A *pair* is one choice of one row, number row * n_chosen + k. Dispatch sorts pairs by expert; gate+up and down work
 * on sorted pairs; combine adds a row's pairs in the order they were chosen. The host reads no count. */
#ifndef HADAL_EXPERTS_H
#define HADAL_EXPERTS_H

#include "weight.h"

/* The same matrix of every expert, all of one shape and format. */
typedef struct ExpertMatrices {
  const void *const *quants; /* [n_expert] planes as in weight.h */
  const void *const *scales; /* [n_expert] */
  uint32_t n_out;
  uint32_t n_in;
  uint32_t quant_stride;
  uint32_t scale_stride;
} ExpertMatrices;
ABI_SIZE(ExpertMatrices, 2, 4);

typedef struct ExpertsDispatchParams {
  uint32_t *pair;         /* [n_row * n_chosen]: pairs, those of expert 0 first, each expert's by number */
  uint32_t *expert_start; /* [n_expert + 1]: where an expert's pairs begin in `pair` */
  uint32_t *tile;         /* [n_tile_max, 2]: expert and first sorted pair; behind the last, 0xffffffff */
  uint64_t *touched;      /* [1]: experts with at least one pair are added */
  const uint32_t *expert; /* [n_row, n_chosen] */
  uint32_t n_row;
  uint32_t n_chosen;
  uint32_t n_expert;
  uint32_t tile_pairs;    /* pairs of a tile */
  uint32_t n_tile_max;
  uint32_t unused;
} ExpertsDispatchParams;
ABI_SIZE(ExpertsDispatchParams, 5, 6);

/* h[sorted pair] = silu(gate_e x[row]) * (up_e x[row]) */
typedef struct ExpertsGateUpParams {
  ExpertMatrices gate;          /* [M, D] each */
  ExpertMatrices up;            /* [M, D] each */
  void *h;                      /* [n_pair, h_stride] bf16, sorted; zero behind M */
  const void *x;                /* [n_row, x_stride] bf16, zero behind D */
  const uint32_t *pair;         /* [n_pair] */
  const uint32_t *expert_start; /* [n_expert + 1] */
  const uint32_t *tile;         /* [n_tile_max, 2] */
  uint32_t n_chosen;
  uint32_t h_stride;
  uint32_t x_stride;
  uint32_t n_tile_max;
} ExpertsGateUpParams;
ABI_SIZE(ExpertsGateUpParams, 9, 12);

/* out[pair] = down_e h[sorted pair] */
typedef struct ExpertsDownParams {
  ExpertMatrices down;          /* [D, M] each */
  void *out;                    /* [n_pair, out_stride] bf16, by pair number */
  const void *h;                /* [n_pair, h_stride] bf16, sorted */
  const uint32_t *pair;         /* [n_pair] */
  const uint32_t *expert_start; /* [n_expert + 1] */
  const uint32_t *tile;         /* [n_tile_max, 2] */
  uint32_t out_stride;
  uint32_t h_stride;
  uint32_t n_tile_max;
  uint32_t unused;
} ExpertsDownParams;
ABI_SIZE(ExpertsDownParams, 7, 8);

/* y[row] = shared[row] + sum_k weight[row, k] * out[row, k] */
typedef struct ExpertsCombineParams {
  void *y;             /* [n_row, y_stride] bf16 */
  const void *shared;  /* [n_row, shared_stride] bf16, or null */
  const void *out;     /* [n_row * n_chosen, out_stride] bf16 */
  const float *weight; /* [n_row, n_chosen] f32 */
  uint32_t n_row;
  uint32_t n_chosen;
  uint32_t dim;
  uint32_t y_stride;
  uint32_t shared_stride;
  uint32_t out_stride;
} ExpertsCombineParams;
ABI_SIZE(ExpertsCombineParams, 4, 6);

#endif
