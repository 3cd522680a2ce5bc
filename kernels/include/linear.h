/* linear.h: y[row] = W x[row]. */
#ifndef HADAL_LINEAR_H
#define HADAL_LINEAR_H

#include "weight.h"

typedef struct LinearParams {
  WeightMatrix w;    /* [out, in] */
  void *y;           /* [n_row, y_stride] bf16, or f32 where y_is_f32 */
  const void *x;     /* [n_row, x_stride] bf16, zero behind in */
  uint32_t n_row;
  uint32_t y_stride; /* at least out rounded up to 8; y becomes zero behind out */
  uint32_t x_stride; /* at least in rounded up to 16 */
  uint32_t y_is_f32; /* 1 for head logits and the residual stream, 0 elsewhere */
} LinearParams;
ABI_SIZE(LinearParams, 4, 8);

#endif
