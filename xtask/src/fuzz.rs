//! `cargo xtask fuzz`: seeds the targets of `fuzz/` with real files and runs each for a while.
//!
//! Built with `--sanitizer none`: the parsers are safe Rust, what is looked for is a panic, an endless loop or memory
//! out of proportion, and the stable toolchain can do that. Corpora stay in `fuzz/corpus`, which git ignores; what they
//! find becomes a test.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Result, Words};

/// A target and where its seeds come from.
struct Target {
    name: &'static str,
    seeds: fn(&Path) -> Vec<Seed>,
    /// The longest input worth trying.
    bytes_max: usize,
}

/// A name and its content.
type Seed = (String, Vec<u8>);

const TARGETS: &[Target] = &[
    Target { name: "safetensors", seeds: safetensors, bytes_max: 32 << 10 },
    Target {
        name: "index",
        seeds: |root| golden(root, "model.safetensors.index.json"),
        bytes_max: 16 << 10,
    },
    Target { name: "config", seeds: |root| golden(root, "config.json"), bytes_max: 8 << 10 },
    Target { name: "gguf", seeds: gguf, bytes_max: 64 << 10 },
    Target { name: "pt", seeds: torch, bytes_max: 400 << 10 },
    Target { name: "pickle", seeds: pickle, bytes_max: 32 << 10 },
    Target { name: "tokenizer", seeds: |root| golden(root, "tokenizer.json"), bytes_max: 16 << 10 },
    Target { name: "template", seeds: template, bytes_max: 8 << 10 },
];

/// Runs the targets named, or all, one after the other; fails at the first finding.
pub(crate) fn run(root: &Path, args: &[String]) -> Result<()> {
    let words = Words::read(args, &["--seconds", "--jobs"])?;
    let number = |flag: &str, default: u32| match words.flag(flag) {
        None => Ok(default),
        Some(text) => text.parse().map_err(|_| format!("`{flag}` is {text}, wanted a number")),
    };
    let (seconds, jobs) = (number("--seconds", 600)?, number("--jobs", 1)?);
    for name in &words.plain {
        if !TARGETS.iter().any(|target| target.name == *name) {
            let known: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
            return Err(format!("no target `{name}`; there are {}", known.join(", ")));
        }
    }
    let is_wanted = |target: &&Target| words.plain.is_empty() || words.plain.contains(&target.name);
    for target in TARGETS.iter().filter(is_wanted) {
        let seeds = seed(root, target)?;
        println!("=== {}: {seeds} seeds, {seconds} s, {jobs} at once", target.name);
        fuzz(root, target, seconds, jobs)?;
    }
    Ok(())
}

/// Writes a target's seeds into its corpus; tells how many.
fn seed(root: &Path, target: &Target) -> Result<usize> {
    let folder = root.join("fuzz/corpus").join(target.name);
    let problem = |at: &Path, e: &dyn std::fmt::Display| format!("{}: {e}", at.display());
    std::fs::create_dir_all(&folder).map_err(|e| problem(&folder, &e))?;
    let seeds = (target.seeds)(root);
    for (name, bytes) in seeds.iter().filter(|(_, bytes)| bytes.len() <= target.bytes_max) {
        let path = folder.join(format!("seed-{name}"));
        std::fs::write(&path, bytes).map_err(|e| problem(&path, &e))?;
    }
    if seeds.is_empty() {
        return Err(format!("no seeds for `{}` below tests/golden", target.name));
    }
    Ok(seeds.len())
}

fn fuzz(root: &Path, target: &Target, seconds: u32, jobs: u32) -> Result<()> {
    let status = Command::new("cargo")
        .args(["fuzz", "run", "--sanitizer", "none", "--debug-assertions", target.name, "--"])
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={}", target.bytes_max))
        // An input that takes longer than this is a finding, and so is one that takes this much memory.
        .args(["-timeout=20", "-rss_limit_mb=3000", "-print_final_stats=1"])
        .args((jobs > 1).then(|| format!("-fork={jobs}")))
        .current_dir(root)
        .status()
        .map_err(|e| format!("cannot run cargo fuzz (`cargo install cargo-fuzz`): {e}"))?;
    if status.success() {
        return Ok(());
    }
    Err(format!(
        "`{}` found something: see fuzz/artifacts/{}, `cargo fuzz tmin` makes it short",
        target.name, target.name
    ))
}

