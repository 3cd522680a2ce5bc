//! `cargo xtask budget`: the build of every kernel for every target, held to `kernels/budget.toml`.
//!
//! Two halves. What ptxas made is read here, out of the images that would ship: registers, stack, spills, instructions, blocks
//! a multiprocessor. What a kernel moves is counted by the simulated cards in the kernels' own tests, which hold it to the
//! same file; this command runs them first. Both end in `docs/kernels.md`.

mod counters;
mod images;
mod occupancy;
mod report;
mod sass;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use toml_edit::{DocumentMut, InlineTable, Item, Table, value};

use crate::{Result, Words};
use counters::Counters;
use occupancy::{TARGETS, Target};
use sass::{Function, Functions};

/// Warp instructions for each tensor-core instruction.
const PER_MMA: &str = "instructions_per_mma";

/// Everything that is known about the kernels of this build.
#[derive(Default)]
struct Evidence {
    /// Families in order, with their kernels in order.
    families: Vec<(String, Vec<String>)>,
    functions: Functions,
    counters: Counters,
    /// Families whose tested image is not of the text that ships, and where.
    strangers: Vec<String>,
}

/// Checks the budget and the table in the documentation, or writes both.
pub(crate) fn run(root: &Path, args: &[String]) -> Result<()> {
    let words = Words::read(args, &["--write"])?;
    let path = root.join("kernels/budget.toml");
    let mut budget = parse(&read(&path)?)?;
    let is_written = words.flag("--write").is_some();
    let evidence = if is_written { gather_anew(root, &path)? } else { gather(root)? };
    if is_written {
        take(&mut budget, &evidence);
        write(&path, &budget.to_string())?;
    }
    let complaints = check(&budget, &evidence);
    for complaint in &complaints {
        println!("{complaint}");
    }
    if !complaints.is_empty() {
        return Err(format!("{} over budget", complaints.len()));
    }
    println!("{} kernels for {} targets are in their budget", evidence.n_kernel(), TARGETS.len());
    document(root, &budget, &evidence, is_written)
}

/// `cargo xtask roofline`: writes `docs/kernels.md`.
pub(crate) fn roofline(root: &Path) -> Result<()> {
    let budget = parse(&read(&root.join("kernels/budget.toml"))?)?;
    document(root, &budget, &gather(root)?, true)
}

fn document(
    root: &Path,
    budget: &DocumentMut,
    evidence: &Evidence,
    is_written: bool,
) -> Result<()> {
    let mut heads = Vec::new();
    for (family, _) in &evidence.families {
        heads.push(report::head(&read(&root.join(format!("kernels/cuda/{family}.cu")))?));
    }
    let text = report::page(budget, evidence, &heads);
    let path = root.join("docs/kernels.md");
    if is_written {
        return write(&path, &text);
    }
    if read(&path)? == text {
        return Ok(());
    }
    Err("docs/kernels.md is not what this build gives: `cargo xtask roofline`".into())
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|problem| format!("{}: {problem}", path.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(|problem| format!("{}: {problem}", path.display()))
}

fn parse(text: &str) -> Result<DocumentMut> {
    text.parse().map_err(|problem| format!("kernels/budget.toml: {problem}"))
}

/// The same where the counts are to become the budget: they are not held to the one that they replace.
fn gather_anew(root: &Path, path: &Path) -> Result<Evidence> {
    let before = read(path)?;
    let mut free = parse(&before)?;
    let rows = free.get_mut("kernels").and_then(Item::as_table_mut);
    for (_, row) in rows.into_iter().flat_map(Table::iter_mut) {
        if let Some(row) = row.as_table_mut() {
            row.remove(PER_MMA);
        }
    }
    write(path, &free.to_string())?;
    let evidence = gather(root);
    write(path, &before)?;
    evidence
}

/// Builds the images that ship, runs the tests that count, and reads what came of both.
fn gather(root: &Path) -> Result<Evidence> {
    let cargo = |args: &[&str]| -> Result<()> {
        let mut command = Command::new("cargo");
        let status = command.args(args).current_dir(root).env("REQUIRE_CUDA", "1").status();
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("cargo {}: {status}", args.join(" "))),
            Err(problem) => Err(format!("cargo: {problem}")),
        }
    };
    cargo(&["build", "--quiet", "--release", "--package", "hadal-kernels"])?;
    cargo(&["test", "--quiet", "--package", "hadal-kernels", "--test", "all", "counters::"])?;
    let counters = counters::read(&read(&root.join("target/tmp/kernel-counters.tsv"))?)?;
    let own = root.join(".cuda-toolchain/bin/cuobjdump");
    let cuobjdump = if own.exists() { own } else { PathBuf::from("cuobjdump") };
    let mut evidence = Evidence { counters, ..Evidence::default() };
    let tested = manifest(root, "test")?;
    for (family, image) in manifest(root, "release")? {
        let found = sass::read(&cuobjdump, &image)?;
        let twin = tested.iter().find(|(other, _)| *other == family);
        let twin = twin.ok_or_else(|| format!("{family}: no image that is tested"))?;
        if let Some(what) = images::difference(&cuobjdump, &twin.1, &image)? {
            evidence.strangers.push(format!("{family}: {what}"));
        }
        let kernels: BTreeSet<String> = found.keys().map(|(kernel, _)| kernel.clone()).collect();
        evidence.families.push((family, kernels.into_iter().collect()));
        evidence.functions.extend(found);
    }
    Ok(evidence)
}

/// Families and their images, as the build script leaves them.
fn manifest(root: &Path, kind: &str) -> Result<Vec<(String, PathBuf)>> {
    let text = read(&root.join(format!("target/kernels/{kind}/manifest.txt")))?;
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    Ok(lines.map(|(family, image)| (family.to_owned(), PathBuf::from(image))).collect())
}

