//! Finding models below the checkpoint root, by their headers alone.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::known::Known;
use super::{Checkpoint, Source, gguf};

/// Folders below the root that are looked into: any depth that people make, and no end of the stack.
const DEPTH_MAX: usize = 200;
/// Entries looked at in all: a root that is somebody's home must not hang the listing.
const ENTRIES_MAX: usize = 100_000;

/// Why a link is not followed.
const LEADS_OUT: &str = "it is a link that leads out of the checkpoint root";
/// Endings of model files that other programs write.
const FOREIGN: [&str; 9] =
    ["ckpt", "ggml", "h5", "mlmodel", "msgpack", "npz", "onnx", "pdparams", "tflite"];
/// Endings that programs give to a file until it has come whole.
const PARTIAL: [&str; 6] = ["aria2", "crdownload", "download", "incomplete", "part", "partial"];
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
    walk.folder(&root, "", 0);
    walk.known.forget_the_rest();
    walk.found.sort_by(|a, b| a.name.cmp(&b.name));
    walk.found
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
    fn folder(&mut self, path: &Path, name: &str, depth: usize) {
        let real = match path.canonicalize() {
            Ok(real) if real.starts_with(&self.root) => real,
            Ok(_) => return self.refuse(path, name, LEADS_OUT),
            Err(error) => return self.refuse(path, name, &format!("it cannot be read: {error}")),
        };
        if depth > DEPTH_MAX || !self.seen.insert(real) {
            return;
        }
        let entries = match std::fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) => return self.refuse(path, name, &format!("it cannot be read: {error}")),
        };
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
            let leads_out = |file: &&String| {
                let real = path.join(file.as_str()).canonicalize();
                real.is_ok_and(|real| !real.starts_with(&self.root))
            };
            let found = match names.iter().find(leads_out) {
                Some(file) => {
                    let reason = format!("`{file}`: {LEADS_OUT}");
                    Found { format: "safetensors", ..refused(path, name, reason) }
                }
                None => layout(path, name, &names, self.known),
            };
            self.found.push(found);
            return;
        }
        // What has a place of its own before links to it: a folder is listed once.
        names.sort_by_key(|file| path.join(file).is_symlink());
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

    /// Lists what is not looked into; the root itself has no name to be listed under.
    fn refuse(&mut self, path: &Path, name: &str, reason: &str) {
        if !name.is_empty() {
            self.found.push(refused(path, name, reason.to_owned()));
        }
    }

    /// A file that is a model by itself.
    fn single(&mut self, path: &Path, name: &str) {
        let Some(format) = single_format(path) else { return self.foreign(path, name) };
        if !path.canonicalize().is_ok_and(|real| real.starts_with(&self.root)) {
            return;
        }
        // A model in several files goes by its first; without that one the others are listed with their reason.
        let first = gguf::Part::of(path).filter(|part| part.number > 1);
        if !first.is_some_and(|part| part.path(1).is_file()) {
            self.found.push(single(path, name, format, self.known));
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

/// Whether a file of this name holds weights that make its folder one model.
pub fn is_weights(file: &str) -> bool {
    file.ends_with(".safetensors") || is_torch_weights(file)
}

/// `pytorch_model.bin`, or a shard of it.
fn is_torch_weights(file: &str) -> bool {
    file.starts_with("pytorch_model") && Path::new(file).extension() == Some(OsStr::new("bin"))
}

/// A file as a model, whole or not, with its others where it is the first of several.
fn single(path: &Path, name: &str, format: &'static str, known: &mut Known) -> Found {
    let metadata: Vec<_> =
        gguf::files(path).map_while(|file| std::fs::metadata(file).ok()).collect();
    let newest = metadata.iter().filter_map(|metadata| metadata.modified().ok()).max();
    Found {
        name: name.to_owned(),
        path: path.to_owned(),
        size_bytes: metadata.iter().map(std::fs::Metadata::len).sum(),
        modified: newest.unwrap_or(SystemTime::UNIX_EPOCH),
        format,
        summary: known.describe(&Source::File(path.to_owned())),
    }
}

impl Walk<'_> {
    /// A file by itself that some other program would take for a model, or the beginning of one.
    fn foreign(&mut self, path: &Path, name: &str) {
        let ending = |path: &Path| {
            path.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase)
        };
        let Some(last) = ending(path) else { return };
        let whole = ending(&path.with_extension(""));
        let is_model = |ending: &str| matches!(ending, "safetensors" | "gguf" | "pt" | "pth");
        let size = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        let reason = if PARTIAL.contains(&last.as_str()) && whole.is_some_and(|e| is_model(&e)) {
            format!("`.{last}`: it has not come whole yet")
        } else if FOREIGN.contains(&last.as_str()) && size >= FOREIGN_BYTES_MIN {
            format!(
                "`.{last}` files are not supported; `.gguf`, `.pt` and folders in Hugging Face layout are"
            )
        } else {
            return;
        };
        self.found.push(Found { size_bytes: size, ..refused(path, name, reason) });
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
    let mut known = Known::default();
    if path.is_file() {
        return single(path, name, single_format(path).unwrap_or("pt"), &mut known);
    }
    let entries = std::fs::read_dir(path).into_iter().flatten();
    let files: Vec<String> =
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    layout(path, name, &files, &mut known)
}

/// A folder in Hugging Face layout, whole or not.
fn layout(path: &Path, name: &str, files: &[String], known: &mut Known) -> Found {
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
        summary: known.describe(&Source::Directory(path.to_owned())),
    }
}
