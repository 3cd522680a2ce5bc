//! What kernels move on the simulated cards, against `budget.toml`; and that the gate refuses kernels made worse.
//!
//! The counts are left in `target/tmp/kernel-counters.tsv` for `cargo xtask budget` and `docs/kernels.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use cuda_sim::{Class, Counters};
use hadal_kernels::check::{Measure, Shrink, Traffic, measures};
use hadal_kernels::geometry::fits;
use hadal_kernels::{Card, Kernel};
use toml_edit::{DocumentMut, Item};

use crate::sim::SimCard;

/// How far a kernel may be from what it should do.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Sectors over the least that could hold the same requests, and bytes over what was counted by hand.
    sectors: f64,
    bytes: f64,
    /// Passes over shared memory's banks over passes without conflicts.
    wavefronts: f64,
    /// Warp instructions a tensor-core instruction, where the kernel has tensor-core instructions and a budget.
    instructions_per_mma: Option<f64>,
}

/// What `budget.toml` says about a kernel.
fn own<'a>(budget: &'a DocumentMut, kernel: Kernel, name: &str) -> Option<&'a Item> {
    budget.get("kernels")?.get(kernel.entry())?.get(name)
}

fn limits(budget: &DocumentMut, kernel: Kernel) -> Limits {
    let number = |name: &str| {
        let value = own(budget, kernel, name).unwrap_or_else(|| &budget["limits"][name]);
        value.as_float().unwrap_or_else(|| panic!("budget.toml: `{name}` is a number with a point"))
    };
    Limits {
        sectors: number("sectors"),
        bytes: number("bytes"),
        wavefronts: number("wavefronts"),
        instructions_per_mma: own(budget, kernel, "instructions_per_mma").and_then(Item::as_float),
    }
}

/// Everything that is over its limit.
fn over(counters: &Counters, traffic: &Traffic, limits: Limits) -> Vec<String> {
    let c = counters;
    let mma = c.instructions(Class::Mma);
    let per_mma = limits.instructions_per_mma.filter(|_| mma > 0).unwrap_or(f64::INFINITY);
    let ratios = [
        ("sectors read", c.global_read_sectors, c.global_read_sectors_ideal, limits.sectors),
        ("sectors written", c.global_write_sectors, c.global_write_sectors_ideal, limits.sectors),
        ("bytes read", c.global_read_sectors * 32, traffic.read_bytes, limits.bytes),
        ("bytes written", c.global_write_sectors * 32, traffic.write_bytes, limits.bytes),
        ("shared passes", c.shared_wavefronts, c.shared_wavefronts_ideal, limits.wavefronts),
        ("instructions per mma", c.instructions_total(), mma, per_mma),
    ];
    let mut over = Vec::new();
    for (what, got, ideal, limit) in ratios {
        if limit.is_finite() && got as f64 > limit * ideal as f64 {
            let ratio = got as f64 / ideal.max(1) as f64;
            over.push(format!("{what}: {got} over {ideal}, {ratio:.3}, the limit is {limit}"));
        }
    }
    if traffic.is_mma != (mma > 0) {
        over.push(format!("{mma} tensor-core instructions"));
    }
    if c.local_bytes > 0 {
        over.push(format!("{} bytes of local memory", c.local_bytes));
    }
    over
}

fn run(measure: &Measure, card: &mut SimCard) -> Counters {
    let (entry, key) = (measure.kernel.entry(), card.key());
    if let Err(failure) = measure.run(card) {
        panic!("{entry}, {key}: {failure}");
    }
    let ran = card.counters.get(&measure.kernel);
    ran.unwrap_or_else(|| panic!("{entry}, {key}: its measure launches others")).clone()
}

fn budget() -> DocumentMut {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("budget.toml");
    std::fs::read_to_string(path).unwrap().parse().unwrap()
}

/// One line a kernel and card, and one a kernel and model.
fn line(measure: &Measure, card: &SimCard, counters: &Counters) -> String {
    let (c, t, grid) = (counters, &measure.traffic, card.grids[&measure.kernel]);
    format!(
        "run\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\n",
        measure.kernel.entry(),
        card.key(),
        measure.shape,
        grid.threads,
        grid.shared_bytes,
        c.blocks,
        c.global_read_sectors * 32,
        t.read_bytes,
        c.global_write_sectors * 32,
        t.write_bytes,
        c.shared_wavefronts,
        c.shared_wavefronts_ideal,
        c.barriers,
        c.instructions_total(),
        c.instructions(Class::Mma),
    )
}

