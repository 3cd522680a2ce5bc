//! Files that somebody broke, by accident or on purpose: each must be refused with its reason, quickly, and without
//! taking memory out of proportion to its size.
//!
//! The allocator counts for the whole process, so this is a binary of its own, with one test in it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::missing_panics_doc,
    reason = "this crate is tests: a panic is how they fail, and the slowest file is printed"
)]

#[path = "hostile/config.rs"]
mod config;
#[path = "hostile/gguf.rs"]
mod gguf;
#[path = "hostile/index.rs"]
mod index;
#[path = "hostile/pt.rs"]
mod pt;
#[path = "hostile/safetensors.rs"]
mod safetensors;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hadal_engine::checkpoint::{self, Checkpoint, Source};
use hadal_tests::counting::{self, Counting};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Heap that refusing a checkpoint may take for each of its bytes, and besides. Headers and configurations take more
/// than this as trees, and are a small part of their folders.
const BYTES_PER_BYTE: u64 = 10;
const BYTES_AT_LEAST: u64 = 2 << 20;

/// Far beyond what a refusal takes, so that a busy machine fails nothing and a hang does.
const PATIENCE: Duration = Duration::from_mins(1);

/// Broken checkpoints below one root, each in a place of its own.
pub struct Corpus {
    root: PathBuf,
    /// Name below the root, and words its refusal must have.
    cases: Vec<(String, &'static str)>,
}

impl Corpus {
    /// A new case whose refusal must hold `words`: the path for its folder or file.
    pub fn add(&mut self, name: &str, words: &'static str) -> PathBuf {
        let name = format!("{:03}-{name}", self.cases.len());
        self.cases.push((name.clone(), words));
        self.root.join(name)
    }

