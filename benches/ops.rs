//! One operation at a time on the CPU backend, with the bytes it must move as throughput.
//!
//! Shapes are DeepSeek-V3's and DeepSeek-V2-Lite's, on all processors, with the best
//! instructions there are. `cargo bench -p hadal-benches --bench ops -- linear` runs a part.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench fails by panicking; its entry is a macro's"
)]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hadal_engine::Limits;
use hadal_engine::backend::cpu::{Activations, Cpu, CpuOptions, Plan, Weight};
use hadal_engine::backend::{
    Backend, ExpertWeights, HeadSide, KvB, MlaShape, RouteRule, Scoring, ScratchShape,
};
use hadal_engine::checkpoint::{Bytes, Scales, Tensor};
use hadal_engine::quant::{DType, fp8};
use hadal_engine::step::{PAGE_TOKENS, PageId, SampleRow, Slot, Step, TokenId};

const LITE: MlaShape = MlaShape {
    n_head: 16,
    qk_nope_head_dim: 128,
    qk_rope_head_dim: 64,
    v_head_dim: 128,
    kv_lora_rank: 512,
    n_k_pe: 1,
    softmax_scale: 0.072,
};
const V3: MlaShape = MlaShape { n_head: 128, ..LITE };

/// Numbers between -1 and 1 from a fixed seed.
fn numbers(len: usize) -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = |_| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(next).collect()
}

/// A matrix of small numbers: every byte of a bf16 or f32 is set, none is huge.
fn matrix(cpu: &mut Cpu, dtype: DType, n_out: usize, dim: usize) -> Weight {
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
    // A name whose matrices may be packed.
    let name = "model.layers.0.mlp.up_proj.weight".into();
    cpu.weight(&Tensor { name, dtype, shape, bytes, scales }).unwrap()
}

fn buffer(cpu: &mut Cpu, len: usize) -> <Cpu as Backend>::Buf {
    cpu.vector(&numbers(len)).unwrap()
}

/// A backend with room for the shapes below.
fn backend(activations: Activations, mla: MlaShape, rows: usize, context: usize) -> (Cpu, Plan) {
    let options = CpuOptions { activations: Some(activations), ..CpuOptions::default() };
    let mut cpu = Cpu::new(&options).unwrap();
    let shape = ScratchShape {
        step_rows_max: rows,
        sequences_max: rows,
        context_tokens_max: context,
        n_page: context.div_ceil(PAGE_TOKENS) * rows,
        input_dim_max: 18_432,
        hidden_size: 2048,
        moe_intermediate_size: 1408,
        num_experts_per_tok: 6,
        n_routed_experts: 16,
        vocab_size: 129_280,
        mla,
    };
    let limits = Limits { step_rows_max: rows, sequences_max: rows, ..Limits::default() };
    let plan = cpu.reserve(&shape, &limits).unwrap();
    (cpu, plan)
}

fn linear(c: &mut Criterion) {
    const DIM: usize = 7168;
    let mut group = c.benchmark_group("linear 7168 x 7168");
    let plain = DType::ALL.map(|dtype| (dtype, Activations::F32));
    let blocks = DType::ALL.into_iter().filter(|dtype| dtype.block_len() > 1);
    let panels = blocks.map(|dtype| (dtype, Activations::Int8));
    let all = plain.into_iter().chain([(DType::Bf16, Activations::Bf16)]).chain(panels);
    for (dtype, activations) in all {
        let form = match activations {
            Activations::F32 => "",
            Activations::Bf16 => ", pairs",
            Activations::Int8 => ", int8",
        };
        let name = format!("{}{form}", dtype.name());
        let (mut cpu, _) = backend(activations, LITE, 256, 64);
        let weight = matrix(&mut cpu, dtype, DIM, DIM);
        for rows in [1, 8, 64, 256] {
            let x = buffer(&mut cpu, rows * DIM);
            let mut y = cpu.alloc(rows * DIM).unwrap();
            let n_byte = DIM * dtype.row_bytes(DIM).unwrap();
            group.throughput(Throughput::Bytes(n_byte as u64));
            group.bench_function(BenchmarkId::new(&name, rows), |b| {
                b.iter(|| cpu.linear(&mut y, black_box(&x), &weight, rows));
            });
        }
    }
    group.finish();
}

