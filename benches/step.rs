//! Whole steps of the demo model, and the scheduler without a model: what a step costs beside its products.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench fails by panicking; its entry is a macro's"
)]

use std::ops::ControlFlow;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hadal_benches::quick;
use hadal_engine::backend::cpu::{Cpu, CpuOptions};
use hadal_engine::cache::pages::PagePool;
use hadal_engine::checkpoint::{Checkpoint, Source};
use hadal_engine::model::Model;
use hadal_engine::sched::Scheduler;
use hadal_engine::step::{PAGE_TOKENS, PageId, SampleRow, Sampled, Slot, Step, TokenId};
use hadal_engine::{Event, Limits, Request, Sampling, Sink};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../checkpoints/sft/demo");

/// `batch` sequences of one page each, the last of whose rows are in this step.
fn step(batch: usize, first: usize, rows: usize, is_decode: bool) -> Step {
    let mut step = Step { row_start: vec![0], page_start: vec![0], ..Step::default() };
    for sequence in 0..batch {
        let pages = (first + rows).div_ceil(PAGE_TOKENS);
        let page = |at: usize| PageId((sequence * pages + at / PAGE_TOKENS) as u32);
        for position in first..first + rows {
            step.tokens.push(TokenId(((sequence * 31 + position * 17) % 2000) as u32));
            step.positions.push(position as u32);
            step.slots.push(Slot::new(page(position), position % PAGE_TOKENS));
        }
        step.row_start.push(step.tokens.len() as u32);
        step.pages.extend((0..pages).map(|at| page(at * PAGE_TOKENS)));
        step.page_start.push(step.pages.len() as u32);
        step.context_len.push((first + rows) as u32);
        let last = step.tokens.len() as u32 - 1;
        step.samples.push(SampleRow::greedy(last, (first + rows) as u32));
    }
    step.n_decode = if is_decode { batch } else { 0 };
    step.penalty_start = vec![0; batch + 1];
    step.bias_start = vec![0; batch + 1];
    step
}

fn forward(c: &mut Criterion) {
    let checkpoint = Checkpoint::open(&Source::Directory(DEMO.into())).unwrap();
    let limits = Limits { context_tokens_max: 512, ..Limits::default() };
    let cpu = Cpu::new(&CpuOptions::default()).unwrap();
    let mut model = Model::load(cpu, &checkpoint, &limits, 64, &mut |_, _| {}).unwrap();
    let mut sampled = Vec::with_capacity(32);
    let mut group = c.benchmark_group("step of the demo model");
    for (name, batch, first, rows) in
        [("decode", 1, 40, 1), ("decode", 8, 40, 1), ("decode", 32, 40, 1), ("prompt", 1, 0, 128)]
    {
        let step = step(batch, first, rows, name == "decode");
        group.throughput(Throughput::Elements(step.n_row() as u64));
        group.bench_function(BenchmarkId::new(name, batch * rows), |b| {
            b.iter(|| model.forward(&step, &mut sampled).unwrap());
        });
    }
    group.finish();
}

/// A reader that takes everything.
struct Everything;

impl Sink for Everything {
    fn emit(&mut self, _: Event) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn is_closed(&self) -> bool {
        false
    }

    fn has_room(&self) -> bool {
        true
    }
}

fn request() -> Request {
    Request {
        tokens: vec![TokenId(1)],
        decode_spans: Vec::new(),
        sampling: Sampling::greedy(),
        max_tokens: 1000,
        stop_tokens: Vec::new(),
        sink: Box::new(Everything),
    }
}

/// `plan` and `commit` of a full batch that decodes.
fn schedule(c: &mut Criterion) {
    let mut group = c.benchmark_group("scheduler");
    for batch in [1, 32] {
        let limits = Limits { sequences_max: batch, context_tokens_max: 1024, ..Limits::default() };
        let n_page = batch * 1024 / PAGE_TOKENS;
        let (mut scheduler, mut pages) = (Scheduler::new(&limits, n_page), PagePool::new(n_page));
        let mut sampled = Vec::with_capacity(batch);
        group.throughput(Throughput::Elements(batch as u64));
        group.bench_function(BenchmarkId::new("plan and commit", batch), |b| {
            b.iter(|| {
                if scheduler.is_idle() {
                    (0..batch).for_each(|_| scheduler.enqueue(request(), 0));
                }
                let step = scheduler.plan(&mut pages, 0).unwrap();
                sampled.clear();
                sampled.extend(step.samples.iter().map(|_| Sampled::Token(TokenId(7))));
                scheduler.commit(step, &sampled, &mut pages, 0);
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = steps;
    config = quick();
    targets = forward, schedule
}
criterion_main!(steps);
