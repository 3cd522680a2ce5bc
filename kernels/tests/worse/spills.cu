// spills.cu: more numbers than registers, and a table that an unknown index reads: stack, spills, local memory.
#include "device.cuh"
#include "swiglu.h"

KERNEL(swiglu, SwigluParams, 1024) {
  float many[96];
  const bf16* gate = static_cast<const bf16*>(p.gate);
#pragma unroll
  for (int i = 0; i < 96; ++i) many[i] = to_f32(gate[threadIdx.x + i * 1024]);
  float sum = 0.0f;
  for (unsigned i = 0; i < p.dim; ++i) {
#pragma unroll
    for (int j = 0; j < 96; ++j) many[j] = fmaf(many[j], many[(j + 1) % 96], sum);
    sum += many[(p.n_row + i) % 96];
  }
  static_cast<bf16*>(p.y)[threadIdx.x] = to_bf16(sum);
}
