//! `cargo xtask gguf`: GGUF files against the checkpoints they were made from.
//!
//! `tests/golden/gguf/write.py` writes them with the public `gguf` package. Files that hold the same numbers as a golden
//! checkpoint are held to its reference; quantised ones to a checkpoint with the numbers that the package decodes.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::golden::{self, BEST, Setup, Wanted, last_line};
use crate::{Result, Words, tiny};

/// Golden case, and how it is written.
const EXACT: &[(&str, &[&str])] = &[
    ("v3-moe-f32", &["--kind", "F32"]),
    ("v3-moe-f32", &["--kind", "F32", "--kv-b", "both"]),
    ("v3-moe-bf16", &["--kind", "BF16"]),
    ("v3-tied-f32", &["--kind", "F32"]),
    ("v3-noqlora-f32", &["--kind", "F32", "--kv-b", "whole", "--parts", "2"]),
    ("v3-yarn-f32", &["--kind", "F32", "--parts", "3"]),
    ("v3-realdims", &["--kind", "BF16"]),
    ("v2-lite-f32", &["--kind", "F32", "--kv-b", "whole", "--older"]),
    ("v2-lite-bf16", &["--kind", "BF16"]),
    ("v2-group-f32", &["--kind", "F32"]),
];

/// Types that are not what the checkpoint holds.
const QUANTISED: &[&str] =
    &["F16", "Q8_0", "Q4_0", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K", "Q4_K_M"];

/// Names of how text is split before merging.
const SPLITS: &[&str] =
    &["deepseek-v3", "deepseek-llm", "deepseek-coder", "kimi-k2", "glm4", "gpt-2"];

/// Tokens of the quantised runs, and how many are decoded behind them.
const PROMPT: [u32; 24] = [
    5, 300, 17, 42, 380, 91, 7, 256, 33, 128, 64, 9, 211, 77, 310, 2, 145, 199, 50, 366, 21, 88,
    270, 13,
];
const GREEDY: usize = 16;

/// Writes, runs and compares all of them; prints a table and fails when one does.
pub(crate) fn run(root: &Path, args: &[String]) -> Result<()> {
    let words = Words::read(args, &["--bin", "--python"])?;
    let setup = Setup::new(root, &words, "gguf")?;
    let mut failed = 0;
    println!("{:34}  {:>9} {:>9} {:>7}  verdict", "file", "max abs", "max KL", "greedy");
    for (index, (case, how)) in EXACT.iter().enumerate() {
        let row = exact(&setup, index, case, how);
        failed += usize::from(show(&format!("{case} {}", how[1..].join(" ")), row));
    }
    for pre in SPLITS {
        failed += usize::from(show(&format!("v3-moe-f32 --pre {pre}"), answers(&setup, pre)));
    }
    let source = setup.scratch.join("blocks");
    let out = source.display().to_string();
    tiny::run(&["--preset".into(), "blocks".into(), "--out".into(), out])?;
    for kind in QUANTISED {
        for form in ["halves", "whole"] {
            let row = quantised(&setup, &source, kind, form);
            failed += usize::from(show(&format!("blocks {kind} {form}"), row));
        }
    }
    if failed > 0 { Err(format!("{failed} files differ from their source")) } else { Ok(()) }
}

/// One line of the table; whether it failed.
fn show(name: &str, row: Result<String>) -> bool {
    match row {
        Ok(numbers) => println!("{name:34}  {numbers:27}  ok"),
        Err(problem) => {
            println!("{name:34}  {:27}  FAIL {problem}", "");
            return true;
        }
    }
    false
}

fn exact(setup: &Setup, index: usize, case: &str, how: &[&str]) -> Result<String> {
    let name = format!("{index}-{case}");
    let path = write(setup, &setup.golden.join(case), &name, how)?;
    let row =
        golden::row(&golden::one(setup, &path, case, BEST, Wanted::Ordinary)?, Wanted::Ordinary);
    row.verdict.map(|()| row.numbers)
}

/// A prompt of many kinds of characters through a tokenizer with those splits.
fn answers(setup: &Setup, pre: &str) -> Result<String> {
    let name = format!("pre-{pre}");
    let path = write(setup, &setup.golden.join("v3-moe-f32"), &name, &["--pre", pre])?;
    let prompt = "Don't STOP at 12345, 漢字かな 한글 naïve\n\n  é!";
    let ran = Command::new(&setup.binary)
        .arg("run")
        .arg("--model")
        .arg(&path)
        .args(["--max-tokens", "4", "--temperature", "0", prompt])
        .output()
        .map_err(|problem| format!("cannot run {}: {problem}", setup.binary.display()))?;
    if ran.status.success() { Ok(String::new()) } else { Err(last_line(&ran.stderr)) }
}

fn quantised(setup: &Setup, source: &Path, kind: &str, form: &str) -> Result<String> {
    let name = format!("blocks-{kind}-{form}");
    let values = setup.scratch.join(format!("{name}-values"));
    let folder = values.display().to_string();
    let path = write(setup, source, &name, &["--kind", kind, "--kv-b", form, "--values", &folder])?;
    let produced = |of: &str| setup.scratch.join(format!("{name}.{of}.safetensors"));
    let (made, wanted) = (produced("gguf"), produced("values"));
    for (model, to) in [(&path, &made), (&values, &wanted)] {
        golden::logits(setup, model, &json!(PROMPT), GREEDY, BEST, to)?;
    }
    let compared = python(setup, &setup.golden.join("gguf/same.py"), &[&wanted, &made], &[])?;
    Ok(compared.trim().to_owned())
}

/// Has a file written; its path, or that of its first part.
fn write(setup: &Setup, folder: &Path, name: &str, how: &[&str]) -> Result<PathBuf> {
    let path = setup.scratch.join(format!("{name}.gguf"));
    python(setup, &setup.golden.join("gguf/write.py"), &[folder, &path], how)?;
    let parts = how.iter().position(|word| *word == "--parts").and_then(|at| how.get(at + 1));
    let first = parts.and_then(|parts| parts.parse::<u32>().ok());
    Ok(first.map_or(path, |parts| setup.scratch.join(format!("{name}-00001-of-{parts:05}.gguf"))))
}

/// Runs a script; what it prints.
fn python(setup: &Setup, script: &Path, paths: &[&Path], words: &[&str]) -> Result<String> {
    let ran = Command::new(&setup.python)
        .arg(script)
        .args(paths)
        .args(words)
        .output()
        .map_err(|problem| format!("cannot run {}: {problem}", setup.python.display()))?;
    if ran.status.success() {
        return Ok(String::from_utf8_lossy(&ran.stdout).into_owned());
    }
    Err(last_line(if ran.stdout.is_empty() { &ran.stderr } else { &ran.stdout }))
}
