//! All that can be said of a checkpoint, whole or broken: `open` stops at the first thing that is wrong, a survey goes
//! on and collects them all.

use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::path::{Path, PathBuf};

use super::discover::shown;
use super::files::Files;
use super::json::parse_object;
use super::safetensors::{Entry, entries_and_problems};
use super::text_side::TextSide;
use super::{Bytes, Checkpoint, ModelConfig, Source, TextFiles, check, folder, mini, part, pt};
use crate::error::Error;

/// Problems and notes that are kept: a file full of them must not fill the memory too.
const PROBLEMS_MAX: usize = 1000;

/// A tensor as its file lists it.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// The stored type in its file's words, `BF16`; also where this build cannot use it.
    pub dtype: String,
    /// Outermost first.
    pub shape: Vec<usize>,
    /// As stored.
    pub bytes: Bytes,
    /// Whether the ordinary pass uses it: not the MTP layer, nor what the configuration does not ask for.
    pub is_used: bool,
}

impl Listed {
    pub(super) fn of(name: &str, entry: &Entry, is_used: bool) -> Self {
        let (name, dtype) = (name.to_owned(), entry.dtype_name.clone());
        Self { name, dtype, shape: entry.shape.clone(), bytes: entry.bytes.clone(), is_used }
    }

    /// Numbers in it.
    pub fn parameters(&self) -> u64 {
        self.shape.iter().fold(1u64, |n, size| n.saturating_mul(*size as u64))
    }

    /// The name of its file; `None` inside the binary.
    pub fn file(&self) -> Option<String> {
        Some(self.bytes.path()?.file_name()?.to_string_lossy().into_owned())
    }
}

/// What a checkpoint holds and what is wrong with it.
#[derive(Debug, Clone, Default)]
pub struct Survey {
    /// The folder or file.
    pub path: PathBuf,
    /// `safetensors`, `gguf`, `pt`.
    pub format: &'static str,
    /// `None` when it cannot be read; `problems` says why.
    pub config: Option<ModelConfig>,
    /// Every tensor that could be read, sorted by name.
    pub tensors: Vec<Listed>,
    /// Weight files and their bytes.
    pub files: Vec<(String, u64)>,
    /// Tokenizer and template, when they can be read; of a GGUF file the template alone.
    pub text: Option<TextFiles>,
    /// Why it cannot be served.
    pub problems: Vec<String>,
    /// What is odd and does no harm.
    pub notes: Vec<String>,
}

impl Survey {
    /// Reads headers and configuration; never fails, and reads no weight.
    pub fn of(source: &Source) -> Self {
        let mut survey = match Checkpoint::headers(source) {
            Ok((checkpoint, side)) => Self::of_whole(source, checkpoint, &side),
            Err(error) => Self::of_broken(source, &error),
        };
        survey.files = files_of(source, &survey.tensors);
        if let Source::Directory(folder) = source {
            survey.compare_index(folder);
            for line in survey.problems.iter_mut().chain(&mut survey.notes) {
                *line = shown(line, folder);
            }
        }
        shorten(&mut survey.problems);
        shorten(&mut survey.notes);
        survey
    }

    fn of_whole(source: &Source, checkpoint: Checkpoint, side: &TextSide) -> Self {
        let tensors = checkpoint.listed();
        let mut notes = Vec::new();
        let spare = |tensor: &&Listed| {
            !tensor.is_used && !is_mtp(&tensor.name, checkpoint.config.num_hidden_layers)
        };
        if let Some(first) = tensors.iter().find(spare) {
            let n = tensors.iter().filter(spare).count();
            notes.push(format!("{n} tensors are not used by the model, `{}` first", first.name));
        }
        // A GGUF file's vocabulary is judged where it lies.
        let text = match side {
            TextSide::Gguf(text) => text
                .check()
                .and_then(|()| text.chat_template())
                .map(|chat| TextFiles { chat_template: chat, ..TextFiles::default() }),
            TextSide::Files(..) => side.read(),
        };
        let (text, problems) = match text {
            Ok(text) => (Some(text), Vec::new()),
            Err(problem) => (None, vec![problem.to_string()]),
        };
        Self {
            path: checkpoint.path().to_owned(),
            format: format_of(source, &tensors),
            config: Some(checkpoint.config),
            tensors,
            text,
            problems,
            notes,
            ..Self::default()
        }
    }

    /// `error` is what `open` says. Folders of safetensors are gone through file by file.
    fn of_broken(source: &Source, error: &Error) -> Self {
        let mut survey = Self { format: format_of(source, &[]), ..Self::default() };
        let mut problems = Vec::new();
        if let Source::Directory(path) = source {
            survey.path.clone_from(path);
            survey.gather(&Files::new(source), &mut problems);
        }
        if let Source::File(path) = source {
            survey.path.clone_from(path);
        }
        survey.problems = problems.iter().map(Error::to_string).collect();
        // Whatever else was found: what loading says stands there too.
        let error = error.to_string();
        if !survey.problems.contains(&error) {
            survey.problems.insert(0, error);
        }
        survey
    }