impl Evidence {
    fn kernels(&self) -> impl Iterator<Item = &String> {
        self.families.iter().flat_map(|(_, kernels)| kernels)
    }

    fn n_kernel(&self) -> usize {
        self.kernels().count()
    }

    fn function(&self, kernel: &str, target: &Target) -> Option<&Function> {
        self.functions.get(&(kernel.to_owned(), target.name.to_owned()))
    }

    /// Blocks of a kernel on a multiprocessor, at the geometry of its measure; none where it is not measured there.
    fn blocks(&self, kernel: &str, target: &Target) -> Option<u32> {
        let function = self.function(kernel, target)?;
        let run = self.counters.runs.get(&(kernel.to_owned(), target.card.to_owned()))?;
        let shared = function.shared + run.shared_bytes;
        Some(target.blocks(run.threads, function.registers, shared))
    }
}

impl Evidence {
    /// Warp instructions for each tensor-core instruction, on the worst card.
    fn instructions_per_mma(&self, kernel: &str) -> Option<f64> {
        let runs =
            self.counters.runs.iter().filter(|((name, _), run)| name == kernel && run.mma > 0);
        runs.map(|(_, run)| run.instructions as f64 / run.mma as f64).reduce(f64::max)
    }
}

/// Everything that is over its budget, or has none.
fn check(budget: &DocumentMut, evidence: &Evidence) -> Vec<String> {
    let rows = budget.get("kernels").and_then(Item::as_table);
    let row = |kernel: &str| rows.and_then(|rows| rows.get(kernel));
    let mut complaints = evidence.strangers.clone();
    for kernel in evidence.kernels() {
        for target in &TARGETS {
            let at = |what: String| format!("{kernel}, {}: {what}", target.name);
            let Some(function) = evidence.function(kernel, target) else {
                complaints.push(at("not built".into()));
                continue;
            };
            let row = row(kernel);
            complaints.extend(shape(function).into_iter().map(at));
            complaints.extend(required(function, row).into_iter().map(at));
            let limits = row.and_then(|row| row.get(target.name));
            let blocks = evidence.blocks(kernel, target);
            complaints.extend(resources(function, blocks, limits).into_iter().map(at));
        }
    }
    let built: BTreeSet<&str> = evidence.kernels().map(String::as_str).collect();
    let gone = rows.into_iter().flat_map(Table::iter).map(|(kernel, _)| kernel);
    let gone = gone.filter(|kernel| !built.contains(kernel));
    complaints.extend(gone.map(|kernel| format!("{kernel}: in the budget and in no image")));
    complaints
}

/// What no kernel may have.
fn shape(function: &Function) -> Vec<String> {
    let mut complaints = Vec::new();
    if function.stack > 0 {
        complaints.push(format!("{} bytes of stack", function.stack));
    }
    let spills = function.count("LDL") + function.count("STL");
    if spills > 0 {
        complaints.push(format!("{spills} accesses of local memory"));
    }
    // Without G, S or L in its name an access finds out at run time which memory it is about.
    let generic: u32 = ["LD", "ST", "ATOM"].iter().map(|name| function.count(name)).sum();
    if generic > 0 {
        complaints.push(format!("{generic} accesses without an address space"));
    }
    complaints
}

/// Instructions that the row asks for.
fn required(function: &Function, row: Option<&Item>) -> Vec<String> {
    let wanted = row.and_then(|row| row.get("require")).and_then(Item::as_array);
    let names = wanted.into_iter().flatten().filter_map(|name| name.as_str());
    let missing = names.filter(|name| function.count(name) == 0);
    missing.map(|name| format!("no {name}")).collect()
}

fn resources(function: &Function, blocks: Option<u32>, limits: Option<&Item>) -> Vec<String> {
    let limit = |name: &str| limits?.get(name)?.as_integer();
    let mut complaints = Vec::new();
    match limit("registers") {
        Some(most) if i64::from(function.registers) <= most => {}
        Some(most) => complaints.push(format!("{} registers, {most} at most", function.registers)),
        None => complaints.push("no `registers` in the budget".into()),
    }
    match (limit("blocks"), blocks) {
        (_, None) => {}
        (Some(least), Some(blocks)) if i64::from(blocks) >= least => {}
        (Some(least), Some(blocks)) => {
            complaints.push(format!("{blocks} blocks a multiprocessor, {least} at least"));
        }
        (None, Some(_)) => complaints.push("no `blocks` in the budget".into()),
    }
    complaints
}

/// Takes today's registers and blocks as the budget, and drops kernels that are gone.
fn take(budget: &mut DocumentMut, evidence: &Evidence) {
    let rows = budget.entry("kernels").or_insert_with(|| Item::Table(Table::new()));
    let Some(rows) = rows.as_table_mut() else { return };
    rows.set_implicit(true);
    rows.retain(|kernel, _| evidence.kernels().any(|found| found == kernel));
    for kernel in evidence.kernels() {
        let row = rows.entry(kernel).or_insert_with(|| Item::Table(Table::new()));
        if let Some(most) = evidence.instructions_per_mma(kernel) {
            row[PER_MMA] = value((most * 10.0).ceil() / 10.0);
        }
        for target in &TARGETS {
            let Some(function) = evidence.function(kernel, target) else { continue };
            let mut limits = InlineTable::new();
            limits.insert("registers", i64::from(function.registers).into());
            if let Some(blocks) = evidence.blocks(kernel, target) {
                limits.insert("blocks", i64::from(blocks).into());
            }
            row[target.name] = value(limits);
        }
    }
}

#[cfg(test)]
mod tests;
