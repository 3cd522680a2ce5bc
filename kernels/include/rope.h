/* rope.h: rotates the last qk_rope_head_dim channels of every head, in place. */
#ifndef HADAL_ROPE_H
#define HADAL_ROPE_H

#include "weight.h"

typedef struct RopeParams {
  void *q;                  /* [n_row, q_stride] bf16: heads of n + r side by side */
  const float *cos;         /* [context, r / 2] f32, YaRN's factor included */
  const float *sin;         /* [context, r / 2] f32 */
  const uint32_t *position; /* [n_row], each below context */
  uint32_t n_row;
  uint32_t q_stride;
  uint32_t n_head;
  uint32_t qk_nope_head_dim; /* n */
  uint32_t qk_rope_head_dim; /* r, even */
  uint32_t pairs_are_halves; /* 0: channels 2j and 2j + 1 turn together; 1: j and j + r / 2 */
} RopeParams;
ABI_SIZE(RopeParams, 4, 6);

#endif