/// The golden folders.
fn cases(root: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root.join("tests/golden")).into_iter().flatten();
    let mut cases: Vec<PathBuf> =
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir()).collect();
    cases.sort();
    cases
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// One file of every case that has it.
fn golden(root: &Path, file: &str) -> Vec<Seed> {
    cases(root)
        .iter()
        .filter_map(|case| Some((name_of(case), std::fs::read(case.join(file)).ok()?)))
        .collect()
}

/// The headers of the cases' weights.
fn safetensors(root: &Path) -> Vec<Seed> {
    let header = |(name, bytes): Seed| {
        let (length, rest) = bytes.split_first_chunk::<8>()?;
        let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
        Some((name, rest.get(..length)?.to_vec()))
    };
    let whole = ["model.safetensors", "model-00001-of-00002.safetensors"];
    whole.iter().flat_map(|file| golden(root, file)).filter_map(header).collect()
}

/// Files below the golden folder by their ending.
fn with_ending(root: &Path, ending: &str) -> Vec<Seed> {
    let files =
        cases(root).into_iter().flat_map(|case| std::fs::read_dir(case).into_iter().flatten());
    files
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|found| found == ending))
        .filter_map(|path| Some((name_of(&path), std::fs::read(&path).ok()?)))
        .collect()
}

/// GGUF files up to where their data begins, which the target makes up itself.
fn gguf(root: &Path) -> Vec<Seed> {
    let header = |(name, bytes): Seed| {
        // The last tensor's entry ends with its offset; cutting a little into the data does no harm.
        let end = bytes.len().min(24 << 10);
        (name, bytes[..end].to_vec())
    };
    with_ending(root, "gguf").into_iter().map(header).collect()
}

fn torch(root: &Path) -> Vec<Seed> {
    with_ending(root, "pt")
}

/// The pickles inside the archives: the first entry, stored as it is.
fn pickle(root: &Path) -> Vec<Seed> {
    let inside = |(name, bytes): Seed| {
        let start = bytes.windows(2).position(|two| two == [0x80, 0x02])?;
        let end = start + bytes[start..].windows(4).position(|four| four == *b"PK\x07\x08")?;
        Some((name, bytes[start..end].to_vec()))
    };
    with_ending(root, "pt").into_iter().filter_map(inside).collect()
}

/// Templates that stand alone, and those inside `tokenizer_config.json`.
fn template(root: &Path) -> Vec<Seed> {
    let inside = |(name, bytes): Seed| {
        let config: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
        Some((name, config.get("chat_template")?.as_str()?.as_bytes().to_vec()))
    };
    let mut seeds = golden(root, "chat_template.jinja");
    seeds.extend(golden(root, "tokenizer_config.json").into_iter().filter_map(inside));
    let demo = std::fs::read(root.join("checkpoints/sft/demo/chat_template.jinja"));
    seeds.extend(demo.map(|bytes| ("demo".to_owned(), bytes)));
    seeds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_seeds_that_fit_it() {
        for target in TARGETS {
            let seeds = (target.seeds)(&crate::root());
            assert!(
                seeds.iter().any(|(_, bytes)| !bytes.is_empty() && bytes.len() <= target.bytes_max),
                "{} has none",
                target.name
            );
        }
    }

    #[test]
    fn every_target_is_one_of_the_fuzz_package() {
        let manifest = std::fs::read_to_string(crate::root().join("fuzz/Cargo.toml")).unwrap();
        for target in TARGETS {
            assert!(manifest.contains(&format!("name = \"{}\"", target.name)), "{}", target.name);
        }
        assert_eq!(manifest.matches("[[bin]]").count(), TARGETS.len());
    }

    #[test]
    fn an_unknown_target_is_named() {
        let args = ["gzip".to_owned()];
        assert!(run(&crate::root(), &args).unwrap_err().contains("no target `gzip`"));
    }
}
