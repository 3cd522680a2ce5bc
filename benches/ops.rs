//! One operation at a time on the CPU backend, with the bytes and operations it needs.
//!
//! Shapes are DeepSeek-V3's and DeepSeek-V2-Lite's, on all processors, with the best instructions there are.
//! `cargo bench -p hadal-benches --bench ops -- linear` runs a part; with `--test` behind `--` everything runs once.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench fails by panicking; its entry is a macro's"
)]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use hadal_benches::{
    LITE, V3, backend, buffer, is_measured, matrix, matrix_of_rows, numbers, quick, rule, step,
    work,
};
use hadal_engine::backend::cpu::{Activations, Cpu, Weight};
use hadal_engine::backend::{
    Backend, ExpertWeights, HeadSide, KvB, MlaShape, RopePairs, RopeTable,
};
use hadal_engine::quant::DType;
use hadal_engine::step::{PAGE_TOKENS, SampleRow, Step};

/// Every format with the inputs it is multiplied with, and what that is called.
fn formats() -> impl Iterator<Item = (DType, Activations, String)> {
    let plain = DType::ALL.map(|dtype| (dtype, Activations::F32));
    let blocks = DType::ALL.into_iter().filter(|dtype| dtype.block_len() > 1);
    let panels = blocks.map(|dtype| (dtype, Activations::Int8));
    let splits = [DType::Bf16, DType::Fp8E4m3]
        .into_iter()
        .flat_map(|dtype| [Activations::Bf16, Activations::Bf16Rounded].map(|form| (dtype, form)));
    let all = plain.into_iter().chain(splits).chain(panels);
    all.map(|(dtype, activations)| {
        let form = match activations {
            Activations::F32 => "",
            Activations::Bf16 => ", pairs",
            Activations::Bf16Rounded => ", rounded",
            Activations::Int8 => ", int8",
        };
        (dtype, activations, format!("{}{form}", dtype.name()))
    })
}

/// A matrix of V2-Lite's attention as often as no cache holds all of them; each product takes the next.
fn linear(c: &mut Criterion) {
    const DIM: usize = 2048;
    const N_OUT: usize = 2048;
    let all_bytes = if is_measured() { 256_usize << 20 } else { 1 };
    let mut group = c.benchmark_group("linear, 2048 x 2048");
    let made = formats().map(|(dtype, form, name)| (dtype, form, name, false));
    let blocks = DType::ALL.into_iter().filter(|dtype| dtype.block_len() > 1);
    let lying = blocks.map(|dtype| {
        (dtype, Activations::Int8, format!("{}, int8, as it lies", dtype.name()), true)
    });
    for (dtype, activations, name, lies) in made.chain(lying) {
        let (mut cpu, _) = backend(activations, LITE, 512, 64);
        let n_byte = N_OUT * dtype.row_bytes(DIM).unwrap();
        let n_weight = all_bytes.div_ceil(n_byte);
        let make = if lies { matrix_of_rows } else { matrix };
        let weights: Vec<Weight> =
            (0..n_weight).map(|_| make(&mut cpu, dtype, N_OUT, DIM)).collect();
        for rows in [1, 4, 16, 128, 512] {
            let x = buffer(&mut cpu, rows * DIM);
            let mut y = cpu.alloc(1, rows * N_OUT, hadal_engine::backend::Role::Inner).unwrap();
            let mut next = weights.iter().cycle();
            group.throughput(work(n_byte, 2 * rows * N_OUT * DIM));
            group.bench_function(BenchmarkId::new(&name, rows), |b| {
                b.iter(|| cpu.linear(&mut y, black_box(&x), next.next().unwrap(), rows));
            });
        }
    }
    group.finish();
}

/// V2-Lite's experts. Bytes are those of the experts that the rows touch.
fn experts(c: &mut Criterion) {
    const D: usize = 2048;
    // 1408 is no multiple of 256, which K-quants want.
    const M: usize = 1536;
    // All 64 take 2.4 GB in f32.
    let n_expert = if is_measured() { 64 } else { 8 };
    let mut group = c.benchmark_group("experts, 6 of 64, 2048 x 1536");
    for (dtype, activations, name) in formats() {
        let (mut cpu, _) = backend(activations, LITE, 32, 64);
        let mut all =
            |n_out, dim| (0..n_expert).map(|_| matrix(&mut cpu, dtype, n_out, dim)).collect();
        let weights: ExpertWeights<Weight> =
            ExpertWeights { gate: all(M, D), up: all(M, D), down: all(D, M) };
        let gate = spread_gate(&mut cpu, n_expert, D);
        let expert_bytes = 2 * M * dtype.row_bytes(D).unwrap() + D * dtype.row_bytes(M).unwrap();
        for rows in [1, 4, 16, 32] {
            let mut routing = cpu.routing(rows, &rule(n_expert, 1)).unwrap();
            let x = buffer(&mut cpu, rows * D);
            cpu.route(&mut routing, &x, &gate, None, &rule(n_expert, 1), rows);
            let touched = cpu.touched(&routing) as usize;
            let mut y = cpu.alloc(1, rows * D, hadal_engine::backend::Role::Inner).unwrap();
            group.throughput(work(touched * expert_bytes, rows * 6 * 3 * 2 * D * M));
            group.bench_function(BenchmarkId::new(&name, rows), |b| {
                b.iter(|| cpu.experts(&mut y, None, black_box(&x), &routing, &weights, rows));
            });
        }
    }
    group.finish();
}