#[test]
#[cfg_attr(not(have_test_kernels), ignore = "no test images: tools/cuda-toolchain.sh makes nvcc")]
fn kernels_move_what_they_should() {
    let budget = budget();
    let measures = measures();
    let (mut lines, mut complaints) = (String::new(), Vec::new());
    for measure in &measures {
        for mut card in SimCard::all().filter(|card| fits(measure.kernel, &card.caps())) {
            let counters = run(measure, &mut card);
            lines += &line(measure, &card, &counters);
            for what in over(&counters, &measure.traffic, limits(&budget, measure.kernel)) {
                complaints.push(format!("{}, {}: {what}", measure.kernel.entry(), card.key()));
            }
        }
        for model in &measure.models {
            let (model, t) = (model.name, &model.traffic);
            let (entry, is_mma) = (measure.kernel.entry(), u8::from(t.is_mma));
            let _ = writeln!(
                lines,
                "model\t{entry}\t{model}\t{}\t{}\t{is_mma}",
                t.memory_bytes, t.flops
            );
        }
    }
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernel-counters.tsv");
    std::fs::write(out, lines).unwrap();
    assert!(complaints.is_empty(), "over budget:\n{}", complaints.join("\n"));
}

#[test]
fn every_kernel_is_measured_or_says_why_not() {
    let budget = budget();
    let measures = measures();
    let measured: BTreeSet<&str> = measures.iter().map(|measure| measure.kernel.entry()).collect();
    for kernel in Kernel::ALL {
        let reason = own(&budget, *kernel, "unmeasured").and_then(Item::as_str);
        let (is_measured, is_excused) = (measured.contains(kernel.entry()), reason.is_some());
        assert!(is_measured != is_excused, "`{}`: {reason:?}", kernel.entry());
    }
}

/// What a real card is timed with, at a size that a simulated one can bear.
#[test]
#[cfg_attr(not(have_test_kernels), ignore = "no test images: tools/cuda-toolchain.sh makes nvcc")]
fn shapes_of_models_are_launched() {
    for measure in &measures() {
        let mut card = SimCard::all().find(|card| fits(measure.kernel, &card.caps())).unwrap();
        for model in measure.models.iter().filter(|model| model.is_launched()) {
            let what = format!("{}, {}", measure.kernel.entry(), model.name);
            let seconds = measure.time_model(&mut card, 2, model, Shrink(64));
            assert_eq!(seconds.as_ref().map_err(ToString::to_string), Ok(&Some(0.5)), "{what}");
        }
    }
}

/// PTX of a source in `tests/worse`, for the oldest target.
fn worse(name: &str) -> Option<String> {
    let nvcc = option_env!("HADAL_NVCC")?;
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.ptx"));
    let made = Command::new(nvcc)
        .args(["--ptx", "-O3", "-std=c++17", "-gencode=arch=compute_80,code=compute_80", "-I"])
        .arg(package.join("include"))
        .arg(package.join(format!("tests/worse/{name}.cu")))
        .arg("-o")
        .arg(&out)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    Some(std::fs::read_to_string(out).unwrap())
}

#[test]
#[cfg_attr(not(have_test_kernels), ignore = "no test images: tools/cuda-toolchain.sh makes nvcc")]
fn the_gate_refuses_kernels_made_worse() {
    let ptx = worse("gaps").unwrap();
    let budget = budget();
    let mut found: BTreeMap<Kernel, Vec<String>> = BTreeMap::new();
    for measure in measures() {
        if [Kernel::Embed, Kernel::PageCopy].contains(&measure.kernel) {
            let mut card = SimCard::all().next().unwrap();
            card.replace(measure.kernel.family(), &ptx);
            let counters = run(&measure, &mut card);
            let limits = limits(&budget, measure.kernel);
            found.insert(measure.kernel, over(&counters, &measure.traffic, limits));
        }
    }
    let text = |kernel: Kernel| found[&kernel].join("; ");
    assert!(text(Kernel::Embed).contains("sectors written"), "{found:?}");
    assert!(text(Kernel::Embed).contains("bytes written"), "{found:?}");
    assert!(text(Kernel::PageCopy).contains("shared passes"), "{found:?}");
}
