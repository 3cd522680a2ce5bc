//! `cargo xtask golden`: the binary's numbers against those of independent references. `tests/golden/<case>/` holds a small
//! checkpoint and what a reference computed from it; `compare.py` there knows the tolerances and shares no code with us.
//! Each case runs in f32 (portable kernels, then the best there are) and in bf16, with vectors and with tiles, where its weights are; `.pt` files one by one.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::{Result, Words};

/// One way to run a case.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Mode {
    isa: Option<&'static str>,
    activations: &'static str,
    /// `compare.py`'s tolerances.
    profile: &'static str,
}

const PORTABLE: Mode = Mode { isa: Some("portable"), activations: "f32", profile: "f32" };
pub(crate) const BEST: Mode = Mode { isa: None, activations: "f32", profile: "f32" };
const BF16: Mode = Mode { isa: Some("avx512"), activations: "bf16", profile: "bf16" };
const TILES: Mode = Mode { isa: Some("amx"), ..BF16 };

/// What a run must have produced to have shown anything.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Wanted {
    /// Logits and tokens.
    Ordinary,
    /// These and the MTP layer's drafts.
    Drafts,
    /// Logits alone, under another golden name: the file's weights are rounded from the ones the rest was made with.
    Rounded,
}

/// The golden name of [`Wanted::Rounded`].
const ROUNDED: &str = "logits_bf16_weights";

/// What runs produce: drafts are the last three.
const KEYS: [&str; 6] =
    ["logits", "decode_logits", "decode_tokens", "mtp.logits", "mtp.hidden", "mtp.draft_tokens"];

impl Wanted {
    fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Ordinary => &KEYS[..3],
            Self::Drafts => &KEYS,
            Self::Rounded => &[ROUNDED],
        }
    }
}

/// A model of a case and the ways to run it.
#[derive(Debug, PartialEq)]
struct Run {
    case: String,
    /// The case's folder, or a file in it, below the golden folder.
    model: String,
    modes: Vec<Mode>,
    wanted: Wanted,
}

/// Where everything is.
pub(crate) struct Setup {
    pub(crate) binary: PathBuf,
    pub(crate) python: PathBuf,
    pub(crate) golden: PathBuf,
    /// Tokens and produced numbers go here.
    pub(crate) scratch: PathBuf,
}

impl Setup {
    /// From `--bin` and `--python`; makes the folder `target/<scratch>`.
    pub(crate) fn new(root: &Path, words: &Words<'_>, scratch: &str) -> Result<Self> {
        let own = root.join(".tools/python/bin/python");
        let setup = Self {
            binary: words
                .flag("--bin")
                .map_or_else(|| root.join("target/release/hadal"), PathBuf::from),
            python: match words.flag("--python") {
                Some(path) => path.into(),
                None if own.exists() => own,
                None => "python3".into(),
            },
            golden: root.join("tests/golden"),
            scratch: root.join("target").join(scratch),
        };
        if !setup.binary.exists() {
            let binary = setup.binary.display();
            return Err(format!("{binary} is not there: `cargo build --release` first"));
        }
        std::fs::create_dir_all(&setup.scratch)
            .map_err(|problem| format!("{}: {problem}", setup.scratch.display()))?;
        Ok(setup)
    }
}

/// Runs the cases named, or all, prints a table and fails when a case does.
pub(crate) fn run(root: &Path, args: &[String]) -> Result<()> {
    let words = Words::read(args, &["--bin", "--python"])?;
    let setup = Setup::new(root, &words, "golden")?;
    let mut runs = Vec::new();
    for case in cases(&setup.golden, &words.plain)? {
        runs.extend(runs_of(&setup.golden, &case)?);
    }
    let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let has = |mode: Mode| match mode {
        BF16 => processor.contains("avx512_bf16"),
        TILES => processor.contains("amx_bf16"),
        _ => true,
    };
    println!("case{:24} kernels   acts     max abs    max KL  greedy  verdict", "");
    let (mut failed, mut skipped) = (0, 0);
    for Run { case, model, modes, wanted } in &runs {
        for mode in modes.iter().copied() {
            if !has(mode) {
                skipped += 1;
                continue;
            }
            let row = match one(&setup, &setup.golden.join(model), case, mode, *wanted) {
                Ok(report) => row(&report, *wanted),
                Err(problem) => Row { numbers: String::new(), verdict: Err(problem) },
            };
            failed += usize::from(row.verdict.is_err());
            let verdict = match &row.verdict {
                Ok(()) => "ok".into(),
                Err(problem) => format!("FAIL {problem}"),
            };
            let isa = mode.isa.unwrap_or("best");
            println!("{model:28} {isa:9} {:5}  {:27}  {verdict}", mode.activations, row.numbers);
        }
    }
    if skipped > 0 {
        println!(
            "skipped: {skipped} runs with bf16 activations, this processor has no AVX512-BF16 or no AMX"
        );
    }
    if failed > 0 { Err(format!("{failed} runs differ from their reference")) } else { Ok(()) }
}

/// Folders with a `golden.json`, sorted; those asked for must be there.
fn cases(golden: &Path, wanted: &[&str]) -> Result<Vec<String>> {
    let entries =
        std::fs::read_dir(golden).map_err(|problem| format!("{}: {problem}", golden.display()))?;
    let mut found: Vec<String> = entries
        .flatten()
        .filter(|entry| entry.path().join("golden.json").exists())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    found.sort();
    if found.is_empty() {
        return Err(format!("{} holds no case", golden.display()));
    }
    if wanted.is_empty() {
        return Ok(found);
    }
    if let Some(missing) = wanted.iter().find(|name| !found.iter().any(|case| case == *name)) {
        return Err(format!("no case `{missing}`; there are {}", found.join(", ")));
    }
    Ok(wanted.iter().map(|&name| name.to_owned()).collect())
}

