// tile.cuh: what matrix kernels are written with: asynchronous copies, matrix loads, products on tensor cores.
//
// Inline PTX with the manual's section (ISA 9.0) and the layout of a warp's lanes beside it. A lane's `group` is
// lane / 4, its place in the group, `quad`, lane % 4.
#pragma once

#include "device.cuh"

__device__ __forceinline__ unsigned lane_id() { return threadIdx.x % WARP; }

__device__ __forceinline__ uint32_t shared_address(const void* at) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(at));
}

// 9.7.9.25.3 cp.async: 16 bytes from global to shared memory past L1; of `bytes` below 16 the rest becomes zero.
__device__ __forceinline__ void copy16(void* to, const void* from, unsigned bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes)
               : "memory");
}

__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Until all but the newest N groups of this thread are there; others see them after a barrier.
template <int N>
__device__ __forceinline__ void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

__device__ __forceinline__ uint4 zero16() { return make_uint4(0, 0, 0, 0); }

// Up to eight numbers at any address, zeros behind the first `n`.
__device__ __forceinline__ uint4 gather16(const bf16* at, unsigned n) {
  uint32_t w[4];
#pragma unroll
  for (unsigned i = 0; i < 4; ++i) {
    w[i] = 2 * i < n ? at[2 * i].bits : 0;
    if (2 * i + 1 < n) w[i] |= uint32_t(at[2 * i + 1].bits) << 16;
  }
  return make_uint4(w[0], w[1], w[2], w[3]);
}

// 9.7.15.5.15 ldmatrix: four 8 x 8 matrices; lanes 8i .. 8i + 7 give the rows of matrix i. A lane receives, of each,
// the elements (group, 2 quad) and (group, 2 quad + 1); transposed, (2 quad, group) and (2 quad + 1, group).
__device__ __forceinline__ void load_matrices(uint32_t (&d)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "r"(shared_address(row))
               : "memory");
}

__device__ __forceinline__ void load_matrices_transposed(uint32_t (&d)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "r"(shared_address(row))
               : "memory");
}

// 9.7.15.5.8 mma.m16n8k16: d [16, 8] += a [16, 16] b [16, 8].
//   a0: (group, 2 quad + {0, 1})          a2: (group, 2 quad + 8 + {0, 1})
//   a1, a3: the same of group + 8
//   b0: (2 quad + {0, 1}, group)          b1: (2 quad + 8 + {0, 1}, group)
//   d0, d1: (group, 2 quad + {0, 1})      d2, d3: (group + 8, same)
__device__ __forceinline__ void multiply(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                         uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  multiply(d, a[0], a[1], a[2], a[3], b0, b1);
}

// 9.7.9.8 ld.global.nc: 16 bytes that no one writes while the kernel runs, read once: not kept in L1.
__device__ __forceinline__ uint4 load_stream(const void* at) {
  uint4 d;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(d.x), "=r"(d.y), "=r"(d.z), "=r"(d.w)
               : "l"(at));
  return d;
}

// 9.7.9.12 st.global: one store of 8 bytes; the compiler makes two of 4 out of a float2.
__device__ __forceinline__ void store_pair(float* at, float a, float b) {
  asm volatile("st.global.v2.f32 [%0], {%1, %2};" ::"l"(at), "f"(a), "f"(b) : "memory");
}

// 9.7.3.21 ex2: 2^x, an approximation of 2 ulp, 2^-inf = 0. Softmaxes here are to base 2: log2(e) is part of their
// scale.
__device__ __forceinline__ float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// 9.7.3.20 lg2: log2(x).
__device__ __forceinline__ float log2_approx(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// The four lanes of a group share a row of a fragment: their reduction, in each of them.
template <typename Join>
__device__ __forceinline__ float quad_reduce(float x) {
  x = Join::join(x, __shfl_xor_sync(ALL_LANES, x, 1));
  return Join::join(x, __shfl_xor_sync(ALL_LANES, x, 2));
}

// Two halves as two f32 (9.7.9.21 cvt), exact.
__device__ __forceinline__ float2 from_f16(uint32_t pair) {
  float2 d;
  asm("{.reg .b16 low, high; mov.b32 {low, high}, %2; cvt.f32.f16 %0, low; cvt.f32.f16 %1, high;}"
      : "=f"(d.x), "=f"(d.y)
      : "r"(pair));
  return d;
}

// 9.7.8.7 lop3: (a & b) | c.
__device__ __forceinline__ uint32_t and_or(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}
