//! Finding models below the checkpoint root, by their headers alone.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{Checkpoint, Source, gguf};

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
    /// What opens it.
    pub fn source(&self) -> Source {
        match self.format {
            "safetensors" => Source::Directory(self.path.clone()),
            _ => Source::File(self.path.clone()),
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
        // A model in several files has its others beside it.
        Source::File(path) => {
            shown(&shown(&error.to_string(), path), path.parent().unwrap_or(path))
        }
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
        let is_model = |file: &String| file == "config.json" || file.ends_with(".safetensors");
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
                Ok(metadata) if metadata.is_file() => self.single(&at, below, &metadata),
                _ => {}
            }
        }
    }

    /// A file that is a model by itself.
    fn single(&mut self, path: &Path, name: String, metadata: &std::fs::Metadata) {
        let format = match path.extension().and_then(|extension| extension.to_str()) {
            Some("pt" | "pth") => "pt",
            Some("gguf") => "gguf",
            _ => return,
        };
        if !path.canonicalize().is_ok_and(|real| real.starts_with(&self.root)) {
            return;
        }
        if format == "gguf" {
            // A model in several files goes by its first; without that one the others are listed with their reason.
            let first = gguf::Part::of(path).filter(|part| part.number > 1);
            if !first.is_some_and(|part| part.path(1).is_file()) {
                self.found.push(describe_file(&name, path));
            }
            return;
        }
        self.found.push(Found {
            name,
            path: path.to_owned(),
            size_bytes: metadata.len(),
            modified: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
            format,
            summary: Err(format!(
                "`.{format}` files are not supported yet; folders in Hugging Face layout are"
            )),
        });
    }
}

/// One file that is a model of the given name, whole or not: `.gguf`.
pub fn describe_file(name: &str, path: &Path) -> Found {
    let metadata: Vec<_> =
        gguf::files(path).map_while(|file| std::fs::metadata(file).ok()).collect();
    let newest = metadata.iter().filter_map(|metadata| metadata.modified().ok()).max();
    Found {
        name: name.to_owned(),
        path: path.to_owned(),
        size_bytes: metadata.iter().map(std::fs::Metadata::len).sum(),
        modified: newest.unwrap_or(SystemTime::UNIX_EPOCH),
        format: "gguf",
        summary: describe(&Source::File(path.to_owned())),
    }
}

/// One folder as a model of the given name, whole or not.
pub fn describe_folder(name: &str, path: &Path) -> Found {
    let entries = std::fs::read_dir(path).into_iter().flatten();
    let files: Vec<String> =
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    layout(path, name, &files)
}

/// A folder in Hugging Face layout, whole or not.
fn layout(path: &Path, name: &str, files: &[String]) -> Found {
    let weights = files.iter().filter(|file| file.ends_with(".safetensors"));
    let metadata: Vec<_> =
        weights.filter_map(|file| std::fs::metadata(path.join(file)).ok()).collect();
    let newest = metadata.iter().filter_map(|metadata| metadata.modified().ok()).max();
    Found {
        name: name.to_owned(),
        path: path.to_owned(),
        size_bytes: metadata.iter().map(std::fs::Metadata::len).sum(),
        modified: newest.unwrap_or(SystemTime::UNIX_EPOCH),
        format: "safetensors",
        summary: describe(&Source::Directory(path.to_owned())),
    }
}
