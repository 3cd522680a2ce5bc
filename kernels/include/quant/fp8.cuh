// fp8.cuh: weights in e4m3 with one f32 scale for 128 x 128 of them.
#pragma once

#include "quant/format.cuh"

struct Fp8 {
  static constexpr int BLOCKS = 2;
  static constexpr unsigned GROUP = 128;
  static constexpr unsigned STAGE = 64;

  static __device__ __forceinline__ size_t row_bytes(unsigned stride) { return stride; }

  // Two e4m3 as two bf16: `sign` has theirs in place, `rest` the other seven bits, at the bottom of bf16's exponent. As
  // bf16 the number is then 2^120 times too small, denormal ones included, and one exact multiplication sets it right.
  // No card converts e4m3 to bf16; by way of f16, where that is there, it takes more instructions than this. The two
  // codes of NaN read as 480.
  static __device__ __forceinline__ uint32_t two(uint32_t sign, uint32_t rest) {
    uint32_t d;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;"
        : "=r"(d)
        : "r"(and_or(sign, 0x80008000u, rest & 0x07f007f0u)), "r"(0x7b807b80u), "r"(0x80008000u));
    return d;
  }

  // The bytes of a word are columns 0 2 1 3.
  static __device__ __forceinline__ void expand(uint32_t (&w)[4], uint4 raw, int block) {
    const uint32_t low = block == 0 ? raw.x : raw.z, high = block == 0 ? raw.y : raw.w;
    w[0] = two(low << 8, low << 4);
    w[1] = two(low, low >> 4);
    w[2] = two(high << 8, high << 4);
    w[3] = two(high, high >> 4);
  }

  // Sixteen features from a multiple of sixteen on lie in one quant block.
  struct Scale {
    float both;
  };
  static __device__ __forceinline__ Scale scale(const WeightMatrix& m, unsigned row, unsigned segment) {
    return {__ldg(static_cast<const float*>(m.scales) + size_t(row / 128) * m.scale_stride + segment)};
  }
  static __device__ __forceinline__ float add(float total, float part, const Scale& s, int) {
    return __fadd_rn(total, __fmul_rn(s.both, part));
  }
};
