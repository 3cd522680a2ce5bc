/* weight.h: a matrix as it lies on the card, in any weight format.
 *
 * `W [n_out, n_in]`, rows of numbers that are summed over. Two planes: quants, row-major, and scales.
 *
 *   bf16   quants [n_out, quant_stride] bf16; no scales
 *   fp8    quants [n_out, quant_stride] e4m3;
 *          scales [ceil(n_out / 128), scale_stride] f32, one a 128 x 128 quant block
 *   int8   quants [n_out, quant_stride] i8; value = scale * quant;
 *          scales [ceil(n_in / 128), scale_stride, 4] f16, one a group of 32
 *   int4   quants [n_out, quant_stride] u4; value = scale * (quant - 8);
 *          scales of groups of 32 as for int8, of groups of 128 [ceil(n_in / 128), scale_stride] f16
 *
 * Where `scale_stride` counts rows it is n_out rounded up to a multiple of 16. `quant_stride` is in elements and a
 * multiple of 128; what lies behind a row's n_in columns is zero in value: bytes 0, for int4 bytes 0x88, and every
 * scale is a finite number. Planes begin at multiples of 256 bytes.
 *
 * Quants of a byte and less are packed, so that 16 bytes are what one lane multiplies: with a column as
 * 32 j + 8 t + i, t < 4, i < 8,
 *
 *   fp8, int8   in each 64 columns the eight bytes (j, t), j < 2, are at byte 8 * (2 t + j);
 *               among them i = 0 2 1 3 4 6 5 7
 *   int4        in each 128 columns the four bytes (j, t), j < 4, are at byte 4 * (4 t + j); in their word, lowest bits
 *               first, i = 0 2 4 6 1 3 5 7
 */
#ifndef HADAL_WEIGHT_H
#define HADAL_WEIGHT_H

#include <stdint.h>

/* Parameters have no hole: `pointers` of 8 bytes, then `words` of 4. They travel to the card as bytes. */
#if defined(__cplusplus)
#define ABI_SIZE(type, pointers, words) static_assert(sizeof(type) == 8 * (pointers) + 4 * (words), #type)
#else
#define ABI_SIZE(type, pointers, words) _Static_assert(sizeof(type) == 8 * (pointers) + 4 * (words), #type)
#endif

typedef struct WeightMatrix {
  const void *quants;
  const void *scales;
  uint32_t n_out;
  uint32_t n_in;
  uint32_t quant_stride;
  uint32_t scale_stride;
} WeightMatrix;
ABI_SIZE(WeightMatrix, 2, 4);

#endif
