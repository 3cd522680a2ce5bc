// device.cuh: what every kernel is written with: entry points, bf16, vectors of eight, reductions.
//
// Inline PTX lives here and in tile.cuh only, each primitive with its section of the PTX manual (ISA 9.0). No header of
// the toolkit is included: a kernel file compiles in half the time, and says itself what it rounds.
#pragma once

#include <stdint.h>

// A kernel's entry point: `p` is its only parameter, read where it lies, and its block has exactly `n_thread` threads.
#define KERNEL(name, Params, n_thread) \
  extern "C" __global__ void __launch_bounds__(n_thread) name(const __grid_constant__ Params p)

// The same, where ptxas is to leave room for `n_block` blocks on a multiprocessor.
#define KERNEL_BLOCKS(name, Params, n_thread, n_block) \
  extern "C" __global__ void __launch_bounds__(n_thread, n_block) name(const __grid_constant__ Params p)

constexpr unsigned WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

struct bf16 {
  uint16_t bits;
};

__device__ __forceinline__ float to_f32(bf16 x) { return __uint_as_float(uint32_t(x.bits) << 16); }
__device__ __forceinline__ float to_f32(float x) { return x; }

// Two numbers to bf16, nearest even, `low` in the low half (9.7.9.21 cvt: d = {a, b} has b in the lower half).
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

__device__ __forceinline__ bf16 to_bf16(float x) { return {uint16_t(pack_bf16(x, 0.0f))}; }

template <typename T>
__device__ __forceinline__ T from_f32(float x);
template <>
__device__ __forceinline__ float from_f32<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ bf16 from_f32<bf16>(float x) {
  return to_bf16(x);
}

__device__ __forceinline__ float low_bf16(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high_bf16(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }

// Numbers in registers. Of bf16 a thread takes eight, 16 bytes; wherever f32 is about it takes four, so that a warp's request
// has no gaps.
struct Eight {
  float v[8];
};

struct Four {
  float v[4];
};

__device__ __forceinline__ Eight unpack8(uint4 raw) {
  return {{low_bf16(raw.x), high_bf16(raw.x), low_bf16(raw.y), high_bf16(raw.y), low_bf16(raw.z), high_bf16(raw.z),
           low_bf16(raw.w), high_bf16(raw.w)}};
}

__device__ __forceinline__ uint4 pack8(const Eight& x) {
  return make_uint4(pack_bf16(x.v[0], x.v[1]), pack_bf16(x.v[2], x.v[3]), pack_bf16(x.v[4], x.v[5]),
                    pack_bf16(x.v[6], x.v[7]));
}

__device__ __forceinline__ Eight load8(const bf16* at) { return unpack8(*reinterpret_cast<const uint4*>(at)); }

__device__ __forceinline__ Four load4(const float* at) {
  const float4 a = *reinterpret_cast<const float4*>(at);
  return {{a.x, a.y, a.z, a.w}};
}

__device__ __forceinline__ Four load4(const bf16* at) {
  const uint2 a = *reinterpret_cast<const uint2*>(at);
  return {{low_bf16(a.x), high_bf16(a.x), low_bf16(a.y), high_bf16(a.y)}};
}

// One 16-byte store to global memory (9.7.9.13 st). Left to itself the compiler takes vectors that it has just packed apart
// again on targets before 100, and writes every sector twice or four times.
__device__ __forceinline__ void store16(void* at, uint4 x) {
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(at)), "r"(x.x), "r"(x.y),
               "r"(x.z), "r"(x.w)
               : "memory");
}

__device__ __forceinline__ void store8(bf16* at, const Eight& x) { store16(at, pack8(x)); }

__device__ __forceinline__ void store4(float* at, const Four& x) {
  store16(at, make_uint4(__float_as_uint(x.v[0]), __float_as_uint(x.v[1]), __float_as_uint(x.v[2]),
                         __float_as_uint(x.v[3])));
}

__device__ __forceinline__ void store4(bf16* at, const Four& x) {
  asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(__cvta_generic_to_global(at)), "r"(pack_bf16(x.v[0], x.v[1])),
               "r"(pack_bf16(x.v[2], x.v[3]))
               : "memory");
}

__device__ __forceinline__ float sum_of_squares(const Four& x) {
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < 4; ++i) sum = fmaf(x.v[i], x.v[i], sum);
  return sum;
}

// silu(x) = x / (1 + exp(-x)).
__device__ __forceinline__ float silu(float x) { return x / (1.0f + expf(-x)); }

struct Sum {
  static constexpr float NEUTRAL = 0.0f;
  static __device__ __forceinline__ float join(float a, float b) { return a + b; }
};

struct Max {
  static constexpr float NEUTRAL = -INFINITY;
  static __device__ __forceinline__ float join(float a, float b) { return fmaxf(a, b); }
};

// The reduction of all lanes, in every lane, by halves: the same order whatever the values.
template <typename Join>
__device__ __forceinline__ float warp_reduce(float x) {
#pragma unroll
  for (unsigned step = WARP / 2; step > 0; step /= 2) {
    x = Join::join(x, __shfl_xor_sync(ALL_LANES, x, step));
  }
  return x;
}

// The reduction of all threads of a block of N_THREAD, in every thread. `partial` is shared, one number a warp, and may be
// used again after the next barrier.
template <typename Join, unsigned N_THREAD>
__device__ __forceinline__ float block_reduce(float x, float* partial) {
  constexpr unsigned N_WARP = N_THREAD / WARP;
  static_assert(N_THREAD % WARP == 0 && N_WARP <= WARP, "whole warps, and no more than one can reduce");
  x = warp_reduce<Join>(x);
  if (N_WARP == 1) return x;
  const unsigned lane = threadIdx.x % WARP;
  if (lane == 0) partial[threadIdx.x / WARP] = x;
  __syncthreads();
  return warp_reduce<Join>(lane < N_WARP ? partial[lane] : Join::NEUTRAL);
}

template <unsigned N_THREAD>
__device__ __forceinline__ float block_sum(float x, float* partial) {
  return block_reduce<Sum, N_THREAD>(x, partial);
}

template <unsigned N_THREAD>
__device__ __forceinline__ float block_max(float x, float* partial) {
  return block_reduce<Max, N_THREAD>(x, partial);
}
