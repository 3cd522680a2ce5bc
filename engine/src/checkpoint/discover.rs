//! Finding models below the checkpoint root, by their headers alone.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{Checkpoint, Source};

/// Folders below the root that are looked into.
const DEPTH_MAX: usize = 8;
/// Entries looked at in all: a root that is somebody's home must not hang the listing.
const ENTRIES_MAX: usize = 100_000;

/// One model that discovery found below the checkpoint root.
#[derive(Debug, Clone)]
pub struct Found {
    /// Path relative to the root, `/`-separated.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// Bytes of all its weight files.
    pub size_bytes: u64,
    /// Newest change of its weight files.
    pub modified: SystemTime,
    /// `safetensors`, `pt` or `gguf`.
    pub format: &'static str,
    /// What its headers say, or why it cannot be served.
    pub summary: std::result::Result<Summary, String>,
}

impl Found {
    /// What to open.
    pub fn source(&self) -> Source {
        if self.path.is_file() {
            Source::File(self.path.clone())
        } else {
            Source::Directory(self.path.clone())
        }
    }
}

/// What a listing shows of a checkpoint, read from `config.json` and the tensor headers alone.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// `model_type` of its config.
    pub architecture: String,
    /// Numbers in its tensors.
    pub parameters: u64,
    /// Most frequent dtype.
    pub dtype: &'static str,
    /// Tokens it was made for.
    pub context_length: usize,
}

/// What a listing shows of one checkpoint.
///
/// # Errors
/// Why it cannot be served, as a sentence without the folder's path.
pub fn describe(source: &Source) -> std::result::Result<Summary, String> {
    let checkpoint = Checkpoint::open(source).map_err(|error| match source {
        Source::Directory(path) => shown(&error.to_string(), path),
        Source::File(path) => shown(&error.to_string(), path.parent().unwrap_or(path)),
        Source::Embedded(_) => error.to_string(),
    })?;
    Ok(Summary {
        architecture: checkpoint.config.model_type.clone(),
        parameters: checkpoint.parameters(),
        dtype: checkpoint.dtype().name(),
        context_length: checkpoint.config.max_position_embeddings,
    })
}

/// An error without the folder it happened in: the reader knows which model it is about, and need not know the disk.
fn shown(error: &str, folder: &Path) -> String {
    let folder = folder.display().to_string();
    error
        .replace(&format!("{folder}/"), "")
        .replace(&format!("{folder}: "), "")
        .replace(&folder, ".")
}

/// Everything below `root` that looks like a model, sorted by name. Unreadable ones are listed with their reason.
/// Links that lead outside the root are not followed. A root that is missing or unreadable holds nothing.
pub fn discover(root: &Path) -> Vec<Found> {
    let Ok(root) = root.canonicalize() else { return Vec::new() };
    let mut walk = Walk {
        found: Vec::new(),
        seen: BTreeSet::new(),
        entries_left: ENTRIES_MAX,
        root: root.clone(),
    };
    walk.folder(&root, "", 0);
    walk.found.sort_by(|a, b| a.name.cmp(&b.name));
    walk.found
}

struct Walk {
    root: PathBuf,
    found: Vec<Found>,
    /// Real paths of folders visited: links can make circles.
    seen: BTreeSet<PathBuf>,
    entries_left: usize,
}

