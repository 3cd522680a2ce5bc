//! A checkpoint with its matrices quantised, kept beside it for the next time.
//!
//! The cache is a converted checkpoint in a hidden folder, so that discovery does not list it, and is used in place like
//! any other. It notes what it was made of: every file that opening reads, its size and time of change. What does not
//! fit is made anew.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde_json::{Map, json};

use super::files::{Files, READ};
use super::{Checkpoint, ConvertOptions, Source, Target, convert, gguf, single};
use crate::error::Result;

/// What the cache was made of.
const NOTE: &str = "hadal-source.json";

/// Raised when the same source would be quantised to other bytes.
const VERSION: u32 = 2;

/// How matrices are kept in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quant {
    /// The format: [`Target::Q8`] or [`Target::Q4`].
    pub target: Target,
    /// Keep the result beside the checkpoint, and use it when it is there.
    pub cache: bool,
}

/// A checkpoint that is ready to load.
pub struct Opened {
    /// The source's, or its cache's.
    pub checkpoint: Checkpoint,
    /// Why there is no cache although one was asked for; the model works without.
    pub warning: Option<String>,
}

/// Opens a checkpoint, or its cache, which is written first when it is not there or does not fit.
///
/// # Errors
/// What the source refuses. A cache that cannot be written is a warning.
pub fn open_with_cache(
    source: &Source,
    quant: Option<Quant>,
    threads: usize,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Opened> {
    let Some(Quant { target, .. }) = quant.filter(|quant| quant.cache) else {
        return Ok(Opened { checkpoint: Checkpoint::open(source)?, warning: None });
    };
    match cached(source, target, threads, progress) {
        Ok(checkpoint) => Ok(Opened { checkpoint, warning: None }),
        Err(problem) => {
            // A source that is wrong is refused for what it is.
            let checkpoint = Checkpoint::open(source)?;
            let warning = Some(format!("no cache of quantised weights: {problem}"));
            Ok(Opened { checkpoint, warning })
        }
    }
}

/// The checkpoint that loading would use if it wrote no cache: the cache where there is one that fits, else the source.
///
/// # Errors
/// What the source refuses.
pub fn open_planned(source: &Source, quant: Option<Quant>) -> Result<Checkpoint> {
    let place =
        quant.filter(|quant| quant.cache).and_then(|quant| place(source, quant.target).ok());
    let cached = place.and_then(|(folder, key)| fitting(&folder, &key));
    cached.map_or_else(|| Checkpoint::open(source), Ok)
}

/// The folder of a source's cache; `None` for a source inside the binary.
pub fn cache_folder(source: &Source, target: Target) -> Option<PathBuf> {
    let hidden = format!(".hadal-{}", target.name());
    match source {
        Source::Embedded(_) => None,
        Source::Directory(folder) => Some(folder.join(hidden)),
        Source::File(file) => {
            let mut name = OsString::from(".");
            name.push(file.file_name().unwrap_or_default());
            name.push(hidden);
            Some(file.with_file_name(name))
        }
    }
}

/// A cache that was made of what is there now, and is whole.
fn fitting(folder: &Path, key: &str) -> Option<Checkpoint> {
    let noted = std::fs::read(folder.join(NOTE)).ok()?;
    let is_fit = noted == key.as_bytes();
    is_fit.then(|| Checkpoint::open(&Source::Directory(folder.to_owned())).ok()).flatten()
}

fn cached(
    source: &Source,
    target: Target,
    threads: usize,
    progress: &mut dyn FnMut(u64, u64),
) -> std::result::Result<Checkpoint, String> {
    let (folder, key) = place(source, target)?;
    if let Some(checkpoint) = fitting(&folder, &key) {
        return Ok(checkpoint);
    }
    let cache = Source::Directory(folder.clone());
    let options = ConvertOptions {
        to: target,
        out: folder,
        shard_bytes: u64::MAX,
        threads,
        force: true,
        note: Some((NOTE, key)),
    };
    convert(source, &options, progress).map_err(|problem| problem.to_string())?;
    Checkpoint::open(&cache).map_err(|problem| problem.to_string())
}

/// Where a source's cache is, and what it must note.
fn place(source: &Source, target: Target) -> std::result::Result<(PathBuf, String), String> {
    let folder =
        cache_folder(source, target).ok_or_else(|| "the model is inside the binary".to_owned())?;
    let mut list = Map::new();
    for path in read(source)? {
        let Ok(metadata) = std::fs::metadata(&path) else { continue };
        let changed = metadata.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let changed = changed.map(|since| since.as_nanos().to_string());
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        list.insert(
            name.unwrap_or_default(),
            json!({ "bytes": metadata.len(), "changed_ns": changed }),
        );
    }
    let key = json!({ "version": VERSION, "target": target.name(), "files": list });
    Ok((folder, format!("{key:#}\n")))
}

/// The files that opening a source reads, those that are not there included: one that comes changes what is read.
fn read(source: &Source) -> std::result::Result<Vec<PathBuf>, String> {
    let files = Files::new(source);
    let beside = || READ.iter().map(|name| files.path().join(name));
    Ok(match source {
        Source::Embedded(_) => Vec::new(),
        Source::Directory(_) => {
            let weights = files.weight_names().map_err(|problem| problem.to_string())?;
            weights.iter().map(|name| files.path().join(name)).chain(beside()).collect()
        }
        // Everything is in a GGUF file, or its further ones.
        Source::File(file) if single::is_gguf(file) => gguf::files(file).collect(),
        Source::File(file) => std::iter::once(file.clone()).chain(beside()).collect(),
    })
}
