/* head_linear.h: one product a head with one half of kv_b (absorb and un-absorb). */
#ifndef HADAL_HEAD_LINEAR_H
#define HADAL_HEAD_LINEAR_H

#include "weight.h"

/* y[row, h, o] = sum_i W_h[o, i] x[row, h, i].
 *
 * W_h is rows head_row_stride * h + head_row_first .. + n_out of `w`, which is bf16. Key halves are turned round when
 * they are uploaded, so that both sides are one product: key W_h [c, n], value W_h [v, c]. */
typedef struct HeadLinearParams {
  WeightMatrix w;            /* [all heads' rows, n_in] */
  void *y;                   /* [n_row, y_stride] bf16; head h begins at h * y_head_stride */
  const void *x;             /* [n_row, x_stride] bf16; head h begins at h * x_head_stride */
  uint32_t n_row;
  uint32_t n_head;
  uint32_t n_out;            /* of one head */
  uint32_t n_in;             /* of one head */
  uint32_t head_row_first;
  uint32_t head_row_stride;
  uint32_t y_stride;
  uint32_t y_head_stride;
  uint32_t x_stride;
  uint32_t x_head_stride;
} HeadLinearParams;
ABI_SIZE(HeadLinearParams, 4, 14);

#endif
