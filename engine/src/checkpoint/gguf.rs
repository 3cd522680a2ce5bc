//! A `.gguf` file, or several that are one model, with llama.cpp's `deepseek2` layout.
//!
//! Everything is in the file: sizes and rules as metadata, tokenizer and chat template too. The metadata becomes the
//! `config.json` it was made from and tensors get their released names, so nothing behind this module knows the
//! difference. Tensors stay where they lie: merged experts are sliced, and the halves of `kv_b_proj` are used as halves.

mod config;
mod container;
mod metadata;
mod names;
#[cfg(test)]
mod tests;
mod text;
mod types;
mod vocabulary;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::Contents;
use super::text_side::TextSide;
use crate::error::{Error, Result};
use container::Container;
pub(super) use vocabulary::Text;

/// Reads a model by its first file.
///
/// # Errors
/// Names the file and the key or tensor, what was found and what was wanted.
pub(super) fn read(path: &Path) -> Result<Contents> {
    let mut first = Container::open(path)?;
    let rest = rest(&first)?;
    config::architecture(&first)?;
    let names: BTreeSet<&String> =
        std::iter::once(&first).chain(&rest).flat_map(|file| file.tensors.keys()).collect();
    let config = config::config(&first, |name| names.contains(&name.to_owned()))?;
    let generation = text::generation(&first)?;
    let mut files = vec![first.bytes.clone()];
    let mut tensors = std::mem::take(&mut first.tensors);
    for file in rest {
        files.push(file.bytes);
        for (name, entry) in file.tensors {
            if tensors.insert(name.clone(), entry).is_some() {
                let problem = "it is in another file of this model too".to_owned();
                return Err(Error::TensorRange { path: file.path, name, problem });
            }
        }
    }
    let tensors = names::released(path, tensors, &config)?;
    let text = TextSide::Gguf(Text::of(first));
    Ok(Contents { path: path.to_owned(), config, generation, text, tensors, files })
}

/// The further files of a model in several.
fn rest(first: &Container) -> Result<Vec<Container>> {
    let count = first.count("split.count")?.unwrap_or(1);
    if count <= 1 {
        return Ok(Vec::new());
    }
    let part = Part::of(&first.path).filter(|part| u64::from(part.count) == count);
    let format = |problem: String| Error::Format { path: first.path.clone(), problem };
    let Some(part) = part else {
        return Err(format(format!(
            "is one of {count} files: the first is called `NAME-00001-of-{count:05}.gguf`"
        )));
    };
    if part.number != 1 || first.count("split.no")?.unwrap_or(0) != 0 {
        let name = part.path(1);
        let name = name.file_name().unwrap_or_default().to_string_lossy();
        let (number, count) = (part.number, part.count);
        return Err(format(format!("is part {number} of {count}: the model is named by `{name}`")));
    }
    let mut files = Vec::new();
    for number in 2..=part.count {
        let file = Container::open(&part.path(number))?;
        let (no, own) = (file.count("split.no")?, file.count("split.count")?);
        if (no, own) != (Some(u64::from(number) - 1), Some(count)) {
            let problem = format!(
                "says it is part {:?} of {:?}, counted from 0; wanted {} of {count}",
                no.unwrap_or(0),
                own.unwrap_or(0),
                number - 1
            );
            return Err(Error::Format { path: file.path, problem });
        }
        files.push(file);
    }
    let held: usize =
        files.iter().map(|file| file.tensors.len()).sum::<usize>() + first.tensors.len();
    match first.count("split.tensors.count")? {
        Some(wanted) if wanted != held as u64 => {
            Err(format(format!("announces {wanted} tensors, its {count} files hold {held}")))
        }
        _ => Ok(files),
    }
}

/// As files end; some systems write names in capitals.
const ENDINGS: [&str; 2] = [".gguf", ".GGUF"];

/// A file name of the form `NAME-00002-of-00003.gguf`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// Folder and `NAME`.
    stem: PathBuf,
    /// From 1.
    pub(super) number: u32,
    pub(super) count: u32,
    /// As this one is written.
    ending: &'static str,
}

impl Part {
    /// What a name says; `None` for one of another form.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let (name, ending) =
            ENDINGS.into_iter().find_map(|ending| Some((name.strip_suffix(ending)?, ending)))?;
        let (head, count) = name.rsplit_once("-of-")?;
        let (stem, number) = head.rsplit_once('-')?;
        let five = |digits: &str| {
            let is_right = digits.len() == 5 && digits.bytes().all(|digit| digit.is_ascii_digit());
            if is_right { digits.parse::<u32>().ok() } else { None }
        };
        let (number, count) = (five(number)?, five(count)?);
        let is_right = (1..=count).contains(&number);
        is_right.then(|| Self { stem: path.with_file_name(stem), number, count, ending })
    }

    /// The part of that number, beside this one.
    pub(super) fn path(&self, number: u32) -> PathBuf {
        let mut name = self.stem.clone().into_os_string();
        name.push(format!("-{number:05}-of-{:05}{}", self.count, self.ending));
        name.into()
    }
}

/// The files of the model whose first is `path`, as far as names go.
pub(super) fn files(path: &Path) -> impl Iterator<Item = PathBuf> {
    let part = Part::of(path);
    let count = part.as_ref().map_or(1, |part| part.count);
    let path = path.to_owned();
    (1..=count)
        .map(move |number| part.as_ref().map_or_else(|| path.clone(), |part| part.path(number)))
}
