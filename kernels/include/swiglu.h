/* swiglu.h: y = silu(gate) * up. */
#ifndef HADAL_SWIGLU_H
#define HADAL_SWIGLU_H

#include "weight.h"

typedef struct SwigluParams {
  void *y;             /* [n_row, y_stride] bf16; becomes zero behind dim */
  const void *gate;    /* [n_row, gate_stride] bf16, zero behind dim */
  const void *up;      /* [n_row, up_stride] bf16, zero behind dim */
  uint32_t n_row;
  uint32_t dim;        /* strides are at least dim rounded up to 8 */
  uint32_t y_stride;
  uint32_t gate_stride;
  uint32_t up_stride;
  uint32_t unused;
} SwigluParams;
ABI_SIZE(SwigluParams, 3, 6);

#endif
