//! What loading takes of memory beside the model's files, as the system counts it: weights that are used where they lie are
//! not copied, and the files' pages of those that are copied go back.
//!
//! The system counts for the whole process, so this test has a binary of its own, with one test in it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "this crate is tests: a panic is how they fail, and what was measured is printed"
)]

use std::path::Path;

use hadal_engine::backend::cpu::{CpuOptions, Residence};
use hadal_engine::checkpoint::{Arena, Quant, Source, Target};
use hadal_engine::{DeviceChoice, Engine, Limits, LoadOptions, MemoryPlan};
use hadal_tests::tiny;

/// Bytes of the process in memory: its own, and those of files.
fn resident() -> (f64, f64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse::<f64>().unwrap() * 1024.0
    };
    (of("RssAnon:"), of("RssFile:"))
}

/// Large pages of which a part may be left, one in each of the chunks that so small a model takes.
const LEFT: f64 = 4.0 * Arena::HUGE_PAGE as f64;

/// Loads, and holds what the process grew by to the plan: memory of its own and of files, each within a tenth of the
/// weights. Scratch and cache are not touched before they are used.
fn check(name: &str, folder: &Path, cpu: &CpuOptions) {
    let source = Source::Directory(folder.to_owned());
    let limits = Limits {
        context_tokens_max: 128,
        sequences_max: 1,
        step_rows_max: 16,
        ..Limits::default()
    };
    let plan = MemoryPlan::of(&source, &limits, cpu).unwrap();
    let options = || LoadOptions {
        limits: limits.clone(),
        cpu: cpu.clone(),
        device: DeviceChoice::Cpu,
        now: Box::new(|| 0),
        on_stats: Box::new(|_| {}),
    };
    // What is made once a process is made before anything is counted.
    Engine::load(&source, options(), &mut |_| {}).unwrap().join();

    let before = resident();
    let engine = Engine::load(&source, options(), &mut |_| {}).unwrap();
    let after = resident();
    let (own, files) = (after.0 - before.0, after.1 - before.1);
    println!("{name}: {own} bytes of its own, {files} of files; {plan:?}");
    let weights = plan.weight_bytes() as f64;
    let beside = (plan.scratch_bytes + plan.cache_bytes) as f64;
    let (encoded, mapped) = (plan.encoded_bytes as f64, plan.mapped_bytes as f64);
    assert!(own > encoded - 0.1 * weights, "{name}: {own} of its own, {encoded} encoded");
    let left = if encoded > 0.0 { LEFT } else { 0.0 };
    let most = encoded + left + beside + 0.1 * weights;
    assert!(own < most, "{name}: {own} of its own, {encoded} encoded");
    assert!((files - mapped).abs() < 0.1 * weights, "{name}: {files} of files, {mapped} mapped");
    engine.join();
}

#[test]
fn mapped_weights_are_not_copied_and_copied_ones_not_kept_twice() {
    let folder = tempfile::tempdir().unwrap();
    // Rows of whole blocks, 16 MB in bf16.
    tiny::write("blocks", folder.path());
    let with = |weights, quant| CpuOptions {
        threads: Some(2),
        weights: Some(weights),
        quant,
        ..CpuOptions::default()
    };
    let q8 = Some(Quant { target: Target::Q8, cache: false });
    check("mapped", folder.path(), &with(Residence::Mapped, None));
    check("resident", folder.path(), &with(Residence::Resident, None));
    check("quantised", folder.path(), &with(Residence::Mapped, q8));
}
