/* rms_norm.h: y = x / sqrt(mean(x^2) + eps) * weight, alone or after x += delta. */
#ifndef HADAL_RMS_NORM_H
#define HADAL_RMS_NORM_H

#include "weight.h"

typedef struct RmsNormParams {
  void *y;             /* [n_row, y_stride] bf16 */
  const void *x;       /* [n_row, x_stride] f32 or bf16, by variant */
  const float *weight; /* [dim rounded up to 8] f32, zero behind dim */
  uint32_t n_row;
  uint32_t dim;        /* strides are at least dim rounded up to 8; x is zero behind dim, and y becomes so */
  uint32_t y_stride;
  uint32_t x_stride;
  float eps;
  uint32_t unused;
} RmsNormParams;
ABI_SIZE(RmsNormParams, 3, 6);

typedef struct AddRmsNormParams {
  void *y;             /* [n_row, y_stride] bf16 */
  float *x;            /* [n_row, x_stride] f32: the residual stream, read and written */
  const void *delta;   /* [n_row, delta_stride] bf16 */
  const float *weight; /* as above */
  uint32_t n_row;
  uint32_t dim;
  uint32_t y_stride;
  uint32_t x_stride;
  uint32_t delta_stride;
  float eps;
} AddRmsNormParams;
ABI_SIZE(AddRmsNormParams, 4, 6);

#endif