/// A case's folder, or each of its `.pt` files; the one that must be refused is another test's.
fn runs_of(golden: &Path, case: &str) -> Result<Vec<Run>> {
    let notes = read_json(&golden.join(case).join("golden.json"))?;
    let run = |model: String, is_bf16: bool, wanted| Run {
        case: case.to_owned(),
        model,
        modes: if is_bf16 { vec![PORTABLE, BEST, BF16, TILES] } else { vec![PORTABLE, BEST] },
        wanted,
    };
    let Some(files) = notes["files"].as_object() else {
        let wanted = if notes["mtp"].is_null() { Wanted::Ordinary } else { Wanted::Drafts };
        return Ok(vec![run(case.to_owned(), notes["weights_dtype"] == "bf16", wanted)]);
    };
    let each = files.keys().filter(|name| !name.starts_with("reject")).map(|name| {
        let is_rounded = name.contains("bf16");
        let wanted = if is_rounded { Wanted::Rounded } else { Wanted::Ordinary };
        run(format!("{case}/{name}"), is_rounded, wanted)
    });
    Ok(each.collect())
}

fn read_json(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path)
        .map_err(|problem| format!("{}: {problem}", path.display()))?;
    serde_json::from_str(&text).map_err(|problem| format!("{}: {problem}", path.display()))
}

/// Runs the binary with `model` over a case's tokens and has the result compared.
pub(crate) fn one(
    setup: &Setup,
    model: &Path,
    case: &str,
    mode: Mode,
    wanted: Wanted,
) -> Result<Value> {
    let folder = setup.golden.join(case);
    let golden = read_json(&folder.join("golden.json"))?;
    let produced = setup.scratch.join(format!(
        "{case}.{}.{}.safetensors",
        mode.isa.unwrap_or("best"),
        mode.activations
    ));
    let greedy = golden["decode_tokens"].as_array().map_or(0, Vec::len);
    logits(setup, model, &golden["input_ids"], greedy, mode, &produced)?;
    let mut compare = Command::new(&setup.python);
    compare.arg(setup.golden.join("compare.py")).arg(&folder).arg(&produced).args([
        "--profile",
        mode.profile,
        "--json",
    ]);
    if wanted == Wanted::Rounded {
        compare.args(["--map", &format!("logits={ROUNDED}"), "--only", ROUNDED]);
    }
    let compared = compare
        .output()
        .map_err(|problem| format!("cannot run {}: {problem}", setup.python.display()))?;
    serde_json::from_slice(&compared.stdout)
        .map_err(|_| format!("compare.py: {}", last_line(&compared.stderr)))
}

/// What `model` makes of the tokens, written to `produced`.
pub(crate) fn logits(
    setup: &Setup,
    model: &Path,
    input_ids: &Value,
    greedy: usize,
    mode: Mode,
    produced: &Path,
) -> Result<()> {
    let tokens = produced.with_extension("tokens.json");
    std::fs::write(&tokens, input_ids.to_string())
        .map_err(|p| format!("{}: {p}", tokens.display()))?;
    let mut command = Command::new(&setup.binary);
    command
        .arg("logits")
        .arg("--model")
        .arg(model)
        .arg("--tokens")
        .arg(&tokens)
        .arg("--out")
        .arg(produced);
    let greedy = greedy.to_string();
    command.args(["--greedy", &greedy, "--activations", mode.activations, "--trace"]);
    if let Some(isa) = mode.isa {
        command.args(["--isa", isa]);
    }
    let made = command
        .output()
        .map_err(|problem| format!("cannot run {}: {problem}", setup.binary.display()))?;
    if made.status.success() { Ok(()) } else { Err(last_line(&made.stderr)) }
}

pub(crate) fn last_line(stderr: &[u8]) -> String {
    String::from_utf8_lossy(stderr)
        .trim()
        .lines()
        .last()
        .unwrap_or("failed without a word")
        .to_owned()
}

/// What the table shows of a comparison.
pub(crate) struct Row {
    pub(crate) numbers: String,
    pub(crate) verdict: Result<()>,
}

pub(crate) fn row(report: &Value, wanted: Wanted) -> Row {
    let keys = &report["keys"];
    let number = |key: &str, field: &str| keys[key][field].as_f64().unwrap_or(f64::NAN);
    let tokens = &keys["decode_tokens"];
    let (logits, greedy) = match wanted {
        Wanted::Rounded => (ROUNDED, "-".to_owned()),
        _ => ("logits", format!("{}/{}", tokens["matching_prefix"], tokens["of"])),
    };
    let (max_abs, kl_max) = (number(logits, "max_abs"), number(logits, "kl_max"));
    let mut wrong = Vec::new();
    for (key, result) in keys.as_object().into_iter().flatten() {
        for failure in result["failures"].as_array().into_iter().flatten() {
            wrong.push(format!("{key}: {}", failure.as_str().unwrap_or("failed")));
        }
    }
    // A run that produced neither logits nor tokens has shown nothing, whatever else agrees.
    for key in wanted.keys() {
        if keys[*key].is_null() {
            wrong.push(format!("{key} was not produced"));
        }
    }
    if wrong.is_empty() && report["pass"] != true {
        wrong.push("compare.py does not say that it passed".into());
    }
    let verdict = if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) };
    Row { numbers: format!("{max_abs:9.1e} {kl_max:9.1e} {greedy:>7}"), verdict }
}

#[cfg(test)]
mod tests;
