//! A checkpoint with its matrices quantised, kept beside it for the next time.
//!
//! The cache is a converted checkpoint in a hidden folder, so that discovery does not list it, and is used in place like
//! any other. It notes what it was made of: files, sizes, times of change. What does not fit is made anew.

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde_json::{Map, Value, json};

use super::files::Files;
use super::{Checkpoint, ConvertOptions, Source, Target, convert};
use crate::error::Result;

/// What the cache was made of.
const NOTE: &str = "hadal-source.json";

/// Raised when the same source would be quantised to other bytes.
const VERSION: u32 = 1;

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

fn cached(
    source: &Source,
    target: Target,
    threads: usize,
    progress: &mut dyn FnMut(u64, u64),
) -> std::result::Result<Checkpoint, String> {
    let (folder, key) = place(source, target)?;
    let cache = Source::Directory(folder.clone());
    let noted = std::fs::read(folder.join(NOTE)).ok();
    if noted.as_deref() == Some(key.as_bytes())
        && let Ok(checkpoint) = Checkpoint::open(&cache)
    {
        return Ok(checkpoint);
    }
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
    let hidden = format!(".hadal-{}", target.name());
    let (folder, files) = match source {
        Source::Embedded(_) => return Err("the model is inside the binary".to_owned()),
        Source::Directory(folder) => {
            let names = Files::new(source).weight_names().map_err(|problem| problem.to_string())?;
            let mut files: Vec<PathBuf> = names.into_iter().map(|name| folder.join(name)).collect();
            files.extend(text_files(folder));
            (folder.join(hidden), files)
        }
        Source::File(file) => {
            let name = file.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
            (file.with_file_name(format!(".{name}{hidden}")), vec![file.clone()])
        }
    };
    let mut list = Map::new();
    for path in files {
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
    Ok((folder, format!("{:#}\n", Value::clone(&key))))
}

/// Settings and tokenizer go into the cache too, so it is stale when they change.
fn text_files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "json" || ending == "jinja"))
        .collect();
    paths.sort();
    paths
}
