// embed.cu: the residual stream's first rows, out of the embedding table.
//
//   y[row, i] = table[token[row], i]
//
// Shapes    y [n_row, dim] f32; table [vocab_size, dim] bf16, zero behind dim; token [n_row] u32.
// Launch    grid (n, stretches of a row), block 256: a thread for four numbers.
// Bytes     n_row * dim * (2 + 4).
// Roofline  no flop, memory-bound. One row of 7168 is 43 kB: one launch, whatever the card.
#include "device.cuh"
#include "embed.h"

constexpr unsigned THREADS = 256;

KERNEL(embed, EmbedParams, THREADS) {
  const unsigned n_vector = (p.dim + 7) / 8 * 2;
  const size_t row = blockIdx.x;
  const unsigned vector = blockIdx.y * THREADS + threadIdx.x;
  if (vector >= n_vector) return;
  const unsigned at = vector * 4;
  const bf16* table = static_cast<const bf16*>(p.table) + size_t(p.token[row]) * p.table_stride;
  store4(p.y + size_t(row) * p.y_stride + at, load4(table + at));
}
