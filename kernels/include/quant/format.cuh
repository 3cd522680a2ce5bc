// format.cuh: what a weight format is to the matrix kernels.
//
// A *segment* is 128 columns of a row, a *unit* 16 bytes of it, a *block* 32 columns. A lane reads units of two rows,
// `group` and group + 8 of a tile of 16; unit u of a segment lies at byte 64 u + 16 quad of it and holds the columns 8
// quad .. 8 quad + 7 of each of its BLOCKS blocks. A format has
//
//   BLOCKS             blocks of 32 columns that the units of four lanes hold: 1, 2 or 4
//   GROUP              columns under one scale: 0 (none), 32, or 128 (a segment)
//   STAGE              columns that a tile in shared memory holds
//   row_bytes(stride)  bytes from one row to the next
//   expand(w, raw, b)  block b of a unit as four words of two bf16, exact: scales stay outside
//   Scale, scale(m, row, segment)  scales of the rows `row` and `row` + 8
//   add(total, part, scale, half)  total + scale * part, of row `row` + 8 half, each operation rounded by itself
//   fold(sum, part, scale, block, half)  the same for groups of 32, fused, inside a segment
#pragma once

#include "tile.cuh"
#include "weight.h"

constexpr unsigned SEGMENT = 128;

// 16 or 8 or 2 bytes of scales come through L1: neighbouring lanes share them.
__device__ __forceinline__ float half_at(const void* scales, size_t at) {
  const uint16_t bits = __ldg(static_cast<const uint16_t*>(scales) + at);  // global, also out of a table of experts
  return from_f16(bits).x;
}

// Scales of groups of 32: [segment, row, 4] f16.
struct Scales32 {
  static constexpr unsigned GROUP = 32;
  struct Scale {
    uint2 of[2];
  };
  static __device__ __forceinline__ Scale scale(const WeightMatrix& m, unsigned row, unsigned segment) {
    const uint2* at = static_cast<const uint2*>(m.scales) + size_t(segment) * m.scale_stride + row;
    return {{__ldg(at), __ldg(at + 8)}};
  }
  static __device__ __forceinline__ float fold(float sum, float part, const Scale& s, int block, int half) {
    const float2 pair = from_f16(block < 2 ? s.of[half].x : s.of[half].y);
    return __fmaf_rn(block % 2 == 0 ? pair.x : pair.y, part, sum);
  }
  static __device__ __forceinline__ float add(float total, float part, const Scale&, int) {
    return __fadd_rn(total, part);
  }
};

// Scales of groups of 128: [segment, row] f16.
struct Scales128 {
  static constexpr unsigned GROUP = 128;
  struct Scale {
    float of[2];
  };
  static __device__ __forceinline__ Scale scale(const WeightMatrix& m, unsigned row, unsigned segment) {
    const size_t at = size_t(segment) * m.scale_stride + row;
    return {{half_at(m.scales, at), half_at(m.scales, at + 8)}};
  }
  static __device__ __forceinline__ float add(float total, float part, const Scale& s, int half) {
    return __fadd_rn(total, __fmul_rn(s.of[half], part));
  }
};
