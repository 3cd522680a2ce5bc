/* mla_prefill.h: multi-head attention of a prompt's rows over the paged latent cache. */
#ifndef HADAL_MLA_PREFILL_H
#define HADAL_MLA_PREFILL_H

#include "weight.h"

/* Keys and values of a range of one sequence's tokens, expanded from cached latents:
 * k[u, h] = [W_uk[h] c_kv[u], k_pe[u]], v[u, h] = W_uv[h] c_kv[u]. */
typedef struct MlaExpandParams {
  WeightMatrix w_uk;        /* head h: rows h * uk_row_stride .. + n, c columns */
  WeightMatrix w_uv;        /* head h: rows uv_row_first + h * uv_row_stride .. + v, c columns */
  void *k;                  /* [n_token, n_head, k_head_stride] bf16 */
  void *v;                  /* [n_token, n_head, v_head_stride] bf16 */
  const void *cache;        /* [n_page * 64, cache_stride] bf16 */
  const uint32_t *page;     /* the sequence's pages, from the first token's on */
  uint32_t n_token;
  uint32_t token_first;     /* place of the first token in its page */
  uint32_t n_head;
  uint32_t qk_nope_head_dim;
  uint32_t qk_rope_head_dim;
  uint32_t v_head_dim;
  uint32_t kv_lora_rank;
  uint32_t k_pe_head_stride; /* as in mla_decode.h */
  uint32_t uk_row_stride;
  uint32_t uv_row_first;
  uint32_t uv_row_stride;
  uint32_t k_head_stride;
  uint32_t v_head_stride;
  uint32_t cache_stride;
} MlaExpandParams;
ABI_SIZE(MlaExpandParams, 8, 22);

/* o[row, h] = sum_u softmax(scale * q[row, h] . k[u, h])[u] v[u, h], u <= position. The state of a row between two chunks of
 * tokens is carried in `acc`, `max` and `sum`, so that a chunk's place decides no bit: chunks begin at multiples of the tile. */
typedef struct MlaPrefillParams {
  void *o;                  /* [n_row, o_stride] bf16: heads of v */
  float *acc;               /* [n_row, n_head, v_head_stride] f32 */
  float *max;               /* [n_row, n_head] f32 */
  float *sum;               /* [n_row, n_head] f32 */
  const void *q;            /* [n_row, q_stride] bf16: heads of n + r */
  const void *k;            /* [n_token, n_head, k_head_stride] bf16 */
  const void *v;            /* [n_token, n_head, v_head_stride] bf16 */
  const uint32_t *position; /* [n_row] */
  uint32_t n_row;
  uint32_t n_token;
  uint32_t token_first;     /* position of the chunk's first token */
  uint32_t is_first;        /* the chunk begins a row's state */
  uint32_t is_last;         /* the chunk ends it: o is written */
  uint32_t n_head;
  uint32_t qk_head_dim;
  uint32_t v_head_dim;
  uint32_t o_stride;
  uint32_t q_stride;
  uint32_t k_head_stride;
  uint32_t v_head_stride;
  float scale;
  uint32_t unused;
} MlaPrefillParams;
ABI_SIZE(MlaPrefillParams, 8, 14);

#endif
