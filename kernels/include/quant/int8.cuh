// int8.cuh: signed bytes with one f16 scale for 32 columns of a row.
#pragma once

#include "quant/format.cuh"

struct Int8 : Scales32 {
  static constexpr int BLOCKS = 2;
  static constexpr unsigned STAGE = 64;

  static __device__ __forceinline__ size_t row_bytes(unsigned stride) { return stride; }

  // A byte with its sign turned into an offset of 128, behind the exponent of 2^23, is 2^23 + 128 + quant as f32; what is left of
  // it after the subtraction has eight bits at most, so that the upper half of the f32 is the number as bf16.
  static __device__ __forceinline__ uint32_t two(uint32_t word, uint32_t first, uint32_t second) {
    const float a = __uint_as_float(__byte_perm(word, 0x4b000000u, first)) - 8388736.0f;
    const float b = __uint_as_float(__byte_perm(word, 0x4b000000u, second)) - 8388736.0f;
    return __byte_perm(__float_as_uint(a), __float_as_uint(b), 0x7632);
  }

  static __device__ __forceinline__ void expand(uint32_t (&w)[4], uint4 raw, int block) {
    const uint32_t low = (block == 0 ? raw.x : raw.z) ^ 0x80808080u;
    const uint32_t high = (block == 0 ? raw.y : raw.w) ^ 0x80808080u;
    w[0] = two(low, 0x7440, 0x7441);
    w[1] = two(low, 0x7442, 0x7443);
    w[2] = two(high, 0x7440, 0x7441);
    w[3] = two(high, 0x7442, 0x7443);
  }
};
