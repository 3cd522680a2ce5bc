// bf16.cuh: weights that are bf16 as they lie.
#pragma once

#include "quant/format.cuh"

struct Bf16 {
  static constexpr int BLOCKS = 1;       // 16 bytes are eight columns
  static constexpr unsigned GROUP = 0;   // no scales
  static constexpr unsigned STAGE = 64;  // columns of a tile in shared memory

  static __device__ __forceinline__ size_t row_bytes(unsigned stride) { return size_t(stride) * 2; }

  static __device__ __forceinline__ void expand(uint32_t (&w)[4], uint4 raw, int) {
    w[0] = raw.x;
    w[1] = raw.y;
    w[2] = raw.z;
    w[3] = raw.w;
  }

  struct Scale {};
  static __device__ __forceinline__ Scale scale(const WeightMatrix&, unsigned, unsigned) { return {}; }
  static __device__ __forceinline__ float add(float total, float part, const Scale&, int) {
    return __fadd_rn(total, part);
  }
};
