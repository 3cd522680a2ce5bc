// defects.cu: one planted defect a kernel, and beside each the form that is right.
//
// The simulator has to find every one of the first, at its place, and none in the second.
#include <cuda_bf16.h>
#include <stdint.h>

// Launch    1 block of 128 threads; data [128] f32.
extern "C" __global__ void missing_barrier(const float* x, float* y) {
  __shared__ float tile[128];
  tile[threadIdx.x] = 0.0f;
  __syncthreads();
  tile[threadIdx.x] = x[threadIdx.x];
  y[threadIdx.x] = tile[127 - threadIdx.x];  // planted: no __syncthreads() before
}

extern "C" __global__ void with_barrier(const float* x, float* y) {
  __shared__ float tile[128];
  tile[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = tile[127 - threadIdx.x];
}

extern "C" __global__ void write_after_read(const float* x, float* y) {
  __shared__ float tile[128];
  float sum = 0.0f;
  for (int round = 0; round < 4; ++round) {
    tile[threadIdx.x] = x[threadIdx.x] + round;
    __syncthreads();
    sum += tile[127 - threadIdx.x];
    // planted: the next round overwrites what others still read
  }
  y[threadIdx.x] = sum;
}

extern "C" __global__ void write_behind_barrier(const float* x, float* y) {
  __shared__ float tile[128];
  float sum = 0.0f;
  for (int round = 0; round < 4; ++round) {
    tile[threadIdx.x] = x[threadIdx.x] + round;
    __syncthreads();
    sum += tile[127 - threadIdx.x];
    __syncthreads();
  }
  y[threadIdx.x] = sum;
}

extern "C" __global__ void without_syncwarp(const float* x, float* y) {
  __shared__ float tile[128];
  float* mine = tile + threadIdx.x / 32 * 32;
  int lane = threadIdx.x % 32;
  mine[lane] = x[threadIdx.x];
  y[threadIdx.x] = mine[31 - lane];  // planted: lanes of a warp are not ordered by themselves
}

extern "C" __global__ void with_syncwarp(const float* x, float* y) {
  __shared__ float tile[128];
  float* mine = tile + threadIdx.x / 32 * 32;
  int lane = threadIdx.x % 32;
  mine[lane] = x[threadIdx.x];
  __syncwarp();
  y[threadIdx.x] = mine[31 - lane];
}

__device__ void copy16(void* to, const void* from) {
  uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(from) : "memory");
}

// Data [512] f32: 16 bytes a thread.
extern "C" __global__ void async_without_wait(const float* x, float* y) {
  __shared__ alignas(16) float tile[512];
  copy16(tile + 4 * threadIdx.x, x + 4 * threadIdx.x);
  asm volatile("cp.async.commit_group;" ::: "memory");
  __syncthreads();
  y[threadIdx.x] = tile[511 - threadIdx.x];  // planted: a barrier is no wait
}

extern "C" __global__ void async_without_barrier(const float* x, float* y) {
  __shared__ alignas(16) float tile[512];
  for (int i = threadIdx.x; i < 512; i += 128) tile[i] = 0.0f;
  __syncthreads();
  copy16(tile + 4 * threadIdx.x, x + 4 * threadIdx.x);
  asm volatile("cp.async.commit_group;" ::: "memory");
  asm volatile("cp.async.wait_group 0;" ::: "memory");
  y[threadIdx.x] = tile[511 - threadIdx.x];  // planted: others' copies have no barrier
}

extern "C" __global__ void async_wrong_count(const float* x, float* y) {
  __shared__ alignas(16) float tile[1024];
  copy16(tile + 4 * threadIdx.x, x + 4 * threadIdx.x);
  asm volatile("cp.async.commit_group;" ::: "memory");
  copy16(tile + 512 + 4 * threadIdx.x, x + 4 * threadIdx.x);
  asm volatile("cp.async.commit_group;" ::: "memory");
  asm volatile("cp.async.wait_group 1;" ::: "memory");  // planted: the newest group is read below
  __syncthreads();
  y[threadIdx.x] = tile[1023 - threadIdx.x];
}

