/* gather_rows.h: picks rows, and turns rows from one type into another. */
#ifndef HADAL_GATHER_ROWS_H
#define HADAL_GATHER_ROWS_H

#include "weight.h"

/* y[i] = x[row[i]]; with row null, y[i] = x[i]. Types by variant: f32 to bf16, bf16 to f32, bf16 to bf16, f32 to f32. */
typedef struct GatherRowsParams {
  void *y;             /* [n_out, y_stride] f32 or bf16 */
  const void *x;       /* [any, x_stride] f32 or bf16 */
  const uint32_t *row; /* [n_out], or null */
  uint32_t n_out;
  uint32_t dim;        /* strides are at least dim rounded up to 8 */
  uint32_t y_stride;
  uint32_t x_stride;
} GatherRowsParams;
ABI_SIZE(GatherRowsParams, 3, 4);

#endif
