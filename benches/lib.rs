//! What the benches share: matrices of every format, a backend with room, steps, and how long to measure.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a bench fails by panicking")]

use std::time::Duration;

use criterion::{Criterion, Throughput};
use hadal_engine::Limits;
use hadal_engine::backend::cpu::{Activations, Cpu, CpuOptions, Plan, Weight};
use hadal_engine::backend::{Backend, MlaShape, RouteRule, Scoring, ScratchShape};
use hadal_engine::checkpoint::{Bytes, Scales, Tensor};
use hadal_engine::quant::{DType, fp8};
use hadal_engine::step::{PAGE_TOKENS, PageId, Slot, Step, TokenId};

/// DeepSeek-V2-Lite's attention.
pub const LITE: MlaShape = MlaShape {
    n_head: 16,
    qk_nope_head_dim: 128,
    qk_rope_head_dim: 64,
    v_head_dim: 128,
    kv_lora_rank: 512,
    n_k_pe: 1,
    softmax_scale: 0.072,
};

/// DeepSeek-V3's.
pub const V3: MlaShape = MlaShape { n_head: 128, ..LITE };

/// A few seconds a bench: there are more than a hundred.
pub fn quick() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1500))
        .sample_size(15)
        .without_plots()
}

/// Whether anything is measured: `cargo bench` without `--test`. Otherwise everything runs once, to see that it does.
pub fn is_measured() -> bool {
    let has = |flag: &str| std::env::args().any(|word| word == flag);
    has("--bench") && !has("--test")
}

/// Bytes that have to be read and operations that have to be computed: criterion prints both a second, the operations
/// as elements (`Gelem/s` is GFLOP/s).
pub fn work(bytes: usize, flops: usize) -> Throughput {
    Throughput::ElementsAndBytes { elements: flops as u64, bytes: bytes as u64 }
}

/// Numbers between -1 and 1 from a fixed seed.
pub fn numbers(len: usize) -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = |_| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(next).collect()
}

/// A matrix of small numbers that products read whole, and may be packed for them.
pub fn matrix(cpu: &mut Cpu, dtype: DType, n_out: usize, dim: usize) -> Weight {
    named(cpu, "model.layers.0.mlp.up_proj.weight", dtype, n_out, dim)
}

/// One that single rows are read of, and stays as it is.
pub fn matrix_of_rows(cpu: &mut Cpu, dtype: DType, n_out: usize, dim: usize) -> Weight {
    named(cpu, "model.layers.0.self_attn.kv_b_proj.weight", dtype, n_out, dim)
}

/// Every byte of a bf16 or f32 is set, none is huge.
fn named(cpu: &mut Cpu, name: &str, dtype: DType, n_out: usize, dim: usize) -> Weight {
    let row = numbers(dim);
    let row: Vec<u8> = match dtype {
        DType::F32 => row.iter().flat_map(|x| x.to_le_bytes()).collect(),
        // Halves between 2^-8 and 1, bytes between 2^-6 and 2: bits of the numbers with such an exponent put in.
        DType::F16 => row
            .iter()
            .flat_map(|x| (((x.to_bits() >> 13) as u16 & 0x9fff) | 0x2000).to_le_bytes())
            .collect(),
        DType::Bf16 => {
            row.iter().flat_map(|x| ((x.to_bits() >> 16) as u16).to_le_bytes()).collect()
        }
        DType::Fp8E4m3 => row.iter().map(|x| ((x.to_bits() >> 20) as u8 & 0x9f) | 0x20).collect(),
        // Wherever a block has its halves, they are between 2^-7 and 2^-3.
        _ => {
            let n_byte = dtype.row_bytes(dim).unwrap();
            numbers(n_byte).iter().map(|x| ((x.to_bits() >> 12) as u8 & 0x0f) | 0x20).collect()
        }
    };
    let bytes = Bytes::owned(row.repeat(n_out));
    let factors = n_out.div_ceil(fp8::BLOCK[0]) * dim.div_ceil(fp8::BLOCK[1]);
    let scales = (dtype == DType::Fp8E4m3).then(|| Scales {
        bytes: Bytes::owned(0.01f32.to_le_bytes().repeat(factors)),
        block: fp8::BLOCK,
    });
    let shape = vec![n_out, dim];
    cpu.weight(
        &Tensor { name: name.into(), dtype, shape, bytes, scales },
        hadal_engine::backend::Use::Product,
    )
    .unwrap()
}

/// A buffer of such numbers.
pub fn buffer(cpu: &mut Cpu, len: usize) -> <Cpu as Backend>::Buf {
    cpu.vector(&numbers(len)).unwrap()
}

/// A backend with room for every shape of the benches, `rows` of them.
pub fn backend(
    activations: Activations,
    mla: MlaShape,
    rows: usize,
    context: usize,
) -> (Cpu, Plan) {
    let options = CpuOptions { activations: Some(activations), ..CpuOptions::default() };
    let mut cpu = Cpu::new(&options).unwrap();
    let shape = ScratchShape {
        step_rows_max: rows,
        sequences_max: rows,
        context_tokens_max: context,
        n_page: context.div_ceil(PAGE_TOKENS) * rows,
        input_dim_max: 18_432,
        hidden_size: 2048,
        moe_intermediate_size: 1536,
        num_experts_per_tok: 6,
        n_routed_experts: 64,
        vocab_size: 129_280,
        mla,
    };
    let limits = Limits { step_rows_max: rows, sequences_max: rows, ..Limits::default() };
    let plan = cpu.reserve(&shape, &limits).unwrap();
    (cpu, plan)
}

/// One sequence whose last `rows` tokens are in this step.
pub fn step(context: usize, rows: usize, n_decode: usize) -> Step {
    let first = context - rows;
    let pages: Vec<PageId> = (0..context.div_ceil(PAGE_TOKENS) as u32).map(PageId).collect();
    Step {
        tokens: (0..rows as u32).map(|row| TokenId(row * 97)).collect(),
        positions: (first..context).map(|p| p as u32).collect(),
        slots: (first..context).map(|p| Slot(p as u32)).collect(),
        row_start: vec![0, rows as u32],
        n_decode,
        page_start: vec![0, pages.len() as u32],
        pages,
        context_len: vec![context as u32],
        ..Step::default()
    }
}

/// V3's way to choose.
pub fn rule(n_routed_experts: usize, n_group: usize) -> RouteRule {
    RouteRule {
        scoring: Scoring::Sigmoid,
        n_routed_experts,
        num_experts_per_tok: 6,
        n_group,
        topk_group: n_group.div_ceil(2),
        norm_topk_prob: true,
        routed_scaling_factor: 2.5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrices_of_every_format_are_finite() {
        let (mut cpu, _) = backend(Activations::F32, LITE, 1, 64);
        for dtype in DType::ALL {
            let weight = matrix(&mut cpu, dtype, 4, 256);
            let x = buffer(&mut cpu, 256);
            let mut y = cpu.alloc(1, 4, hadal_engine::backend::Role::Inner).unwrap();
            cpu.linear(&mut y, &x, &weight, 1);
            let mut out = [0.0; 4];
            cpu.read(&y, 4, &mut out).unwrap();
            assert!(out.iter().all(|y| y.is_finite() && *y != 0.0), "{dtype:?}: {out:?}");
        }
    }
}
