/* sample.h: draws one token a row: bias, penalties, mask, temperature, top-k, top-p, min-p. */
#ifndef HADAL_SAMPLE_H
#define HADAL_SAMPLE_H

#include "weight.h"

/* How a row's token is drawn. */
typedef struct SampleRule {
  uint64_t seed;       /* the draw is a hash of (seed, position) */
  uint32_t position;
  uint32_t top_k;      /* keep the k largest; 0 keeps all, 1 is greedy */
  uint32_t mask;       /* row of `masks`; 0xffffffff allows all */
  float temperature;   /* 0 is greedy: the largest logit, ties by lowest id */
  float top_p;         /* keep the smallest head of the distribution with at least this mass; 1 keeps all */
  float min_p;         /* drop tokens below this share of the largest probability */
  float repetition;    /* divides positive and multiplies negative logits of tokens seen */
  float presence;      /* subtracted once from tokens seen in the output */
  float frequency;     /* subtracted per occurrence in the output */
  uint32_t unused;
} SampleRule;
ABI_SIZE(SampleRule, 1, 10);

/* A token that a row penalises. */
typedef struct SamplePenalty {
  uint32_t token;
  uint32_t in_output; /* times in the output */
} SamplePenalty;
ABI_SIZE(SamplePenalty, 0, 2);

/* An amount that is added to a token's logit. */
typedef struct SampleBias {
  uint32_t token;
  float amount;
} SampleBias;
ABI_SIZE(SampleBias, 0, 2);

typedef struct SampleParams {
  uint32_t *token;               /* [n_row]: the token drawn; 0xffffffff where a logit is NaN or infinite */
  float *logits;                 /* [n_row, logits_stride] f32; overwritten */
  const SampleRule *rule;        /* [n_row] */
  const uint32_t *penalty_start; /* [n_row + 1] */
  const SamplePenalty *penalty;  /* each token once a row */
  const uint32_t *bias_start;    /* [n_row + 1] */
  const SampleBias *bias;        /* each token once a row */
  const uint32_t *masks;         /* [n_mask, ceil(vocab_size / 32)]: bit t % 32 of word t / 32 allows token t; or null */
  uint32_t n_row;
  uint32_t vocab_size;
  uint32_t logits_stride;
  uint32_t unused;
} SampleParams;
ABI_SIZE(SampleParams, 8, 4);

#endif