    fn gather(&mut self, files: &Files<'_>, problems: &mut Vec<Error>) {
        let mut is_mini = false;
        let config = files.required("config.json").and_then(|(path, bytes)| {
            let object = parse_object(&path, &bytes)?;
            // mini-deepseek's sizes are partly in its tensors: what opening says of it has to do.
            is_mini = mini::is_settings(&object);
            if is_mini { Ok(None) } else { ModelConfig::of(&path, &object).map(Some) }
        });
        match config {
            Ok(config) => self.config = config,
            Err(problem) => problems.push(problem),
        }
        match folder::text_files(files, is_mini) {
            Ok(text) => self.text = Some(text),
            Err(problem) => problems.push(problem),
        }
        let mut tensors = BTreeMap::new();
        let mut n_file = 0;
        for name in files.weight_names().unwrap_or_else(|problem| {
            problems.push(problem);
            Vec::new()
        }) {
            n_file += 1;
            let path = files.path().join(name);
            let read = Bytes::open(&path).and_then(|bytes| match path.extension() {
                Some(ending) if ending == "safetensors" => {
                    entries_and_problems(&path, &bytes, problems)
                }
                _ => Ok(pt::read(&path, &bytes)?.tensors),
            });
            match read {
                Ok(entries) => merge(&path, entries, &mut tensors, problems),
                Err(problem) => problems.push(problem),
            }
        }
        let mut used = BTreeSet::new();
        if let Some(config) = self.config.as_ref().filter(|_| n_file > 0) {
            used.extend(check(files.path(), config, &tensors, PROBLEMS_MAX, problems));
        }
        let listed = |(name, entry): (&String, &Entry)| {
            Listed::of(name, entry, used.contains(part::owner(name)))
        };
        self.tensors = tensors.iter().map(listed).collect();
    }

    /// The index of a sharded folder against the files: it only has to name them, so what else is wrong is a note.
    fn compare_index(&mut self, folder: &Path) {
        let source = Source::Directory(folder.to_owned());
        let files = Files::new(&source);
        let Ok(Some(map)) = files.index() else { return };
        let names = files.weight_names().unwrap_or_default();
        if !map.is_empty() && !map.values().any(|file| names.iter().any(|name| **name == **file)) {
            let names = names.join("`, `");
            self.notes.push(format!("the index is not used: it does not name `{names}`"));
            return;
        }
        let there: BTreeMap<&str, Option<String>> =
            self.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.file())).collect();
        for (tensor, file) in &map {
            match there.get(tensor.as_str()) {
                None => self
                    .notes
                    .push(format!("the index says `{file}` has tensor `{tensor}`, no file has it")),
                Some(Some(other)) if **other != **file => self.notes.push(format!(
                    "the index says tensor `{tensor}` is in `{file}`, it is in `{other}`"
                )),
                Some(_) => {}
            }
        }
        let unnamed = there.keys().filter(|name| !map.contains_key(**name)).count();
        if unnamed > 0 {
            self.notes.push(format!("{unnamed} tensors are not in the index"));
        }
    }
}

/// Adds a file's tensors; one that is there already is a problem.
fn merge(
    path: &Path,
    entries: BTreeMap<String, Entry>,
    tensors: &mut BTreeMap<String, Entry>,
    problems: &mut Vec<Error>,
) {
    for (name, entry) in entries {
        match tensors.entry(name) {
            btree_map::Entry::Vacant(place) => drop(place.insert(entry)),
            btree_map::Entry::Occupied(place) => {
                let problem = "it is in another file of this checkpoint too".to_owned();
                let (path, name) = (path.to_owned(), place.key().clone());
                problems.push(Error::TensorRange { path, name, problem });
            }
        }
    }
}

fn is_mtp(name: &str, n_layer: usize) -> bool {
    part::Part::of(name, Some(n_layer)) == part::Part::Mtp
}

/// The container's name, from the files the tensors are in.
fn format_of(source: &Source, tensors: &[Listed]) -> &'static str {
    let from_file = tensors.iter().find_map(|tensor| tensor.bytes.path());
    let path = match (from_file, source) {
        (Some(path), _) => path,
        (None, Source::Embedded(_)) => return "safetensors",
        (None, Source::Directory(path) | Source::File(path)) => path,
    };
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase());
    match ending.as_deref() {
        Some("gguf") => "gguf",
        Some("pt" | "pth" | "bin") => "pt",
        _ => "safetensors",
    }
}

/// Weight files by name: those the tensors are in, and in a folder those that gave none.
fn files_of(source: &Source, tensors: &[Listed]) -> Vec<(String, u64)> {
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    let mut files: BTreeMap<PathBuf, u64> = BTreeMap::new();
    for path in tensors.iter().filter_map(|tensor| tensor.bytes.path()) {
        if !files.contains_key(path) {
            files.insert(path.to_owned(), size(path));
        }
    }
    if let Source::Directory(folder) = source {
        for name in Files::new(source).weight_names().unwrap_or_default() {
            let path = folder.join(name);
            let bytes = size(&path);
            files.entry(path).or_insert(bytes);
        }
    }
    if let Source::Embedded(all) = source {
        let weights = all.iter().filter(|(name, _)| name.ends_with(".safetensors"));
        return weights.map(|(name, bytes)| ((*name).to_owned(), bytes.len() as u64)).collect();
    }
    let name = |path: PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
    files.into_iter().filter_map(|(path, bytes)| Some((name(path)?, bytes))).collect()
}

/// Cuts a list to its limit and says how much is left out.
fn shorten(lines: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    lines.retain(|line| seen.insert(line.clone()));
    if lines.len() > PROBLEMS_MAX {
        let more = lines.len() - PROBLEMS_MAX;
        lines.truncate(PROBLEMS_MAX);
        lines.push(format!("and {more} more"));
    }
}
