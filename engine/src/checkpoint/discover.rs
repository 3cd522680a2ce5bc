//! Finding models below the checkpoint root, by their headers alone.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::files::{Files, is_partial_weights, is_weights, whole_name};
use super::known::{Entry, Known, Snapshot};
use super::{Checkpoint, Source, gguf};

/// Folders below the root that are looked into: any depth that people make, and no end of the stack.
const DEPTH_MAX: usize = 200;
/// Entries looked at in all: a root that is somebody's home must not hang the listing.
const ENTRIES_MAX: usize = 100_000;

/// Why a link is not followed.
const LEADS_OUT: &str = "it is a link that leads out of the checkpoint root";
/// Why what a link leads to is not listed.
const LEADS_NOWHERE: &str = "it is a link, and what it leads to is not there";
/// Names are JSON's and URLs'.
const NO_TEXT: &str = "its name is not UTF-8: it needs another one to be served";
/// How files of a trainer's state begin, which it leaves beside the weights.
const STATE: [&str; 5] = ["optimizer", "scheduler", "scaler", "rng_state", "training_args"];
/// Endings of model files that other programs write.
const FOREIGN: [&str; 9] =
    ["ckpt", "ggml", "h5", "mlmodel", "msgpack", "npz", "onnx", "pdparams", "tflite"];
