//! A checkpoint's files by name: on disk or inside the binary.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::json::parse_object;
use super::{Bytes, Source};
use crate::error::{Error, Result};

/// The largest text file read whole: tokenizers of released models take some ten megabytes.
const TEXT_BYTES_MAX: u64 = 256 << 20;

const INDEX: &str = "model.safetensors.index.json";
const TORCH_INDEX: &str = "pytorch_model.bin.index.json";
const TORCH_WEIGHTS: &str = "pytorch_model.bin";

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
        debug_assert!(READ.contains(&name), "a cache would not notice that {name} has changed");
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
                Ok(metadata) if metadata.len() > TEXT_BYTES_MAX => {
                    let problem =
                        format!("{} bytes; at most {TEXT_BYTES_MAX} are read", metadata.len());
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
            problem: format!("no `{name}`: a checkpoint in Hugging Face layout has one"),
        })
    }

    /// All weight files, mapped: those the index names, else every `*.safetensors`, else the same of
    /// `pytorch_model.bin`.
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

    /// Names of the weight files: those the index names, else every `*.safetensors`. At least one.
    pub(super) fn weight_names(&self) -> Result<Vec<String>> {
        let mut names = match self.index()? {
            Some(map) => files_of(map),
            None => self.listed()?,
        };
        if names.is_empty() {
            names = self.torch_weights()?;
        }
        if names.is_empty() {
            let problem = "no `*.safetensors` file is in it, nor `pytorch_model.bin`".to_owned();
            return Err(Error::Format { path: self.path.clone(), problem });
        }
        Ok(names)
    }

    /// The index of a sharded folder, tensor to file; `None` when it has none.
    pub(super) fn index(&self) -> Result<Option<BTreeMap<String, String>>> {
        let index = self.optional(INDEX)?;
        index.map(|(path, bytes)| indexed(&path, &bytes)).transpose()
    }

    /// The files of a checkpoint from before safetensors.
    fn torch_weights(&self) -> Result<Vec<String>> {
        if let Some((path, bytes)) = self.optional(TORCH_INDEX)? {
            return Ok(files_of(indexed(&path, &bytes)?));
        }
        let is_there =
            std::fs::metadata(self.path.join(TORCH_WEIGHTS)).is_ok_and(|file| file.is_file());
        Ok(if is_there { vec![TORCH_WEIGHTS.to_owned()] } else { Vec::new() })
    }

    /// Weight files by their ending, sorted.
    fn listed(&self) -> Result<Vec<String>> {
        let io = |source| Error::Io { path: self.path.clone(), source };
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path).map_err(io)? {
            let name = entry.map_err(io)?.file_name();
            if let Some(name) = name
                .to_str()
                .filter(|name| name.ends_with(".safetensors") && !name.starts_with('.'))
            {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }
}

/// The files of an index, each once, sorted.
fn files_of(map: BTreeMap<String, String>) -> Vec<String> {
    map.into_values().collect::<BTreeSet<_>>().into_iter().collect()
}

/// What an index says, tensor to file; each must be a plain name beside it.
fn indexed(path: &Path, bytes: &[u8]) -> Result<BTreeMap<String, String>> {
    let object = parse_object(path, bytes)?;
    let format = |problem: String| Error::Format { path: path.to_owned(), problem };
    let Some(map) = object.get("weight_map").and_then(Value::as_object) else {
        return Err(format("no `weight_map`: the index says which file holds which tensor".into()));
    };
    let mut files = BTreeMap::new();
    for (tensor, file) in map {
        let name = file.as_str().unwrap_or_default();
        let is_plain = Path::new(name).file_name().is_some_and(|last| last == name)
            && !name.contains(['/', '\\', '\0']);
        if !is_plain {
            return Err(format(format!(
                "tensor `{tensor}` is in {file}, wanted a file name of this folder"
            )));
        }
        files.insert(tensor.clone(), name.to_owned());
    }
    Ok(files)
}