/// A router whose rows differ, so that rows spread over the experts.
fn spread_gate(cpu: &mut Cpu, n_expert: usize, dim: usize) -> Weight {
    use hadal_engine::checkpoint::{Bytes, Tensor};
    let bytes = numbers(n_expert * dim).iter().flat_map(|x| x.to_le_bytes()).collect();
    let (bytes, shape) = (Bytes::owned(bytes), vec![n_expert, dim]);
    let tensor = Tensor { name: "gate".into(), dtype: DType::F32, shape, bytes, scales: None };
    cpu.weight(&tensor, hadal_engine::backend::Use::Product).unwrap()
}

fn route(c: &mut Criterion) {
    let mut group = c.benchmark_group("route, 256 experts in 8 groups");
    let (mut cpu, _) = backend(Activations::Bf16, LITE, 32, 64);
    let gate = spread_gate(&mut cpu, 256, 7168);
    let bias = buffer(&mut cpu, 256);
    for rows in [1, 32] {
        let mut routing = cpu.routing(rows, &rule(256, 8)).unwrap();
        let x = buffer(&mut cpu, rows * 7168);
        group.throughput(work(256 * 7168 * 4, 2 * rows * 256 * 7168));
        group.bench_function(BenchmarkId::from_parameter(rows), |b| {
            b.iter(|| {
                cpu.route(&mut routing, black_box(&x), &gate, Some(&bias), &rule(256, 8), rows);
            });
        });
    }
    group.finish();
}

fn head_linear(c: &mut Criterion) {
    let mut group = c.benchmark_group("head_linear, V3");
    for (dtype, activations, name) in formats() {
        let (mut cpu, _) = backend(activations, V3, 8, 64);
        let whole = matrix_of_rows(&mut cpu, dtype, 128 * 256, 512);
        let kv_b = KvB::Whole(&whole);
        let half = 128 * 128 * dtype.row_bytes(512).unwrap();
        for rows in [1, 8] {
            group.throughput(work(half, 2 * rows * 128 * 128 * 512));
            let q = buffer(&mut cpu, rows * 128 * 192);
            let mut y = cpu.alloc(1, rows * 128 * 512, hadal_engine::backend::Role::Inner).unwrap();
            group.bench_function(BenchmarkId::new(format!("key, {name}"), rows), |b| {
                b.iter(|| {
                    cpu.head_linear(&mut y, black_box(&q), kv_b, HeadSide::Key, &V3, 0..rows);
                });
            });
            let x = buffer(&mut cpu, rows * 128 * 512);
            let mut y = cpu.alloc(1, rows * 128 * 128, hadal_engine::backend::Role::Inner).unwrap();
            group.bench_function(BenchmarkId::new(format!("value, {name}"), rows), |b| {
                b.iter(|| {
                    cpu.head_linear(&mut y, black_box(&x), kv_b, HeadSide::Value, &V3, 0..rows);
                });
            });
        }
    }
    group.finish();
}

fn mla_decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("mla_decode, one row");
    for (name, shape) in [("16 heads", LITE), ("128 heads", V3)] {
        for context in [512, 4096] {
            let (mut cpu, mut plan) = backend(Activations::Bf16, shape, 1, context);
            cpu.begin(&mut plan, &step(context, 1, 1), hadal_engine::backend::Watch::Outcome)
                .unwrap();
            let cache = cpu.cache(&shape, context.div_ceil(PAGE_TOKENS)).unwrap();
            let q_latent = buffer(&mut cpu, shape.n_head * shape.kv_lora_rank);
            let q = buffer(&mut cpu, shape.n_head * shape.qk_head_dim());
            let mut o = cpu
                .alloc(1, shape.n_head * shape.kv_lora_rank, hadal_engine::backend::Role::Inner)
                .unwrap();
            let per_key = 2 * shape.n_head * (2 * shape.kv_lora_rank + shape.qk_rope_head_dim);
            group.throughput(work(context * cpu.cache_row_bytes(&shape), context * per_key));
            group.bench_function(BenchmarkId::new(name, context), |b| {
                b.iter(|| cpu.mla_decode(&mut o, &q_latent, black_box(&q), &cache, &shape, &plan));
            });
        }
    }
    group.finish();
}

