/* mla_prefill.h: multi-head attention of prompts' rows over the paged latent cache, a group of heads at a time.
 *
 * Keys and values of every token that the rows see are expanded from cached latents into a workspace, then rows attend
 * to them. A workspace holds all tokens of some heads: no state of a row outlives a launch, and neither the number of
 * heads at a time nor the rows of a step decide a bit. */
#ifndef HADAL_MLA_PREFILL_H
#define HADAL_MLA_PREFILL_H

#include "weight.h"

/* k[u, h] = [W_uk[h] c_kv[u], k_pe[u]], v[u, h] = W_uv[h] c_kv[u] for heads head_first .. + n_head. */
typedef struct MlaExpandParams {
  WeightMatrix w_uk;         /* bf16; head h: rows h * uk_row_stride .. + n, c columns */
  WeightMatrix w_uv;         /* bf16; head h: rows uv_row_first + h * uv_row_stride .. + v, c columns */
  void *k;                   /* [n_token, n_head, k_head_stride] bf16, zero behind n + r */
  void *v;                   /* [n_token, n_head, v_head_stride] bf16, zero behind v */
  const void *cache;         /* [n_page * 64, cache_stride] bf16 */
  const uint32_t *slot;      /* [n_token]: the row of the cache, each sequence's tokens in order */
  uint32_t n_token;
  uint32_t head_first;
  uint32_t n_head;           /* of this group */
  uint32_t qk_nope_head_dim; /* n */
  uint32_t qk_rope_head_dim; /* r */
  uint32_t v_head_dim;       /* v */
  uint32_t kv_lora_rank;     /* c */
  uint32_t k_pe_head_stride; /* as in mla_decode.h */
  uint32_t uk_row_stride;
  uint32_t uv_row_first;
  uint32_t uv_row_stride;
  uint32_t k_head_stride;    /* n + r rounded up to 16 */
  uint32_t v_head_stride;    /* v rounded up to 16 */
  uint32_t cache_stride;
} MlaExpandParams;
ABI_SIZE(MlaExpandParams, 8, 22);

/* o[row, h] = sum_u softmax(scale * q[row, h] . k[u, h])[u] v[u, h], u <= position. */
typedef struct MlaPrefillParams {
  void *o;              /* [n_row, o_stride] bf16: heads of v */
  const void *q;        /* [n_row, q_stride] bf16: heads of n + r, rotated */
  const void *k;        /* as expanded */
  const void *v;        /* as expanded */
  const uint32_t *tile; /* [n_tile, 4]: up to 64 rows of a sequence: the first, how many, its position, token 0 in k */
  uint32_t n_tile;
  uint32_t head_first;
  uint32_t n_head;      /* of this group */
  uint32_t qk_head_dim; /* n + r */
  uint32_t v_head_dim;  /* v */
  uint32_t o_stride;
  uint32_t q_stride;
  uint32_t k_head_stride;
  uint32_t v_head_stride;
  float scale;
} MlaPrefillParams;
ABI_SIZE(MlaPrefillParams, 5, 10);

#endif