    /// A new case: a golden folder with some of its files replaced (`None`: left out).
    pub fn folder(
        &mut self,
        name: &str,
        words: &'static str,
        golden: &str,
        files: &[(&str, Option<&[u8]>)],
    ) {
        let folder = self.add(name, words);
        std::fs::create_dir(&folder).unwrap();
        for entry in std::fs::read_dir(self::golden(golden)).unwrap() {
            let from = entry.unwrap().path();
            let file = from.file_name().unwrap().to_str().unwrap().to_owned();
            if !file.starts_with("golden.") && !files.iter().any(|(name, _)| *name == file) {
                std::fs::copy(&from, folder.join(file)).unwrap();
            }
        }
        for (file, bytes) in files {
            if let Some(bytes) = bytes {
                std::fs::write(folder.join(file), bytes).unwrap();
            }
        }
    }
}

impl Corpus {
    /// A new case: a file that is a model by itself, with the settings and the tokenizer of a golden folder beside it.
    pub fn file(
        &mut self,
        name: &str,
        file: &str,
        words: &'static str,
        bytes: &[u8],
        golden: Option<&str>,
    ) {
        let folder = self.add(name, words);
        std::fs::create_dir(&folder).unwrap();
        for beside in ["config.yaml", "tokenizer.json", "tokenizer_config.json"] {
            if let Some(golden) = golden {
                std::fs::copy(self::golden(golden).join(beside), folder.join(beside)).unwrap();
            }
        }
        std::fs::write(folder.join(file), bytes).unwrap();
        let (name, _) = self.cases.last_mut().unwrap();
        name.push('/');
        name.push_str(file);
    }
}

/// A golden folder.
pub fn golden(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(case)
}

fn source(path: &Path) -> Source {
    if path.is_file() { Source::File(path.to_owned()) } else { Source::Directory(path.to_owned()) }
}

/// Bytes of a file, or of the files in a folder.
fn bytes_below(path: &Path) -> u64 {
    if path.is_file() {
        return std::fs::metadata(path).unwrap().len();
    }
    let entries = std::fs::read_dir(path).unwrap();
    entries.map(|entry| bytes_below(&entry.unwrap().path())).sum()
}

/// One refusal: its words, the heap it took, the time it took.
fn refuse(path: &Path) -> Result<(String, u64, Duration), String> {
    let source = source(path);
    let start = Instant::now();
    let (opened, taken) = counting::peak(|| Checkpoint::open(&source).map(drop));
    match opened {
        Ok(()) => Err("it was taken for a checkpoint".into()),
        Err(error) => Ok((error.to_string(), taken as u64, start.elapsed())),
    }
}

fn corpus(root: &Path) -> Corpus {
    let mut corpus = Corpus { root: root.to_owned(), cases: Vec::new() };
    config::add(&mut corpus);
    safetensors::add(&mut corpus);
    index::add(&mut corpus);
    gguf::add(&mut corpus);
    pt::add(&mut corpus);
    corpus
}

#[test]
fn six_hundred_broken_checkpoints_are_refused_with_their_reasons() {
    let root = tempfile::tempdir().unwrap();
    let corpus = corpus(root.path());
    assert!(corpus.cases.len() >= 600, "{} cases", corpus.cases.len());
    let mut wrong = Vec::new();
    let mut slowest = (Duration::ZERO, "");
    for (name, words) in &corpus.cases {
        let path = corpus.root.join(name);
        let allowed = bytes_below(path.parent().filter(|_| path.is_file()).unwrap_or(&path))
            * BYTES_PER_BYTE
            + BYTES_AT_LEAST;
        match refuse(&path) {
            Err(problem) => wrong.push(format!("{name}: {problem}")),
            Ok((reason, ..)) if !reason.contains(words) => {
                wrong.push(format!("{name}: `{reason}` does not say `{words}`"));
            }
            Ok((_, taken, _)) if taken > allowed => {
                wrong.push(format!("{name}: took {taken} bytes, allowed {allowed}"));
            }
            Ok((.., time)) if time > PATIENCE => wrong.push(format!("{name}: took {time:?}")),
            Ok((.., time)) => slowest = slowest.max((time, name)),
        }
    }
    println!(
        "{} files refused; the slowest, {}, in {:?}",
        corpus.cases.len(),
        slowest.1,
        slowest.0
    );
    assert!(wrong.is_empty(), "{} wrong:\n  {}", wrong.len(), wrong.join("\n  "));
    listed(&corpus);
}

/// A root full of them is listed whole: every one with its reason, none in the way of a good one beside it.
fn listed(corpus: &Corpus) {
    let good = corpus.root.join("good");
    std::fs::create_dir(&good).unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(golden("v3-tied-bf16").join(file), good.join(file)).unwrap();
    }
    let outside = tempfile::tempdir().unwrap();
    std::fs::copy(golden("v3-tied-bf16").join("config.json"), outside.path().join("config.json"))
        .unwrap();
    std::os::unix::fs::symlink(outside.path(), corpus.root.join("away")).unwrap();
    std::os::unix::fs::symlink(&corpus.root, corpus.root.join("circle")).unwrap();
    let found = checkpoint::discover(&corpus.root);
    // The link that leads out is listed with its reason; the circle is not followed.
    assert_eq!(found.len(), corpus.cases.len() + 2);
    let away = found.iter().find(|found| found.name == "away").unwrap();
    assert!(away.summary.as_ref().unwrap_err().contains("leads out"), "{:?}", away.summary);
    for (name, _) in &corpus.cases {
        let found = found.iter().find(|found| found.name == *name);
        let found = found.unwrap_or_else(|| panic!("{name} is not listed"));
        let reason = found.summary.as_ref().unwrap_err();
        assert!(!reason.is_empty(), "{name} has no reason");
        let root = corpus.root.to_str().unwrap();
        assert!(!reason.contains(root), "{name}: `{reason}` shows where the root is");
    }
    let good = found.iter().find(|found| found.name == "good").unwrap();
    assert!(good.summary.is_ok(), "{:?}", good.summary);
}