/// Operations are those of scores and values, and of expanding each latent once.
fn mla_prefill(c: &mut Criterion) {
    const ROWS: usize = 128;
    let mut group = c.benchmark_group("mla_prefill, 16 heads, 128 rows");
    for context in [128, 1024] {
        let (mut cpu, mut plan) = backend(Activations::Bf16, LITE, ROWS, context);
        cpu.begin(&mut plan, &step(context, ROWS, 0), hadal_engine::backend::Watch::Outcome)
            .unwrap();
        let cache = cpu.cache(&LITE, context.div_ceil(PAGE_TOKENS)).unwrap();
        let q = buffer(&mut cpu, ROWS * 16 * 192);
        let whole = matrix_of_rows(&mut cpu, DType::Bf16, 16 * 256, 512);
        let kv_b = KvB::Whole(&whole);
        let mut o = cpu.alloc(1, ROWS * 16 * 128, hadal_engine::backend::Role::Inner).unwrap();
        let pairs = ROWS * (context - ROWS) + ROWS * (ROWS + 1) / 2;
        let flops = 2 * 16 * (192 + 128) * pairs + 2 * 16 * 256 * 512 * context;
        group.throughput(work(context * cpu.cache_row_bytes(&LITE) + 16 * 256 * 512 * 2, flops));
        group.bench_function(BenchmarkId::from_parameter(context), |b| {
            b.iter(|| cpu.mla_prefill(&mut o, black_box(&q), &cache, kv_b, &LITE, &plan));
        });
    }
    group.finish();
}

/// What is neither a product nor attention. Bytes are read and written; operations are about one a number.
fn small(c: &mut Criterion) {
    const D: usize = 7168;
    let mut group = c.benchmark_group("small, V3");
    for rows in [1, 32] {
        let (mut cpu, mut plan) = backend(Activations::Bf16, V3, rows, 64.max(rows));
        let n = rows * D;
        let samples = (0..rows as u32).map(|row| SampleRow::greedy(row, 64)).collect();
        cpu.begin(
            &mut plan,
            &Step { samples, ..step(64.max(rows), rows, 0) },
            hadal_engine::backend::Watch::Outcome,
        )
        .unwrap();
        let table = matrix_of_rows(&mut cpu, DType::Bf16, 4096, D);
        let (norm, latent_norm) = (buffer(&mut cpu, D), buffer(&mut cpu, 512));
        let (mut x, delta, mut y) = (
            buffer(&mut cpu, n),
            buffer(&mut cpu, n),
            cpu.alloc(1, n, hadal_engine::backend::Role::Inner).unwrap(),
        );
        let mut row = |name: &str, bytes: usize, flops: usize, run: &mut dyn FnMut()| {
            group.throughput(work(bytes, flops));
            group.bench_function(BenchmarkId::new(name, rows), |b| b.iter(&mut *run));
        };
        row("embed", n * 6, n, &mut || cpu.embed(&mut y, &table, &plan));
        row("rms_norm", n * 8, 3 * n, &mut || cpu.rms_norm(&mut y, &x, &norm, 1e-6, rows));
        row("add_rms_norm", n * 16, 4 * n, &mut || {
            cpu.add_rms_norm(&mut y, &mut x, &delta, &norm, 1e-6, rows);
        });
        row("swiglu", n * 12, 4 * n, &mut || cpu.swiglu(&mut y, &x, &delta, D, rows));
        row("gather_rows", n * 8, n, &mut || cpu.gather_rows(&mut y, &x, D, &plan));
        let rope = RopeTable {
            cos: buffer(&mut cpu, 64.max(rows) * 32),
            sin: buffer(&mut cpu, 64.max(rows) * 32),
            pairs: RopePairs::Neighbours,
        };
        let (mut q, kv) = (buffer(&mut cpu, rows * 128 * 192), buffer(&mut cpu, rows * 576));
        let n_turned = rows * 128 * 64;
        row("rope", n_turned * 8, 3 * n_turned, &mut || cpu.rope(&mut q, &rope, &V3, &plan));
        let mut cache = cpu.cache(&V3, rows.div_ceil(PAGE_TOKENS)).unwrap();
        row("cache_store", rows * 576 * 6, rows * 576 * 3, &mut || {
            cpu.cache_store(&mut cache, &kv, &latent_norm, 1e-6, &rope, &V3, &plan);
        });
        let own = MlaShape { n_k_pe: 128, ..V3 };
        let mut cache = cpu.cache(&own, rows.div_ceil(PAGE_TOKENS)).unwrap();
        row("cache_store_heads", rows * own.latent_dim() * 6, rows * own.latent_dim(), &mut || {
            cpu.cache_store_heads(&mut cache, &kv, &q, &own, &plan);
        });
    }
    group.finish();
}

fn sample(c: &mut Criterion) {
    const VOCAB: usize = 129_280;
    let mut group = c.benchmark_group("sample, vocabulary of 129280");
    let (mut cpu, plan) = backend(Activations::Bf16, LITE, 1, 64);
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
        group.throughput(work(VOCAB * 4, VOCAB));
        group.bench_function(name, |b| {
            b.iter(|| cpu.sample(&mut out, black_box(&mut logits), VOCAB, &plan, &step).unwrap());
        });
    }
    group.finish();
}

criterion_group! {
    name = ops;
    config = quick();
    targets = linear, experts, route, head_linear, mla_decode, mla_prefill, small, sample
}
criterion_main!(ops);
