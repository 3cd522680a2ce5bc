/* mla_decode.h: absorbed attention of rows in decode form over the paged latent cache, split by context length. */
#ifndef HADAL_MLA_DECODE_H
#define HADAL_MLA_DECODE_H

#include "weight.h"

/* s[h, u] = scale * (q_latent[h] . c_kv[u] + q_pe[h] . k_pe[u]), u <= position;
 * o_latent[h] = sum_u softmax(s[h])[u] c_kv[u].
 *
 * A row's context of position + 1 tokens is cut into splits of split_tokens, a function of its length alone. A row with
 * one split is written to o_latent by the first kernel; of the others the parts are merged by the second. */
typedef struct MlaDecodeParams {
  void *o_latent;             /* [n_row, o_stride] bf16: heads of c */
  float *part;                /* [n_row, n_head, n_split_max, c rounded up to 8] f32: normalised parts */
  float *lse;                 /* [n_row, n_head, n_split_max] f32: their log-sum-exp, base 2 */
  const void *q_latent;       /* [n_row, q_latent_stride] bf16: heads of c */
  const void *q;              /* [n_row, q_stride] bf16: heads of n + r, rotated; the last r are read */
  const void *cache;          /* [n_page * 64, cache_stride] bf16 */
  const uint32_t *position;   /* [n_row] */
  const uint32_t *sequence;   /* [n_row]: which sequence a row belongs to */
  const uint32_t *page_start; /* [n_seq + 1]: pages of sequence i begin here in `page` */
  const uint32_t *page;       /* each sequence's pages in order */
  uint32_t n_row;
  uint32_t n_split_max;
  uint32_t n_head;            /* H */
  uint32_t kv_lora_rank;      /* c */
  uint32_t qk_nope_head_dim;  /* n */
  uint32_t qk_rope_head_dim;  /* r */
  uint32_t k_pe_head_stride;  /* 0: one rotary key for all heads; r: head h has its own at c + h * r */
  uint32_t o_stride;
  uint32_t q_latent_stride;
  uint32_t q_stride;
  uint32_t cache_stride;
  float scale;
} MlaDecodeParams;
ABI_SIZE(MlaDecodeParams, 10, 12);

#endif
