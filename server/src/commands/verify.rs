//! `hadal verify`: reads every byte of a checkpoint, hashes each tensor and looks for values that are no numbers.
//!
//! The hash is SHA-256 over a tensor's stored bytes, in its file's order: what `hashlib.sha256` makes of them.

mod record;
mod report;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use clap::Args;
use hadal_engine::checkpoint::{Checkpoint, Defects, Listed};
use indicatif::ProgressBar;
use sha2::{Digest, Sha256};

use super::target::{TargetArgs, bar, plural, print_json, print_text, unless_told};
use super::{Failure, Outcome};
use record::Record;

/// Bytes that are hashed at once, between two moves of the bar.
const PIECE_BYTES: usize = 4 << 20;

/// Flags of `hadal verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The model.
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// Keep the hashes in this file, to compare with later
    #[arg(long, value_name = "FILE")]
    pub(crate) write: Option<PathBuf>,
    /// Compare with the hashes that `--write` kept
    #[arg(long, value_name = "FILE")]
    pub(crate) against: Option<PathBuf>,
    /// Threads that read and hash [default: the processors this process may use]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// Print one JSON object with every tensor's hash
    #[arg(long)]
    pub(crate) json: bool,
}

/// What was found in one tensor.
#[derive(Debug, Clone, PartialEq)]
struct Checked {
    name: String,
    record: Record,
    bytes: u64,
    defects: Defects,
}

/// What was found in all of them.
struct Found {
    name: String,
    checked: Vec<Checked>,
    /// From what was kept, when that was asked for.
    differences: Option<Vec<String>>,
}

/// Reads, prints, and fails when something is damaged.
pub(crate) fn run(args: &VerifyArgs) -> Outcome {
    let Found { name, checked, differences } =
        found(args).map_err(|failure| unless_told(args.json, failure))?;
    if args.json {
        print_json(&report::json(&name, &checked, differences.as_deref()))?;
    } else {
        print_text(&report::text(&name, &checked, differences.as_deref()))?;
    }
    let n_bad = checked.iter().filter(|tensor| tensor.defects.count() > 0).count();
    let n_different = differences.map_or(0, |differences| differences.len());
    match (n_bad, n_different) {
        (0, 0) => Ok(()),
        (n, 0) => {
            Err(Failure::Failed(format!("{} with values that are not finite", plural(n, "tensor"))))
        }
        (0, n) => Err(Failure::Failed(format!("{} from what was kept", plural(n, "difference")))),
        (n, m) => Err(Failure::Failed(format!(
            "{} with values that are not finite, and {} from what was kept",
            plural(n, "tensor"),
            plural(m, "difference")
        ))),
    }
}

/// Reads all of it, and keeps the hashes where that is asked for.
fn found(args: &VerifyArgs) -> Result<Found, Failure> {
    let located = args.target.locate()?;
    // Read first: a comparison that cannot be made should not take the minutes that reading takes.
    let kept = args.against.as_deref().map(record::read).transpose()?;
    let checkpoint = Checkpoint::open(&located.source).map_err(|problem| {
        Failure::Failed(format!("{problem} (`hadal inspect` lists all that is wrong)"))
    })?;
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let checked = check_all(&checkpoint, args.threads.map_or_else(cores, usize::from))?;
    let differences = kept.map(|kept| record::differences(&kept, &checked));
    if let Some(path) = args.write.as_deref() {
        write(path, &located.name, &checked)?;
    }
    Ok(Found { name: located.name, checked, differences })
}

/// Every tensor of the files, largest first to the threads, given back by name.
fn check_all(checkpoint: &Checkpoint, threads: usize) -> Result<Vec<Checked>, Failure> {
    let mut listed = checkpoint.listed();
    listed.sort_by_key(|tensor| std::cmp::Reverse(tensor.bytes.len()));
    let bar = bar("verifying");
    // Once for the hash, once for the values.
    bar.set_length(2 * listed.iter().map(|tensor| tensor.bytes.len() as u64).sum::<u64>());
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(listed.len())));
    std::thread::scope(|scope| {
        for _ in 0..threads.min(listed.len()) {
            scope.spawn(|| {
                while let Some(tensor) = listed.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let checked = check(checkpoint, tensor, &bar);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push(checked);
                }
            });
        }
    });
    bar.finish_and_clear();
    // A file that was cut while it was read gave zeros from there on.
    checkpoint.watch().check()?;
    let mut checked = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    checked.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(checked)
}

fn check(checkpoint: &Checkpoint, listed: &Listed, bar: &ProgressBar) -> Checked {
    let mut hash = Sha256::new();
    for piece in listed.bytes.chunks(PIECE_BYTES) {
        hash.update(piece);
        bar.inc(piece.len() as u64);
    }
    let sha256 =
        hash.finalize().iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    // What is no tensor of numbers that this build reads has no values to look at.
    let tensor = checkpoint.tensor(&listed.name);
    let defects = match tensor {
        Ok(tensor) => tensor.defects(&mut |bytes| bar.inc(bytes)),
        Err(_) => Defects::default(),
    };
    Checked {
        name: listed.name.clone(),
        record: Record { sha256, dtype: listed.dtype.clone(), shape: listed.shape.clone() },
        bytes: listed.bytes.len() as u64,
        defects,
    }
}

/// Beside the place first, then renamed: a half-written file would accuse a sound checkpoint.
fn write(path: &Path, model: &str, checked: &[Checked]) -> Outcome {
    let text = format!("{:#}\n", record::json(model, checked));
    let mut beside = path.as_os_str().to_owned();
    beside.push(".part");
    let beside = PathBuf::from(beside);
    std::fs::write(&beside, text).map_err(|problem| Failure::file(&beside, problem))?;
    std::fs::rename(&beside, path).map_err(|problem| Failure::file(path, problem))
}
