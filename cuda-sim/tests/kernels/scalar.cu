// scalar.cu: ordinary kernels, against plain arithmetic on the host.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <stdint.h>

// y[r, i] = weight[i] * x[r, i] / sqrt(mean(x[r]^2) + eps); grid rows, block 256.
extern "C" __global__ void rms_norm(const __nv_bfloat16* x, const __nv_bfloat16* weight, __nv_bfloat16* y,
                                    unsigned dim, float eps) {
  __shared__ float partial[8];
  const __nv_bfloat16* row = x + size_t(blockIdx.x) * dim;
  float sum = 0.0f;
  for (unsigned i = threadIdx.x; i < dim; i += blockDim.x) {
    float v = __bfloat162float(row[i]);
    sum += v * v;
  }
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
  __syncthreads();
  sum = 0.0f;
  for (unsigned i = 0; i < blockDim.x / 32; ++i) sum += partial[i];
  const float scale = rsqrtf(sum / dim + eps);
  for (unsigned i = threadIdx.x; i < dim; i += blockDim.x) {
    y[size_t(blockIdx.x) * dim + i] = __float2bfloat16(__bfloat162float(row[i]) * scale * __bfloat162float(weight[i]));
  }
}

// out[i, f] = f-th function of x[i]; one thread an element.
extern "C" __global__ void functions(const float* x, float* out, unsigned n) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const float v = x[i];
  float* to = out + size_t(i) * 12;
  to[0] = expf(v);
  to[1] = logf(fabsf(v) + 0.5f);
  to[2] = sinf(v);
  to[3] = cosf(v);
  to[4] = tanhf(v);
  to[5] = sqrtf(fabsf(v));
  to[6] = powf(fabsf(v) + 0.1f, 1.5f);
  to[7] = 1.0f / (1.0f + __expf(-v));
  to[8] = v / 3.0f;
  to[9] = fmodf(v, 0.7f);
  to[10] = erff(v);
  to[11] = log1pf(fabsf(v));
}

// out[i, f] = f-th integer function of (a[i], b[i]).
extern "C" __global__ void integers(const uint32_t* a, const uint32_t* b, uint32_t* out, unsigned n) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const uint32_t x = a[i], y = b[i];
  const uint64_t wide = uint64_t(x) << 32 | y;
  uint32_t* to = out + size_t(i) * 20;
  to[0] = x / (y | 1);
  to[1] = uint32_t(int32_t(x) % int32_t(y | 1));
  to[2] = __umulhi(x, y);
  to[3] = uint32_t(__mulhi(int32_t(x), int32_t(y)));
  to[4] = __popc(x);
  to[5] = __clz(int(x));
  to[6] = __brev(x);
  to[7] = __byte_perm(x, y, 0x3715);
  to[8] = __funnelshift_l(x, y, x & 31);
  to[9] = __funnelshift_r(x, y, y & 63);
  to[10] = (x >> (y & 7) & 0x1f) | (y << 9);
  to[11] = uint32_t(__dp4a(int(x), int(y), int(7)));
  to[12] = __ffs(int(x));
  to[13] = uint32_t(wide / (uint64_t(y) + 3) >> 3);
  to[14] = uint32_t((wide * 0x9e3779b97f4a7c15ull) >> 32);
  to[15] = (x & y) ^ (~x | y) ^ (x << 3);
  to[16] = uint32_t(int32_t(x) >> (y & 31));
  to[17] = uint32_t(min(int32_t(x), int32_t(y))) + max(x, y);
  to[18] = uint32_t(int8_t(x)) + uint16_t(y >> 3);
  to[19] = uint32_t(__umul64hi(wide, ~wide));
}

// Bins of a byte's values: shared, then global atomics. out [256].
extern "C" __global__ void histogram(const uint8_t* x, uint32_t* out, unsigned n) {
  __shared__ uint32_t bins[256];
  for (unsigned i = threadIdx.x; i < 256; i += blockDim.x) bins[i] = 0;
  __syncthreads();
  for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) atomicAdd(&bins[x[i]], 1u);
  __syncthreads();
  for (unsigned i = threadIdx.x; i < 256; i += blockDim.x) atomicAdd(&out[i], bins[i]);
}

// Values to e4m3 and back, to f16 pairs, and packed bf16 arithmetic. out [n, 4].
extern "C" __global__ void narrow(const float* x, float* out, unsigned n) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const __nv_fp8_e4m3 eight(x[i]);
  out[i * 4] = float(eight);
  const __half2 pair = __floats2half2_rn(x[i], -x[i]);
  out[i * 4 + 1] = __high2float(__hfma2(pair, pair, __float2half2_rn(1.0f)));
  const __nv_bfloat162 two = __floats2bfloat162_rn(x[i], 2.0f);
  out[i * 4 + 2] = __low2float(__hfma2(two, two, two));
  out[i * 4 + 3] = __bfloat162float(__hmul(__float2bfloat16(x[i]), __float2bfloat16(0.3f)));
}

__constant__ float table[4] = {0.5f, -1.0f, 2.0f, 8.0f};
__device__ int counter;

// A constant table, a variable, an indexed local array, dynamic shared memory, votes. out [n].
extern "C" __global__ void spaces(const int* x, float* out) {
  extern __shared__ float dynamic[];
  float mine[8];
  for (int i = 0; i < 8; ++i) mine[i] = table[(i + threadIdx.x) % 4] * i;
  dynamic[threadIdx.x] = mine[x[threadIdx.x] & 7];
  const unsigned odd = __ballot_sync(0xffffffffu, x[threadIdx.x] & 1);
  const int all = __syncthreads_count(x[threadIdx.x] > 2);
  if (threadIdx.x == 0) atomicAdd(&counter, 1);
  const float* generic = threadIdx.x % 2 ? dynamic : table;
  out[threadIdx.x] = dynamic[blockDim.x - 1 - threadIdx.x] + __popc(odd) * 100 + all * 10000 + generic[threadIdx.x % 4];
}

// Collatz steps: lanes part and come together again. Then a value's rank in its warp. out [n, 2].
extern "C" __global__ void divergent(const unsigned* x, unsigned* out) {
  unsigned v = x[threadIdx.x], steps = 0;
  while (v != 1) {
    v = v % 2 ? 3 * v + 1 : v / 2;
    ++steps;
  }
  unsigned rank = 0;
  for (int lane = 0; lane < 32; ++lane) rank += __shfl_sync(0xffffffffu, steps, lane) < steps;
  out[threadIdx.x * 2] = steps;
  out[threadIdx.x * 2 + 1] = rank + 1000 * __reduce_max_sync(0xffffffffu, steps);
}
