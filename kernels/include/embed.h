/* embed.h: y[row] = table[token[row]]. */
#ifndef HADAL_EMBED_H
#define HADAL_EMBED_H

#include "weight.h"

typedef struct EmbedParams {
  float *y;              /* [n_row, y_stride] f32: the residual stream */
  const void *table;     /* [vocab_size, table_stride] bf16 */
  const uint32_t *token; /* [n_row], each below vocab_size */
  uint32_t n_row;
  uint32_t dim;          /* both strides are at least dim rounded up to 8 */
  uint32_t y_stride;
  uint32_t table_stride;
} EmbedParams;
ABI_SIZE(EmbedParams, 3, 4);

#endif
