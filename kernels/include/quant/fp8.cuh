// fp8.cuh: weights in e4m3 with one f32 scale for 128 x 128 of them.
#pragma once

#include "quant/format.cuh"

struct Fp8 {
  static constexpr int BLOCKS = 2;
  static constexpr unsigned GROUP = 128;
  static constexpr unsigned STAGE = 64;

  static __device__ __forceinline__ size_t row_bytes(unsigned stride) { return stride; }

  // Two e4m3 as two bf16. Sign, exponent and mantissa move to their places: as bf16 the number is then 2^120 times too small,
  // denormal ones included, and one exact multiplication sets it right. No card has a conversion of e4m3 to bf16; by way of
  // f16, where there is one, it takes more instructions than this. The two codes of NaN read as 480.
  static __device__ __forceinline__ uint32_t two(uint32_t word, uint32_t choose) {
    const uint32_t high = __byte_perm(word, 0, choose);  // each in the upper byte of a half
    uint32_t d;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;"
        : "=r"(d)
        : "r"(and_or(high, 0x80008000u, high >> 4 & 0x07f007f0u)), "r"(0x7b807b80u), "r"(0x80008000u));
    return d;
  }

  static __device__ __forceinline__ void expand(uint32_t (&w)[4], uint4 raw, int block) {
    const uint32_t low = block == 0 ? raw.x : raw.z, high = block == 0 ? raw.y : raw.w;
    w[0] = two(low, 0x1404);
    w[1] = two(low, 0x3424);
    w[2] = two(high, 0x1404);
    w[3] = two(high, 0x3424);
  }

  // Sixteen features from a multiple of sixteen on lie in one quant block.
  struct Scale {
    float both;
  };
  static __device__ __forceinline__ Scale scale(const WeightMatrix& m, unsigned row, unsigned segment) {
    return {static_cast<const float*>(m.scales)[size_t(row / 128) * m.scale_stride + segment]};
  }
  static __device__ __forceinline__ float add(float total, float part, const Scale& s, int) {
    return __fadd_rn(total, __fmul_rn(s.both, part));
  }
};