/// Smaller ones of a common ending are something else.
const FOREIGN_BYTES_MIN: u64 = 1 << 20;

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
    /// `safetensors`, `pt` or `gguf`; `unknown` for what is listed with its reason alone.
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
    let checkpoint = Checkpoint::glance(source).map_err(|error| match source {
        Source::Directory(path) => {
            let reason = shown(&error.to_string(), path);
            match Files::new(source).partial().filter(|name| !reason.contains(name)) {
                Some(name) => format!("`{name}` has not come whole yet: {reason}"),
                None => reason,
            }
        }
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
pub(super) fn shown(error: &str, folder: &Path) -> String {
    let folder = folder.display().to_string();
    error
        .replace(&format!("{folder}/"), "")
        .replace(&format!("{folder}: "), "")
        .replace(&folder, ".")
}

/// Everything below `root` that looks like a model, sorted by name. What cannot be served, folders that cannot be read
/// and links that lead outside the root, which are not followed, are listed with their reason. A root that is missing
/// or unreadable holds nothing.
pub fn discover(root: &Path) -> Vec<Found> {
    discover_again(root, &mut Known::default())
}

/// [`discover`] for who lists again and again: only what has changed since `known` was last used is read.
pub fn discover_again(root: &Path, known: &mut Known) -> Vec<Found> {
    let Ok(root) = root.canonicalize() else { return Vec::new() };
    let mut walk = Walk {
        known,
        found: Vec::new(),
        seen: BTreeSet::new(),
        entries_left: ENTRIES_MAX,
        root: root.clone(),
    };
    walk.folder(&At { path: root, name: String::new(), depth: 0, is_inside: false });
    walk.known.forget_the_rest();
    walk.found.sort_by(|a, b| a.name.cmp(&b.name));
    walk.found.dedup_by(|a, b| a.name == b.name);
    walk.found
}

/// A place in the walk.
struct At {
    path: PathBuf,
    /// Empty for the root, which has no name to be listed under.
    name: String,
    depth: usize,
    /// Below a folder that is a model: what is no model there belongs to it.
    is_inside: bool,
}

impl At {
    fn below(&self, entry: &Entry, is_inside: bool) -> Self {
        let last = entry.name.to_string_lossy();
        let name = if self.name.is_empty() { last.into() } else { format!("{}/{last}", self.name) };
        Self { path: self.path.join(&entry.name), name, depth: self.depth + 1, is_inside }
    }
}

struct Walk<'a> {
    root: PathBuf,
    known: &'a mut Known,
    found: Vec<Found>,
    /// Real paths of folders visited: links can make circles.
    seen: BTreeSet<PathBuf>,
    entries_left: usize,
}

impl Walk<'_> {
    fn folder(&mut self, at: &At) {
        let real = match at.path.canonicalize() {
            Ok(real) if real.starts_with(&self.root) => real,
            Ok(_) => return self.refuse(at, LEADS_OUT),
            Err(error) => return self.refuse(at, &format!("it cannot be read: {error}")),
        };
        if at.depth > DEPTH_MAX || !self.seen.insert(real) {
            return;
        }
        let snapshot = match Snapshot::of(&at.path, self.entries_left) {
            Ok(snapshot) => snapshot,
            Err(error) => return self.refuse(at, &format!("it cannot be read: {error}")),
        };
        self.entries_left = self.entries_left.saturating_sub(snapshot.entries.len());
        let has = |is: fn(&str) -> bool| {
            let mut names = snapshot.entries.iter().filter_map(Entry::text);
            names.any(|name| !name.starts_with('.') && is(name))
        };
        let has_config = has(|name| name == "config.json");
        // The root itself is never a model: it would have no name.
        let is_model =
            !at.name.is_empty() && (has(is_weights) || has_config && has(is_partial_weights));
        let before = self.found.len();
        if is_model {
            self.layout(at, &snapshot);
        }
        // What has a place of its own before links to it: a folder is listed once.
        for links in [false, true] {
            for entry in snapshot.entries.iter().filter(|entry| entry.is_link == links) {
                let is_hidden = entry.name.to_string_lossy().starts_with('.');
                let is_state = is_model && entry.is_file() && entry.text().is_some_and(is_state);
                if !is_hidden && !is_state {
                    let below = at.below(entry, at.is_inside || is_model);
                    self.entry(&below, entry, &snapshot);
                }
            }
        }
        // A configuration alone is a model that is still to come, unless it is that of what lies beside or below.
        if has_config && self.found.len() == before && !at.name.is_empty() && !at.is_inside {
            self.layout(at, &snapshot);
        }
    }

    fn entry(&mut self, at: &At, entry: &Entry, snapshot: &Snapshot) {
        let format = single_format(&at.path);
        if entry.text().is_none() {
            if entry.is_dir() || format.is_some() {
                self.refuse(at, NO_TEXT);
            }
        } else if entry.metadata.is_none() && entry.is_link {
            self.refuse(at, LEADS_NOWHERE);
        } else if entry.is_dir() {
            self.folder(at);
        } else if entry.is_file() {
            match format {
                Some(format) => self.single(at, format, snapshot),
                None => self.foreign(at, entry),
            }
        }
    }

    /// Lists what is not looked into.
    fn refuse(&mut self, at: &At, reason: &str) {
        if !at.name.is_empty() && !at.is_inside {
            self.found.push(refused(&at.path, &at.name, reason.to_owned()));
        }
    }

    fn leads_out(&self, folder: &Path, entry: &Entry) -> bool {
        let real = || folder.join(&entry.name).canonicalize();
        entry.is_link && real().is_ok_and(|real| !real.starts_with(&self.root))
    }

    /// A folder in Hugging Face layout, whole or not.
    fn layout(&mut self, at: &At, snapshot: &Snapshot) {
        let is_read =
            |entry: &&Entry| entry.is_file() && single_format(Path::new(&entry.name)).is_none();
        let away = snapshot.entries.iter().filter(is_read).find(|e| self.leads_out(&at.path, e));
        let found = match away {
            Some(file) => {
                let reason = format!("`{}`: {LEADS_OUT}", file.name.to_string_lossy());
                Found { format: "safetensors", ..refused(&at.path, &at.name, reason) }
            }
            None => self.known.or_read(&at.path, snapshot.mark(), || layout(&at.path, &at.name)),
        };
        self.found.push(found);
    }

    /// A file that is a model by itself.
    fn single(&mut self, at: &At, format: &'static str, snapshot: &Snapshot) {
        // A model in several files goes by its first; without that one the others are listed with their reason.
        let first = gguf::Part::of(&at.path).filter(|part| part.number > 1);
        if first.is_some_and(|part| part.path(1).is_file()) {
            return;
        }
        let folder = at.path.parent().unwrap_or(&at.path);
        let found = if snapshot.parts(&at.path).any(|part| self.leads_out(folder, part)) {
            refused(&at.path, &at.name, LEADS_OUT.to_owned())
        } else {
            let mark = snapshot.mark_of(&at.path, format);
            self.known.or_read(&at.path, mark, || single(&at.path, &at.name, format))
        };
        self.found.push(found);
    }

    /// A file by itself that some other program would take for a model, or the beginning of one.
    fn foreign(&mut self, at: &At, entry: &Entry) {
        let Some(name) = entry.text() else { return };
        let ending = Path::new(name).extension().and_then(|ending| ending.to_str());
        let Some(ending) = ending.map(str::to_ascii_lowercase) else { return };
        let size = entry.metadata.as_ref().map_or(0, std::fs::Metadata::len);
        let is_model = |name: &str| single_format(Path::new(name)).is_some() || is_weights(name);
        let reason = if whole_name(name).is_some_and(is_model) {
            format!("`.{ending}`: it has not come whole yet")
        } else if FOREIGN.contains(&ending.as_str()) && size >= FOREIGN_BYTES_MIN {
            format!(
                "`.{ending}` files are not supported; `.gguf`, `.pt` and folders in Hugging Face layout are"
            )
        } else {
            return;
        };
        if !at.is_inside {
            self.found.push(Found { size_bytes: size, ..refused(&at.path, &at.name, reason) });
        }
    }
}