impl Walk {
    fn folder(&mut self, path: &Path, name: &str, depth: usize) {
        let Ok(real) = path.canonicalize() else { return };
        if depth > DEPTH_MAX || !real.starts_with(&self.root) || !self.seen.insert(real) {
            return;
        }
        let Ok(entries) = std::fs::read_dir(path) else { return };
        let mut names: Vec<String> = entries
            .take(self.entries_left)
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| !name.starts_with('.'))
            .collect();
        self.entries_left = self.entries_left.saturating_sub(names.len());
        names.sort();
        // A configuration beside `.pt` files is a trainer's, and each of them is a model.
        let has_files = names.iter().any(|file| torch_format(Path::new(file)).is_some());
        let is_model = |file: &String| is_weights(file) || file == "config.json" && !has_files;
        // The root itself is never a model: it would have no name.
        if !name.is_empty() && names.iter().any(is_model) {
            self.found.push(layout(path, name, &names));
            return;
        }
        for file in names {
            let below = if name.is_empty() { file.clone() } else { format!("{name}/{file}") };
            let at = path.join(&file);
            match std::fs::metadata(&at) {
                Ok(metadata) if metadata.is_dir() => self.folder(&at, &below, depth + 1),
                Ok(metadata) if metadata.is_file() => self.single(&at, &below),
                _ => {}
            }
        }
    }

    /// A file that is a model by itself.
    fn single(&mut self, path: &Path, name: &str) {
        let Some(format) = single_format(path) else { return };
        if path.canonicalize().is_ok_and(|real| real.starts_with(&self.root)) {
            self.found.push(single(path, name, format));
        }
    }
}

/// The format of a file that is a model by itself, by its ending.
fn single_format(path: &Path) -> Option<&'static str> {
    let ending = path.extension().and_then(|ending| ending.to_str());
    torch_format(path).or((ending == Some("gguf")).then_some("gguf"))
}

/// Files of `torch.save`.
fn torch_format(path: &Path) -> Option<&'static str> {
    let ending = path.extension().and_then(|ending| ending.to_str());
    matches!(ending, Some("pt" | "pth")).then_some("pt")
}

/// Weights that make a folder one model.
fn is_weights(file: &str) -> bool {
    file.ends_with(".safetensors") || is_torch_weights(file)
}

/// `pytorch_model.bin`, or a shard of it.
fn is_torch_weights(file: &str) -> bool {
    file.starts_with("pytorch_model") && Path::new(file).extension() == Some(OsStr::new("bin"))
}

/// A file as a model, whole or not.
fn single(path: &Path, name: &str, format: &'static str) -> Found {
    let metadata = std::fs::metadata(path).ok();
    let modified = metadata.as_ref().and_then(|metadata| metadata.modified().ok());
    Found {
        name: name.to_owned(),
        path: path.to_owned(),
        size_bytes: metadata.map_or(0, |metadata| metadata.len()),
        modified: modified.unwrap_or(SystemTime::UNIX_EPOCH),
        format,
        summary: describe(&Source::File(path.to_owned())),
    }
}

/// One path as a model of the given name, whole or not: a file, else a folder.
pub fn describe_path(name: &str, path: &Path) -> Found {
    if path.is_file() {
        return single(path, name, single_format(path).unwrap_or("pt"));
    }
    let entries = std::fs::read_dir(path).into_iter().flatten();
    let files: Vec<String> =
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    layout(path, name, &files)
}

/// A folder in Hugging Face layout, whole or not.
fn layout(path: &Path, name: &str, files: &[String]) -> Found {
    let is_safetensors = |file: &String| file.ends_with(".safetensors");
    // As loading chooses: the newer format, where a folder has both.
    let has_safetensors =
        files.iter().any(is_safetensors) || !files.iter().any(|f| is_torch_weights(f));
    let weights = files
        .iter()
        .filter(|file| if has_safetensors { is_safetensors(file) } else { is_torch_weights(file) });
    let metadata: Vec<_> =
        weights.filter_map(|file| std::fs::metadata(path.join(file)).ok()).collect();
    let newest = metadata.iter().filter_map(|metadata| metadata.modified().ok()).max();
    Found {
        name: name.to_owned(),
        path: path.to_owned(),
        size_bytes: metadata.iter().map(std::fs::Metadata::len).sum(),
        modified: newest.unwrap_or(SystemTime::UNIX_EPOCH),
        format: if has_safetensors { "safetensors" } else { "pt" },
        summary: describe(&Source::Directory(path.to_owned())),
    }
}
