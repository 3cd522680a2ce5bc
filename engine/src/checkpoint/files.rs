//! A checkpoint's files by name: on disk or inside the binary.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::json::each_member;
use super::{Bytes, Source};
use crate::error::{Error, Result};

/// The largest text file read whole: tokenizers of released models take some ten megabytes.
const TEXT_BYTES_MAX: u64 = 256 << 20;
/// The largest file of settings: a page of text, which takes some twenty times its size once it is a tree.
const SETTINGS_BYTES_MAX: u64 = 1 << 20;
const SETTINGS: [&str; 2] = ["config.json", "generation_config.json"];

const INDEX: &str = "model.safetensors.index.json";
const TORCH_INDEX: &str = "pytorch_model.bin.index.json";
const TORCH_WEIGHTS: &str = "pytorch_model.bin";
const WEIGHTS: &str = "model.safetensors";

/// Endings that programs give to a file until it has come whole.
const PARTIAL: [&str; 6] = ["aria2", "crdownload", "download", "incomplete", "part", "partial"];
/// Values of a line of an index: a file's name is one.
const NODES_MAX: usize = 16;
/// How files begin that have a model's tensors once more, or something else than a model's.
const ASIDE: [&str; 2] = ["consolidated", "adapter_model"];

/// Every file that opening may read besides the weights: a cache that was made of others is stale.
pub(super) const READ: [&str; 12] = [
    "config.json",
    "config.yaml",
    "config.yml",
    "generation_config.json",
    INDEX,
    TORCH_INDEX,
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "tiktoken.model",
];

/// A checkpoint's files.
pub(super) struct Files<'a> {
    source: &'a Source,
    path: PathBuf,
}

impl<'a> Files<'a> {
    pub(super) fn new(source: &'a Source) -> Self {
        let path = match source {
            Source::Directory(path) => path.clone(),
            Source::File(path) => path.parent().unwrap_or(Path::new("")).to_owned(),
            Source::Embedded(_) => PathBuf::from("builtin:"),
        };
        Self { source, path }
    }

    /// The folder, as errors name it.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A file's content, when it is there.
    pub(super) fn optional(&self, name: &str) -> Result<Option<(PathBuf, Vec<u8>)>> {
        assert!(READ.contains(&name), "a cache would not notice that {name} has changed");
        let path = self.path.join(name);
        let io = |source| Error::Io { path: path.clone(), source };
        let bytes = match self.source {
            Source::Embedded(files) => {
                files.iter().find(|(file, _)| *file == name).map(|(_, bytes)| bytes.to_vec())
            }
            Source::Directory(_) | Source::File(_) => match std::fs::metadata(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
                Err(error) => return Err(io(error)),
                Ok(metadata) if !metadata.is_file() => {
                    return Err(Error::Format { path, problem: "not a regular file".into() });
                }
                Ok(metadata) if metadata.len() > bytes_max(name) => {
                    let (len, max) = (metadata.len(), bytes_max(name));
                    let problem = format!("{len} bytes; at most {max} are read");
                    return Err(Error::Format { path, problem });
                }
                Ok(_) => Some(std::fs::read(&path).map_err(io)?),
            },
        };
        Ok(bytes.map(|bytes| (path, bytes)))
    }

    /// A file's content.
    pub(super) fn required(&self, name: &str) -> Result<(PathBuf, Vec<u8>)> {
        self.optional(name)?.ok_or_else(|| Error::Format {
            path: self.path.clone(),
            problem: format!(
                "no `{name}`: a checkpoint in Hugging Face layout has one{}",
                self.instead()
            ),
        })
    }

    /// What else the folder holds, for one that is no checkpoint: a download that has not ended, files that are models
    /// by themselves.
    fn instead(&self) -> String {
        let names = self.names().unwrap_or_default();
        if let Some(name) = names.iter().find(|name| is_partial_weights(name)) {
            return format!("; `{name}` has not come whole yet");
        }
        let is_single = |name: &&String| super::discover::single_format(Path::new(name)).is_some();
        let singles: Vec<&String> = names.iter().filter(is_single).take(3).collect();
        match singles.as_slice() {
            [] => String::new(),
            [one] => format!("; `{one}` in it is a model by itself: name that file"),
            [first, ..] => {
                format!("; the files in it are models by themselves: name one, `{first}`")
            }
        }
    }

    /// All weight files, mapped: [`Files::weight_names`].
    pub(super) fn weights(&self) -> Result<Vec<(PathBuf, Bytes)>> {
        if let Source::Embedded(files) = self.source {
            let weights = files.iter().filter(|(name, _)| name.ends_with(".safetensors"));
            return Ok(weights
                .map(|(name, bytes)| (self.path.join(name), Bytes::from_static(bytes)))
                .collect());
        }
        let names = self.weight_names()?;
        let open = |name: String| {
            let path = self.path.join(name);
            Bytes::open(&path).map(|bytes| (path, bytes))
        };
        names.into_iter().map(open).collect()
    }