fn is_state(name: &str) -> bool {
    STATE.iter().any(|state| name.starts_with(state))
}

/// The format of a file that is a model by itself, by its ending.
pub(super) fn single_format(path: &Path) -> Option<&'static str> {
    let ending = path.extension()?.to_str()?.to_ascii_lowercase();
    match ending.as_str() {
        "gguf" => Some("gguf"),
        // Files of `torch.save`.
        "pt" | "pth" => Some("pt"),
        _ => None,
    }
}

/// Something that cannot be served, and why.
fn refused(path: &Path, name: &str, reason: String) -> Found {
    let modified = std::fs::symlink_metadata(path).and_then(|metadata| metadata.modified());
    Found {
        name: name.to_owned(),
        path: path.to_owned(),
        size_bytes: 0,
        modified: modified.unwrap_or(SystemTime::UNIX_EPOCH),
        format: "unknown",
        summary: Err(reason),
    }
}

/// One path as a model of the given name, whole or not: a file, else a folder.
pub fn describe_path(name: &str, path: &Path) -> Found {
    if path.is_file() {
        return single(path, name, single_format(path).unwrap_or("pt"));
    }
    layout(path, name)
}

/// A file as a model, whole or not, with its others where it is the first of several.
fn single(path: &Path, name: &str, format: &'static str) -> Found {
    let source = Source::File(path.to_owned());
    found(path, name, format, &source, gguf::files(path))
}

/// A folder in Hugging Face layout, whole or not.
fn layout(path: &Path, name: &str) -> Found {
    let source = Source::Directory(path.to_owned());
    let names = Files::new(&source).weight_names().unwrap_or_default();
    let is_torch = names.first().is_some_and(|name| !name.ends_with(".safetensors"));
    let format = if is_torch { "pt" } else { "safetensors" };
    found(path, name, format, &source, names.iter().map(|name| path.join(name)))
}

fn found(
    path: &Path,
    name: &str,
    format: &'static str,
    source: &Source,
    files: impl Iterator<Item = PathBuf>,
) -> Found {
    let metadata: Vec<_> = files.map_while(|file| std::fs::metadata(file).ok()).collect();
    let newest = metadata.iter().filter_map(|metadata| metadata.modified().ok()).max();
    Found {
        name: name.to_owned(),
        path: path.to_owned(),
        size_bytes: metadata.iter().map(std::fs::Metadata::len).sum(),
        modified: newest.unwrap_or(SystemTime::UNIX_EPOCH),
        format,
        summary: describe(source),
    }
}
