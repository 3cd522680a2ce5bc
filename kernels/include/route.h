/* route.h: router logits, and the choice of experts. */
#ifndef HADAL_ROUTE_H
#define HADAL_ROUTE_H

#include "weight.h"

/* logits[row, e] = gate[e] . x[row], products and sums in f32. */
typedef struct RouteLogitsParams {
  float *logits;     /* [n_row, n_expert] f32 */
  const void *x;     /* [n_row, x_stride] bf16, zero behind dim */
  const void *gate;  /* [n_expert, gate_stride] bf16 or f32, by variant; zero behind dim */
  uint32_t n_row;
  uint32_t n_expert;
  uint32_t dim;      /* strides are at least dim rounded up to 8 */
  uint32_t x_stride;
  uint32_t gate_stride;
  uint32_t unused;
} RouteLogitsParams;
ABI_SIZE(RouteLogitsParams, 3, 6);

/* Which experts a row goes to, best first, ties by lowest expert, and how much each counts. */
typedef struct RouteParams {
  uint32_t *expert;    /* [n_row, n_chosen] */
  float *weight;       /* [n_row, n_chosen] f32; NaN throughout a row whose scores hold one */
  float *logits;       /* [n_row, n_expert] f32; softmax scores: the bias is added here */
  const float *bias;   /* [n_expert] f32, or null. Sigmoid scores: added for choosing only */
  uint32_t n_row;
  uint32_t n_expert;   /* at most 1024 */
  uint32_t n_chosen;   /* at most n_expert */
  uint32_t n_group;    /* groups of consecutive experts, divides n_expert; 1 is no groups */
  uint32_t topk_group; /* groups kept */
  uint32_t is_sigmoid; /* 1: sigmoid, a group counts its two best; 0: softmax, a group counts its best */
  uint32_t norm_topk_prob;
  float routed_scaling_factor;
} RouteParams;
ABI_SIZE(RouteParams, 4, 8);

#endif
