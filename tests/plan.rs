//! A plan against the load it predicts: the engine's own account, the heap as an allocator counts it, and the files.
//! Resident weights are no part of the heap: their bytes are held to what their shapes say.
//!
//! The allocator counts for the whole process, so this test has a binary of its own, with one test in it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "this crate is tests: a panic is how they fail, and what was measured is printed"
)]

use std::path::{Path, PathBuf};

use hadal_engine::backend::cpu::{CpuOptions, Isa};
use hadal_engine::checkpoint::{Quant, Source, Target};
use hadal_engine::text::Text;
use hadal_engine::{Engine, Limits, LoadOptions, MemoryPlan};
use hadal_tests::counting::{self, Counting};
use hadal_tests::tiny;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that what `make` gives keeps on the heap.
fn kept<T>(make: impl FnOnce() -> T) -> (T, f64) {
    let before = counting::held();
    let made = make();
    (made, counting::held() as f64 - before as f64)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn options(limits: &Limits, cpu: &CpuOptions) -> LoadOptions {
    LoadOptions {
        limits: limits.clone(),
        cpu: cpu.clone(),
        device: hadal_engine::DeviceChoice::Cpu,
        now: Box::new(|| 0),
        on_stats: Box::new(|_| {}),
    }
}

#[track_caller]
fn within(what: &str, planned: u64, measured: f64, share: f64) {
    let off = (planned as f64 - measured) / measured;
    println!("{what}: planned {planned}, measured {measured}, {:+.2} %", 100.0 * off);
    assert!(off.abs() < share, "{what}: planned {planned}, measured {measured}");
}

/// Plans, loads, compares.
fn check(name: &str, folder: &Path, limits: &Limits, cpu: &CpuOptions) {
    let source = Source::Directory(folder.to_owned());
    let plan = MemoryPlan::of(&source, limits, cpu).unwrap();
    // What is made once a process (thread-local buffers, name tables) is made before anything is counted.
    Engine::load(&source, options(limits, cpu), &mut |_| {}).unwrap().join();

    let (mut engine, heap) =
        kept(|| Engine::load(&source, options(limits, cpu), &mut |_| {}).unwrap());
    let files = std::mem::take(&mut engine.text);
    let (text, text_heap) = kept(|| Text::open(&files).unwrap());
    let file_bytes = [&files.tokenizer, &files.tokenizer_config]
        .into_iter()
        .flatten()
        .map(Vec::len)
        .sum::<usize>()
        + files.chat_template.as_ref().map_or(0, String::len);
    let (sixteen, twelve) = if cpu.quant.is_none() { narrowed(folder) } else { (0, 0) };
    let mapped = match cpu.quant {
        None => stored_bytes(folder) as u64 - sixteen,
        Some(_) => plan.mapped_bytes,
    };
    assert_eq!(mapped, plan.mapped_bytes, "{name}: the files' own bytes");
    let info = &engine.info;
    assert_eq!(
        (info.weight_bytes, info.cache_bytes, info.scratch_bytes, info.n_page),
        (plan.weight_bytes(), plan.cache_bytes, plan.scratch_bytes, plan.n_page),
        "{name}: the engine's own account"
    );
    let target = cpu.quant.map(|quant| quant.target);
    let resident = target.map_or(twelve, |target| resident_bytes(folder, target));
    assert_eq!(plan.encoded_bytes, resident, "{name}: resident weights under {target:?}");
    let planned = plan.copied_bytes + plan.cache_bytes + plan.scratch_bytes;
    within(&format!("{name}: heap"), planned, heap - file_bytes as f64, 0.02);
    let taken = heap - file_bytes as f64 + text_heap;
    within(&format!("{name}: text"), plan.text_bytes, text_heap, 0.15);
    let all = taken + (mapped + resident) as f64;
    within(&format!("{name}: all"), plan.needed_bytes(), all, 0.02);
    drop(text);
    engine.join();
}

/// Bytes of the matrices that an ordinary pass uses, through the reference reader of the format.
fn stored_bytes(folder: &Path) -> usize {
    let mut bytes = 0;
    each_matrix(folder, |_, view| bytes += view.data().len());
    bytes
}

/// Whether only products read it, and whether it expands the latent, of which attention reads single rows.
fn is_product(name: &str) -> (bool, bool) {
    let projection = name.contains("layers.") && name.ends_with("_proj.weight")
        || name.ends_with("kv_a_proj_with_mqa.weight");
    (projection || name == "lm_head.weight", name.ends_with("kv_b_proj.weight"))
}

/// Bytes of those that are kept in twelve bits a number, as they are stored and as they are kept: of bf16, an eighth smaller at
/// least, in panels of sixteen rows with a table of 64 bytes, 3,072 bytes for every 128 numbers of them.
fn narrowed(folder: &Path) -> (u64, u64) {
    let (mut sixteen, mut twelve) = (0, 0);
    let is_there = Isa::Avx2.is_available();
    each_matrix(folder, |name, view| {
        let (n_out, dim) = (view.shape()[0], view.shape()[1]);
        let kept = n_out.div_ceil(16) * (64 + dim.div_ceil(128) * 3072);
        let is_bf16 = is_there && view.dtype() == safetensors::Dtype::BF16;
        if is_bf16 && is_product(name) == (true, false) && 8 * kept <= 7 * view.data().len() {
            sixteen += view.data().len() as u64;
            twelve += kept as u64;
        }
    });
    (sixteen, twelve)
}

/// Bytes of those that become blocks: whole panels of sixteen rows and 64 numbers, but rows as they are where attention
/// reads single ones.
fn resident_bytes(folder: &Path, target: Target) -> u64 {
    let mut bytes = 0;
    each_matrix(folder, |name, view| {
        let (n_out, dim) = (view.shape()[0], view.shape()[1]);
        let (product, expansion) = is_product(name);
        let head = name == "lm_head.weight";
        let eighths = if target == Target::Q4 && !head && !expansion { 36 } else { 68 };
        let stored = view.data().len() * 64 / (n_out * dim);
        let kept = expansion && view.dtype() == safetensors::Dtype::BF16;
        if !product || !dim.is_multiple_of(32) || stored <= eighths || kept {
            return;
        }
        let (n_out, dim) = if expansion {
            (n_out, dim)
        } else {
            (n_out.next_multiple_of(16), dim.next_multiple_of(64))
        };
        bytes += (n_out * dim * eighths / 64) as u64;
    });
    bytes
}

/// Name and view of every matrix that an ordinary pass uses, through the reference reader of the format.
fn each_matrix(folder: &Path, mut each: impl FnMut(&str, &safetensors::tensor::TensorView<'_>)) {
    let config = std::fs::read(folder.join("config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    // The layer behind the last one predicts a token ahead; an ordinary pass leaves it alone.
    let mtp = format!("model.layers.{}.", config["num_hidden_layers"]);
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with("golden") || !name.ends_with(".safetensors") {
            continue;
        }
        let file = std::fs::read(&path).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
        let used = tensors
            .iter()
            .filter(|(name, view)| view.shape().len() == 2 && !name.starts_with(&mtp));
        used.for_each(|(name, view)| each(name, &view));
    }
}

#[test]
fn a_plan_is_within_two_percent_of_what_loading_takes() {
    let made = tempfile::tempdir().unwrap();
    tiny::write("tiny", made.path());
    let golden = |case: &str| root().join("tests/golden").join(case);
    let models = [
        ("v3-moe-f32", golden("v3-moe-f32")),
        ("v3-fp8", golden("v3-fp8")),
        ("v2-lite-bf16", golden("v2-lite-bf16")),
        ("v3-yarn-bf16", golden("v3-yarn-bf16")),
        ("demo", root().join("checkpoints/sft/demo")),
        ("tiny", made.path().to_owned()),
    ];
    for (name, folder) in models {
        for (context, sequences, threads) in [(4096, 32, 2), (128, 1, 1), (200, 8, 3)] {
            let limits = Limits {
                context_tokens_max: context,
                sequences_max: sequences,
                ..Limits::default()
            };
            let cpu = CpuOptions { threads: Some(threads), ..CpuOptions::default() };
            check(name, &folder, &limits, &cpu);
            for target in [Target::Q8, Target::Q4] {
                let quant = Some(Quant { target, cache: false });
                check(name, &folder, &limits, &CpuOptions { quant, ..cpu.clone() });
            }
        }
    }
    // A plan of another size must not pass: the comparison compares.
    let demo = root().join("checkpoints/sft/demo");
    let [plain, larger] = [64, 80].map(|rows| Limits { step_rows_max: rows, ..Limits::default() });
    let of = |limits: &Limits| {
        let source = Source::Directory(demo.clone());
        MemoryPlan::of(&source, limits, &CpuOptions::default()).unwrap().scratch_bytes as f64
    };
    assert!(of(&larger) > 1.02 * of(&plain));
}