fn head_linear(c: &mut Criterion) {
    let mut group = c.benchmark_group("head_linear, V3");
    let (mut cpu, _) = backend(Activations::Bf16, V3, 8, 64);
    let whole = matrix(&mut cpu, DType::Bf16, 128 * 256, 512);
    let kv_b = KvB::Whole(&whole);
    group.throughput(Throughput::Bytes(128 * 128 * 512 * 2));
    for rows in [1, 8] {
        let q = buffer(&mut cpu, rows * 128 * 192);
        let mut y = cpu.alloc(rows * 128 * 512).unwrap();
        group.bench_function(BenchmarkId::new("key", rows), |b| {
            b.iter(|| cpu.head_linear(&mut y, black_box(&q), kv_b, HeadSide::Key, &V3, 0..rows));
        });
        let x = buffer(&mut cpu, rows * 128 * 512);
        let mut y = cpu.alloc(rows * 128 * 128).unwrap();
        group.bench_function(BenchmarkId::new("value", rows), |b| {
            b.iter(|| cpu.head_linear(&mut y, black_box(&x), kv_b, HeadSide::Value, &V3, 0..rows));
        });
    }
    group.finish();
}

/// One sequence whose last `rows` tokens are in this step.
fn step(context: usize, rows: usize, n_decode: usize) -> Step {
    let first = context - rows;
    let pages: Vec<PageId> = (0..context.div_ceil(PAGE_TOKENS) as u32).map(PageId).collect();
    Step {
        tokens: vec![TokenId(0); rows],
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

fn mla_decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("mla_decode, one row");
    for (name, shape) in [("16 heads", LITE), ("128 heads", V3)] {
        for context in [512, 4096] {
            let (mut cpu, mut plan) = backend(Activations::Bf16, shape, 1, context);
            cpu.begin(&mut plan, &step(context, 1, 1)).unwrap();
            let cache = buffer(&mut cpu, context * shape.latent_dim());
            let q_latent = buffer(&mut cpu, shape.n_head * shape.kv_lora_rank);
            let q = buffer(&mut cpu, shape.n_head * shape.qk_head_dim());
            let mut o = cpu.alloc(shape.n_head * shape.kv_lora_rank).unwrap();
            group.throughput(Throughput::Bytes((context * shape.latent_dim() * 4) as u64));
            group.bench_function(BenchmarkId::new(name, context), |b| {
                b.iter(|| cpu.mla_decode(&mut o, &q_latent, black_box(&q), &cache, &shape, &plan));
            });
        }
    }
    group.finish();
}

fn mla_prefill(c: &mut Criterion) {
    let mut group = c.benchmark_group("mla_prefill, 16 heads, 128 rows");
    group.sample_size(10);
    for context in [128, 1024] {
        let (mut cpu, mut plan) = backend(Activations::Bf16, LITE, 128, context);
        cpu.begin(&mut plan, &step(context, 128, 0)).unwrap();
        let cache = buffer(&mut cpu, context * LITE.latent_dim());
        let q = buffer(&mut cpu, 128 * 16 * 192);
        let whole = matrix(&mut cpu, DType::Bf16, 16 * 256, 512);
        let kv_b = KvB::Whole(&whole);
        let mut o = cpu.alloc(128 * 16 * 128).unwrap();
        group.throughput(Throughput::Bytes((context * LITE.latent_dim() * 4) as u64));
        group.bench_function(BenchmarkId::from_parameter(context), |b| {
            b.iter(|| cpu.mla_prefill(&mut o, black_box(&q), &cache, kv_b, &LITE, &plan));
        });
    }
    group.finish();
}

fn rule(n_routed_experts: usize, n_group: usize) -> RouteRule {
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

fn experts(c: &mut Criterion) {
    let mut group = c.benchmark_group("experts, 6 of 16, 2048 x 1408");
    let (mut cpu, _) = backend(Activations::Bf16, LITE, 32, 64);
    let mut all =
        |n_out, dim| (0..16).map(|_| matrix(&mut cpu, DType::Bf16, n_out, dim)).collect::<Vec<_>>();
    let weights =
        ExpertWeights { gate: all(1408, 2048), up: all(1408, 2048), down: all(2048, 1408) };
    let gate = matrix(&mut cpu, DType::F32, 16, 2048);
    // One row of the gate is like the next; a bias that differs spreads nothing but makes six experts win.
    let bias = buffer(&mut cpu, 16);
    for rows in [1, 32] {
        let mut routing = cpu.routing(rows, &rule(16, 1)).unwrap();
        let x = buffer(&mut cpu, rows * 2048);
        cpu.route(&mut routing, &x, &gate, Some(&bias), &rule(16, 1), rows);
        let mut y = cpu.alloc(rows * 2048).unwrap();
        group.throughput(Throughput::Bytes(6 * 3 * 2048 * 1408 * 2));
        group.bench_function(BenchmarkId::from_parameter(rows), |b| {
            b.iter(|| cpu.experts(&mut y, None, black_box(&x), &routing, &weights, rows));
        });
    }
    group.finish();
}

fn route(c: &mut Criterion) {
    let mut group = c.benchmark_group("route, 256 experts in 8 groups");
    let (mut cpu, _) = backend(Activations::Bf16, LITE, 32, 64);
    let gate = matrix(&mut cpu, DType::F32, 256, 7168);
    let bias = buffer(&mut cpu, 256);
    for rows in [1, 32] {
        let mut routing = cpu.routing(rows, &rule(256, 8)).unwrap();
        let x = buffer(&mut cpu, rows * 7168);
        group.throughput(Throughput::Bytes(256 * 7168 * 4));
        group.bench_function(BenchmarkId::from_parameter(rows), |b| {
            b.iter(|| {
                cpu.route(&mut routing, black_box(&x), &gate, Some(&bias), &rule(256, 8), rows);
            });
        });
    }
    group.finish();
}

fn sample(c: &mut Criterion) {
    const VOCAB: usize = 129_280;
    let mut group = c.benchmark_group("sample, vocabulary of 129280");
    let (mut cpu, _) = backend(Activations::Bf16, LITE, 1, 64);
    // Spread as a model's: a few likely tokens and a long tail.
    let logits: Vec<f32> = numbers(VOCAB).iter().map(|x| x * x * x * 12.0).collect();
    let mut logits = cpu.vector(&logits).unwrap();
    let mut out = Vec::with_capacity(1);
    let greedy = SampleRow::greedy(0, 7);
    let warm = SampleRow { temperature: 0.8, seed: 1, ..greedy };
    for (name, row) in [
        ("greedy", greedy),
        ("temperature", warm),
        ("min-p 0.05", SampleRow { min_p: 0.05, ..warm }),
        ("top-p 0.95", SampleRow { top_p: 0.95, ..warm }),
        ("top-k 50, top-p 0.9", SampleRow { top_k: 50, top_p: 0.9, ..warm }),
    ] {
        let step = Step {
            samples: vec![row],
            penalty_start: vec![0, 0],
            bias_start: vec![0, 0],
            ..Step::default()
        };
        group.throughput(Throughput::Bytes(VOCAB as u64 * 4));
        group.bench_function(name, |b| {
            b.iter(|| cpu.sample(&mut out, black_box(&mut logits), VOCAB, &step));
        });
    }
    group.finish();
}

criterion_group!(ops, linear, head_linear, mla_decode, mla_prefill, experts, route, sample);
criterion_main!(ops);
