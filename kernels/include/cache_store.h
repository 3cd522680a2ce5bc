/* cache_store.h: a token's row of the latent cache. */
#ifndef HADAL_CACHE_STORE_H
#define HADAL_CACHE_STORE_H

#include "weight.h"

/* cache[slot] = [rms_norm(kv[..c]) * norm, rotate(kv[c..])]: one rotary key that all heads share. */
typedef struct CacheStoreParams {
  void *cache;              /* [n_page * 64, cache_stride] bf16 */
  const void *kv;           /* [n_row, kv_stride] bf16: c + r numbers */
  const float *norm;        /* [c] f32 */
  const float *cos;         /* [context, r / 2] f32 */
  const float *sin;         /* [context, r / 2] f32 */
  const uint32_t *position; /* [n_row] */
  const uint32_t *slot;     /* [n_row]: the row of the cache, each once */
  uint32_t n_row;
  uint32_t cache_stride;    /* a multiple of 8; the cache is zero behind c + r, and stays so */
  uint32_t kv_stride;
  uint32_t kv_lora_rank;     /* c */
  uint32_t qk_rope_head_dim; /* r, even */
  uint32_t pairs_are_halves;
  float eps;
  uint32_t unused;
} CacheStoreParams;
ABI_SIZE(CacheStoreParams, 7, 8);

/* cache[slot] = [latent, rotated key of every head]: each head has a key of its own, and nothing is normed. */
typedef struct CacheStoreHeadsParams {
  void *cache;           /* [n_page * 64, cache_stride] bf16: c + H * r numbers */
  const void *latent;    /* [n_row, latent_stride] bf16 */
  const void *k;         /* [n_row, k_stride] bf16: heads of n + r; the last r of each are read */
  const uint32_t *slot;  /* [n_row] */
  uint32_t n_row;
  uint32_t cache_stride;
  uint32_t latent_stride;
  uint32_t k_stride;
  uint32_t n_head;           /* H */
  uint32_t qk_nope_head_dim; /* n */
  uint32_t qk_rope_head_dim; /* r */
  uint32_t kv_lora_rank;     /* c */
} CacheStoreHeadsParams;
ABI_SIZE(CacheStoreHeadsParams, 4, 8);

#endif