    /// Names of the weight files, at least one. As `transformers` chooses: `model.safetensors` alone, unless an index
    /// names it among others; else the files of the index; else every `*.safetensors`; else the same of
    /// `pytorch_model.bin`.
    pub(super) fn weight_names(&self) -> Result<Vec<String>> {
        let names = self.names()?;
        let mut files = match self.chosen(INDEX, WEIGHTS, &names)? {
            Some(files) => files,
            None => without_aside(names.iter().filter(|name| name.ends_with(".safetensors"))),
        };
        if files.is_empty() {
            files = match self.chosen(TORCH_INDEX, TORCH_WEIGHTS, &names)? {
                Some(files) => files,
                None => names.into_iter().filter(|name| is_torch_weights(name)).collect(),
            };
        }
        if files.is_empty() {
            let instead = self.instead();
            let problem =
                format!("no `*.safetensors` file is in it, nor `pytorch_model.bin`{instead}");
            return Err(Error::Format { path: self.path.clone(), problem });
        }
        Ok(files)
    }

    /// What an index or the file that is whole without one decides.
    fn chosen(&self, index: &str, whole: &str, names: &[String]) -> Result<Option<Vec<String>>> {
        let is_whole = names.iter().any(|name| name == whole);
        Ok(match self.indexed_files(index) {
            Ok(Some(files)) if !is_whole || files.contains(whole) => {
                Some(files.into_iter().collect())
            }
            _ if is_whole => Some(vec![whole.to_owned()]),
            Err(problem) => return Err(problem),
            Ok(_) => None,
        })
    }

    /// A weight file that is still being written, by the name of its beginning.
    pub(super) fn partial(&self) -> Option<String> {
        self.names().ok()?.into_iter().find(|name| is_partial_weights(name))
    }

    /// The index of a sharded folder, tensor to file, used or not; `None` when it has none.
    pub(super) fn index(&self) -> Result<Option<BTreeMap<String, Arc<str>>>> {
        let Some((path, bytes)) = self.optional(INDEX)? else { return Ok(None) };
        let (mut map, mut files) = (BTreeMap::new(), BTreeSet::new());
        each_indexed(&path, &bytes, &mut |tensor, name| {
            let file: Arc<str> = files.get(name).cloned().unwrap_or_else(|| name.into());
            files.insert(Arc::clone(&file));
            map.insert(tensor.to_owned(), file);
        })?;
        Ok(Some(map))
    }

    /// The files an index names; `None` without one.
    fn indexed_files(&self, index: &str) -> Result<Option<BTreeSet<String>>> {
        let Some((path, bytes)) = self.optional(index)? else { return Ok(None) };
        let mut files = BTreeSet::new();
        each_indexed(&path, &bytes, &mut |_, name| {
            if !files.contains(name) {
                files.insert(name.to_owned());
            }
        })?;
        Ok(Some(files))
    }

    /// The folder's names that are text and not hidden, sorted.
    fn names(&self) -> Result<Vec<String>> {
        let io = |source| Error::Io { path: self.path.clone(), source };
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path).map_err(io)? {
            let name = entry.map_err(io)?.file_name();
            names.extend(name.to_str().filter(|name| !name.starts_with('.')).map(str::to_owned));
        }
        names.sort();
        Ok(names)
    }
}

fn bytes_max(name: &str) -> u64 {
    if SETTINGS.contains(&name) { SETTINGS_BYTES_MAX } else { TEXT_BYTES_MAX }
}

/// Whether a file of this name holds weights that make its folder one model.
pub fn is_weights(file: &str) -> bool {
    file.ends_with(".safetensors") || is_torch_weights(file)
}

/// `pytorch_model.bin`, or a shard of it.
fn is_torch_weights(file: &str) -> bool {
    file.starts_with("pytorch_model") && Path::new(file).extension() == Some(OsStr::new("bin"))
}

/// The name that a file will have when it has come whole, by its ending; `None` for one that has.
pub(super) fn whole_name(file: &str) -> Option<&str> {
    let (whole, ending) = file.rsplit_once('.')?;
    PARTIAL.iter().any(|partial| ending.eq_ignore_ascii_case(partial)).then_some(whole)
}

/// Whether it is the beginning of a weight file.
pub(super) fn is_partial_weights(file: &str) -> bool {
    whole_name(file).is_some_and(is_weights)
}

/// Weight files without those that are none of a model's own, where others are there.
fn without_aside<'n>(names: impl Iterator<Item = &'n String>) -> Vec<String> {
    let is_aside = |name: &&String| ASIDE.iter().any(|aside| name.starts_with(aside));
    let (aside, own): (Vec<&String>, Vec<&String>) = names.partition(is_aside);
    if own.is_empty() { aside } else { own }.into_iter().cloned().collect()
}

/// Visits what an index says, tensor and file; each file must be a plain name beside it.
fn each_indexed(path: &Path, bytes: &[u8], visit: &mut dyn FnMut(&str, &str)) -> Result<()> {
    let format = |problem: String| Error::Format { path: path.to_owned(), problem };
    let found = each_member(path, bytes, Some("weight_map"), NODES_MAX, &mut |tensor, file| {
        let name = file.as_str().unwrap_or_default();
        let is_plain = Path::new(name).file_name().is_some_and(|last| last == name)
            && !name.contains(['/', '\\', '\0']);
        if !is_plain {
            let file: String = file.to_string().chars().take(200).collect();
            return Err(format(format!(
                "tensor `{tensor}` is in {file}, wanted a file name of this folder"
            )));
        }
        visit(&tensor, name);
        Ok(())
    })?;
    if found {
        return Ok(());
    }
    Err(format("no `weight_map`: the index says which file holds which tensor".into()))
}
