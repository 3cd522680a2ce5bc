// fragments.cu: one instruction a kernel on registers that the host has filled, lane by lane.
//
// Nothing here knows a layout: register r of lane l is word [l, r] of its argument.
#include <stdint.h>

#define MMA(name, op, n_a, n_b, type, letter, a_regs, b_regs)                                                    \
  extern "C" __global__ void name(const uint32_t* a, const uint32_t* b, const type* c, type* d) {              \
    const uint32_t* x = a + threadIdx.x * n_a;                                                                 \
    const uint32_t* y = b + threadIdx.x * n_b;                                                                 \
    const type* z = c + threadIdx.x * 4;                                                                       \
    type r[4];                                                                                                 \
    asm volatile(op " {%0, %1, %2, %3}, " a_regs ", {%4, %5, %6, %7};"                                         \
                 : "=" letter(r[0]), "=" letter(r[1]), "=" letter(r[2]), "=" letter(r[3])                      \
                 : letter(z[0]), letter(z[1]), letter(z[2]), letter(z[3]), "r"(x[0]), "r"(x[1]), "r"(x[2 % n_a]), \
                   "r"(x[3 % n_a]), "r"(y[0]), "r"(y[1 % n_b]));                                               \
    for (int i = 0; i < 4; ++i) d[threadIdx.x * 4 + i] = r[i];                                                 \
  }

#define WIDE "{%8, %9, %10, %11}, {%12, %13}"
#define NARROW "{%8, %9}, {%12}"

MMA(mma_16816_bf16, "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", 4, 2, float, "f", WIDE, )
MMA(mma_16816_f16, "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32", 4, 2, float, "f", WIDE, )
MMA(mma_1688_bf16, "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32", 2, 1, float, "f", NARROW, )
MMA(mma_1688_tf32, "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32", 4, 2, float, "f", WIDE, )
MMA(mma_16832_s8, "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32", 4, 2, int, "r", WIDE, )
MMA(mma_16816_s8, "mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32", 2, 1, int, "r", NARROW, )

// tile: 256 halves. rows: a byte offset a lane. out: [lane, 4] words.
#define LDMATRIX(name, op, list)                                                                            \
  extern "C" __global__ void name(const uint16_t* tile, const uint32_t* rows, uint32_t* out) {             \
    __shared__ alignas(16) uint16_t shared[256];                                                           \
    for (int i = threadIdx.x; i < 256; i += 32) shared[i] = tile[i];                                       \
    __syncthreads();                                                                                       \
    uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(shared)) + rows[threadIdx.x];             \
    uint32_t r[4] = {};                                                                                    \
    asm volatile(op " " list ", [%4];" : "+r"(r[0]), "+r"(r[1]), "+r"(r[2]), "+r"(r[3]) : "r"(at) : "memory"); \
    for (int i = 0; i < 4; ++i) out[threadIdx.x * 4 + i] = r[i];                                           \
  }

LDMATRIX(ldmatrix_x1, "ldmatrix.sync.aligned.m8n8.x1.shared.b16", "{%0}")
LDMATRIX(ldmatrix_x2, "ldmatrix.sync.aligned.m8n8.x2.shared.b16", "{%0, %1}")
LDMATRIX(ldmatrix_x4, "ldmatrix.sync.aligned.m8n8.x4.shared.b16", "{%0, %1, %2, %3}")
LDMATRIX(ldmatrix_x4_trans, "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16", "{%0, %1, %2, %3}")
