// int8.cuh: signed bytes with one f16 scale for 32 columns of a row.
#pragma once

#include "quant/format.cuh"

struct Int8 : Scales32 {
  static constexpr int BLOCKS = 2;
  static constexpr unsigned STAGE = 64;

  static __device__ __forceinline__ size_t row_bytes(unsigned stride) { return stride; }

  // Two signed bytes, in the lower bytes of the halves, as two bf16. The lower seven bits behind the exponent of 2^7
  // are 128 more than they are; the sign, worth -128, lies where it turns the exponent of the 128 to be taken away into
  // that of 256.
  static __device__ __forceinline__ uint32_t two(uint32_t word) {
    uint32_t d;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;"
        : "=r"(d)
        : "r"(and_or(word, 0x00800080u, 0x43004300u)), "r"(0xbf80bf80u), "r"(and_or(word, 0x007f007fu, 0x43004300u)));
    return d;
  }

  // The bytes of a word are columns 0 2 1 3.
  static __device__ __forceinline__ void expand(uint32_t (&w)[4], uint4 raw, int block) {
    const uint32_t low = block == 0 ? raw.x : raw.z, high = block == 0 ? raw.y : raw.w;
    w[0] = two(low);
    w[1] = two(low >> 8);
    w[2] = two(high);
    w[3] = two(high >> 8);
  }
};