extern "C" __global__ void async_right(const float* x, float* y) {
  __shared__ alignas(16) float tile[1024];
  copy16(tile + 4 * threadIdx.x, x + 4 * threadIdx.x);
  asm volatile("cp.async.commit_group;" ::: "memory");
  copy16(tile + 512 + 4 * threadIdx.x, x + 4 * threadIdx.x);
  asm volatile("cp.async.commit_group;" ::: "memory");
  asm volatile("cp.async.wait_group 1;" ::: "memory");
  __syncthreads();
  float first = tile[511 - threadIdx.x];
  asm volatile("cp.async.wait_group 0;" ::: "memory");
  __syncthreads();
  y[threadIdx.x] = first + tile[1023 - threadIdx.x];
}

extern "C" __global__ void one_past_the_end(const float* x, float* y) {
  y[threadIdx.x] = x[threadIdx.x + 1];  // planted: the last thread reads x[128]
}

extern "C" __global__ void uninitialised_shared(const float* x, float* y) {
  __shared__ float tile[128];
  if (threadIdx.x != 77) tile[threadIdx.x] = x[threadIdx.x];  // planted: one element is left out
  __syncthreads();
  y[threadIdx.x] = tile[127 - threadIdx.x];
}

extern "C" __global__ void uninitialised_local(const float* x, float* y) {
  float kept[16];
  int n = static_cast<int>(x[0]);
  for (int i = 0; i < n; ++i) kept[i * 5 % 16] = x[i];  // planted: with n = 8 not all are written
  float sum = 0.0f;
  for (int i = 0; i < n; ++i) sum += kept[i];
  y[threadIdx.x] = sum;
}

extern "C" __global__ void barrier_in_divergent_code(const float* x, float* y) {
  float value = x[threadIdx.x];
  if (threadIdx.x % 32 < 16) {
    __syncthreads();  // planted: half of each warp
    value *= 2.0f;
  } else {
    value += y[threadIdx.x];
  }
  __syncthreads();
  y[threadIdx.x] = value;
}

extern "C" __global__ void shuffle_with_absent_lanes(const float* x, float* y) {
  float value = x[threadIdx.x];
  if (threadIdx.x % 32 < 16) {
    value += __shfl_down_sync(0xffffffffu, value, 8);  // planted: the mask names lanes that are elsewhere
  }
  y[threadIdx.x] = value;
}

extern "C" __global__ void shuffle_in_half_a_warp(const float* x, float* y) {
  float value = x[threadIdx.x];
  if (threadIdx.x % 32 < 16) {
    value += __shfl_xor_sync(0x0000ffffu, value, 8);
  }
  y[threadIdx.x] = value;
}

// Data [132] f32: the vector starts one element in.
extern "C" __global__ void misaligned_vector(const float* x, float* y) {
  if (threadIdx.x < 32) {
    float4 v = *reinterpret_cast<const float4*>(x + 1 + 4 * threadIdx.x);  // planted: 4 bytes off
    y[threadIdx.x] = v.x + v.y + v.z + v.w;
  }
}

extern "C" __global__ void global_race(const float* x, float* y) {
  y[threadIdx.x / 2] = x[threadIdx.x];  // planted: two threads an element
}

extern "C" __global__ void blocks_race(float* y) {
  if (threadIdx.x == 0) y[0] += 1.0f;  // planted: all blocks
}

extern "C" __global__ void blocks_add_atomically(float* y) {
  if (threadIdx.x == 0) atomicAdd(y, 1.0f);
}

extern "C" __global__ void never_ends(const float* x, float* y) {
  volatile const float* flag = x;
  while (flag[0] != 0.0f) {
  }
  y[threadIdx.x] = 1.0f;
}

// Lanes hand a token on through shared memory: only a fair turn of the lanes ends it.
extern "C" __global__ void spin_on_a_neighbour(const float* x, float* y) {
  __shared__ volatile int turn[4];
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (lane == 0) turn[warp] = 0;
  __syncwarp();
  while (turn[warp] != lane) {
  }
  turn[warp] = lane + 1;
  y[threadIdx.x] = x[threadIdx.x];
}
