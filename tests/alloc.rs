//! No allocation in a warmed decode batch: plan, forward and commit, on the engine's thread and the compute threads.
//!
//! The allocator counts for the whole process, so this test has a binary of its own, with one test in it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "this crate is tests: a panic is how they fail"
)]

use std::ops::ControlFlow;
use std::path::Path;

use hadal_engine::backend::cpu::{Activations, Cpu, CpuOptions, Residence};
use hadal_engine::cache::pages::PagePool;
use hadal_engine::checkpoint::{Checkpoint, Quant, Source, Target};
use hadal_engine::model::Model;
use hadal_engine::sched::Scheduler;
use hadal_engine::step::Sampled;
use hadal_engine::{Event, Limits, Request, Sampling, Sink, TokenId};
use hadal_tests::counting::{self, Counting};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Takes everything and keeps nothing, as a ring whose reader keeps up.
struct Void;

impl Sink for Void {
    fn emit(&mut self, _event: Event) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
    fn is_closed(&self) -> bool {
        false
    }
    fn has_room(&self) -> bool {
        true
    }
}

const SEQUENCES: usize = 8;
/// Enough for every buffer to have had its largest size, and for pages to have been taken on the way.
const WARM_STEPS: usize = 30;
const COUNTED_STEPS: usize = 140;

fn request(i: usize) -> Request {
    let drawn =
        Sampling { temperature: 0.8, top_k: 40, top_p: 0.9, seed: i as u64, ..Sampling::greedy() };
    Request {
        tokens: (0..3 + i).map(|t| TokenId(5 + (t * 7 + i) as u32 % 300)).collect(),
        decode_spans: Vec::new(),
        sampling: if i.is_multiple_of(2) {
            Sampling::greedy()
        } else {
            Sampling { repetition: 1.1, ..drawn }
        },
        max_tokens: 1000,
        stop_tokens: Vec::new(),
        sink: Box::new(Void),
    }
}

/// Allocations in warmed steps of one model.
fn allocations(case: &str, activations: Activations, waste: usize) -> usize {
    let options = CpuOptions { activations: Some(activations), ..CpuOptions::default() };
    allocations_with(case, &options, waste)
}

/// The same of whole-number inputs on quantised weights.
fn quantised(case: &str, weights: Option<Residence>) -> usize {
    let quant = Some(Quant { target: Target::Q4, cache: false });
    let activations = Some(Activations::Int8);
    let options = CpuOptions { activations, quant, weights, ..CpuOptions::default() };
    allocations_with(case, &options, 0)
}

fn allocations_with(case: &str, options: &CpuOptions, waste: usize) -> usize {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(case);
    let checkpoint = Checkpoint::open(&Source::Directory(folder)).unwrap();
    let limits = Limits {
        context_tokens_max: 256,
        sequences_max: SEQUENCES,
        step_rows_max: 64,
        ..Limits::default()
    };
    let n_page = 64;
    let cpu = Cpu::new(&CpuOptions { threads: Some(2), ..options.clone() }).unwrap();
    let mut model = Model::load(cpu, &checkpoint, &limits, n_page, &mut |_, _| {}).unwrap();
    let mut scheduler = Scheduler::new(&limits, n_page);
    let mut pages = PagePool::new(n_page);
    let mut sampled: Vec<Sampled> = Vec::with_capacity(SEQUENCES);
    (0..SEQUENCES).for_each(|i| scheduler.enqueue(request(i), 0));
    let mut turn = |turn: usize| {
        let step = scheduler.plan(&mut pages, turn as u64).unwrap();
        if turn >= WARM_STEPS {
            assert_eq!(
                (step.n_row(), step.n_decode),
                (SEQUENCES, SEQUENCES),
                "{case}: no decode batch"
            );
        }
        model.forward(&step, &mut sampled).unwrap();
        scheduler.commit(step, &sampled, &mut pages, turn as u64);
        std::hint::black_box(Vec::<u8>::with_capacity(waste));
    };
    (0..WARM_STEPS).for_each(&mut turn);
    counting::allocations(|| (WARM_STEPS..WARM_STEPS + COUNTED_STEPS).for_each(&mut turn)).1
}

#[test]
fn a_warmed_decode_batch_allocates_nothing() {
    // The counter counts: a loop that wastes one allocation a step is seen.
    assert!(allocations("v3-moe-bf16", Activations::F32, 1) >= COUNTED_STEPS);
    for case in ["v3-moe-bf16", "v2-lite-f32", "v3-noqlora-bf16"] {
        for activations in [Activations::F32, Activations::Bf16, Activations::Bf16Rounded] {
            assert_eq!(allocations(case, activations, 0), 0, "{case} {activations:?}");
        }
    }
    for weights in [None, Some(Residence::Mapped)] {
        let case = "v3-realdims";
        assert_eq!(quantised(case, weights), 0, "{case} {weights:?}");
    }
}
