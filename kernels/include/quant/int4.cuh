// int4.cuh: four-bit numbers with an offset of 8 and one f16 scale for 32 or 128 columns of a row.
#pragma once

#include "quant/format.cuh"

template <typename Scales>
struct Int4 : Scales {
  static constexpr int BLOCKS = 4;
  static constexpr unsigned STAGE = 128;

  static __device__ __forceinline__ size_t row_bytes(unsigned stride) { return size_t(stride) / 2; }

  // Four bits behind the exponent of 2^7 are 128 + quant as bf16; minus 136 it is the number, exactly.
  static __device__ __forceinline__ uint32_t two(uint32_t word) {
    uint32_t d;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;"
        : "=r"(d)
        : "r"(and_or(word, 0x000f000fu, 0x43004300u)), "r"(0x3f803f80u), "r"(0xc308c308u));
    return d;
  }

  // The nibbles of a word are columns 0 2 4 6 1 3 5 7: a shift brings a pair to its halves.
  static __device__ __forceinline__ void expand(uint32_t (&w)[4], uint4 raw, int block) {
    const uint32_t word = block == 0 ? raw.x : block == 1 ? raw.y : block == 2 ? raw.z : raw.w;
#pragma unroll
    for (int i = 0; i < 4; ++i) w[i] = two(word >> (4 * i));
  }
};

using Int4G32 = Int4<Scales32>;
using Int4G128 = Int4<Scales128>;
