//! A file that is a model by itself; one of `torch.save` has its settings and tokenizer beside it.

use std::path::Path;

use serde_json::{Map, Value};

use super::files::Files;
use super::json::parse_object;
use super::text_side::TextSide;
use super::{Bytes, Contents, ModelConfig, Source, folder, gguf, mini, pt, yaml};
use crate::error::{Error, Result};

/// Endings of files of `torch.save`.
const TORCH: [&str; 3] = ["pt", "pth", "bin"];

/// Whether a file has everything in it.
pub(super) fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "gguf")
}

/// Reads a file by its ending.
///
/// # Errors
/// Names the file, what was found and what was wanted.
pub(super) fn read(path: &Path) -> Result<Contents> {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    let ending = ending.to_ascii_lowercase();
    match ending.as_str() {
        "gguf" => gguf::read(path),
        _ if TORCH.contains(&ending.as_str()) => torch(path),
        "safetensors" => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            let folder = folder.unwrap_or(Path::new(".")).display();
            let what = format!("it is a part of a model: the model is its folder, `{folder}`");
            Err(Error::Unsupported { path: path.to_owned(), what })
        }
        _ => Err(Error::Unsupported {
            path: path.to_owned(),
            what: format!(
                "`.{ending}` files are not supported; `.gguf`, and `.pt`, `.pth` and `.bin` of `torch.save` are"
            ),
        }),
    }
}

/// A `.pt` file. Hyper-parameters come from the file when they are in it, else from a configuration beside it, else from
/// the tensors' shapes.
fn torch(path: &Path) -> Result<Contents> {
    let source = Source::File(path.to_owned());
    let files = Files::new(&source);
    let bytes = Bytes::open(path)?;
    let saved = pt::read(path, &bytes)?;
    let inside = saved.settings.into_iter().find(names_sizes);
    let beside = if inside.is_none() { beside(&files)? } else { None };
    let is_mini = mini::is_mini(&saved.tensors);
    let config = match (&inside, &beside) {
        (Some(object), _) if is_mini => mini::config(path, Some(object), &saved.tensors)?,
        (None, Some((at, object))) if is_mini => mini::config(at, Some(object), &saved.tensors)?,
        _ if is_mini => mini::config(path, None, &saved.tensors)?,
        (Some(object), _) => ModelConfig::of(path, object)?,
        (None, Some((at, object))) => ModelConfig::of(at, object)?,
        (None, None) => {
            let problem = "its tensors are not mini-deepseek's, and there is no `config.json` beside it that says whose they are";
            return Err(Error::Format { path: path.to_owned(), problem: problem.into() });
        }
    };
    let none = Map::new();
    let (at, object) = beside.as_ref().map_or((path, &none), |(at, object)| (at.as_path(), object));
    let generation = folder::generation(&files, at, if is_mini { &none } else { object })?;
    let text = TextSide::Files(source.clone(), is_mini);
    Ok(Contents {
        path: path.to_owned(),
        config,
        generation,
        text,
        tensors: saved.tensors,
        files: vec![bytes],
    })
}

/// Whether settings found in a file are the model's, and not a trainer's own.
fn names_sizes(object: &Map<String, Value>) -> bool {
    ["hidden_size", "kv_lora_rank"].iter().all(|name| mini::section(object).contains_key(*name))
}

/// The configuration in the file's folder.
fn beside(files: &Files<'_>) -> Result<Option<(std::path::PathBuf, Map<String, Value>)>> {
    for name in ["config.yaml", "config.yml"] {
        if let Some((path, bytes)) = files.optional(name)? {
            let object = yaml::parse_object(&path, &bytes)?;
            return Ok(Some((path, object)));
        }
    }
    let Some((path, bytes)) = files.optional("config.json")? else { return Ok(None) };
    let object = parse_object(&path, &bytes)?;
    Ok(Some((path, object)))
}
