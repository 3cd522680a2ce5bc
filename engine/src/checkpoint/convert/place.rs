//! Where a conversion goes: a hidden folder beside the wanted one, which takes its name when everything is there.

use std::path::{Path, PathBuf};

use super::code;
use super::unfinished::{self, Unfinished};
use crate::checkpoint::{Checkpoint, Source};
use crate::error::{Error, Result};

/// Endings of files that go along: tokenizers, templates, settings, what is said of the model.
const CARRIED: [&str; 5] = ["json", "jinja", "txt", "model", "md"];

/// The largest file that goes along.
const CARRIED_BYTES_MAX: u64 = 256 << 20;

/// A folder in the making, and where it goes.
pub(super) struct Place {
    out: PathBuf,
    partial: Unfinished,
    replaces: bool,
}

impl Place {
    /// Checks that the place is free and the disk has room, and makes the hidden folder.
    pub(super) fn prepare(source: &Source, out: &Path, bytes: u64, force: bool) -> Result<Self> {
        unfinished::sweep(out);
        let replaces = check(source, out, force)?;
        let parent = unfinished::parent(out);
        std::fs::create_dir_all(&parent)
            .map_err(|source| Error::Write { path: parent.clone(), source })?;
        check_room(&parent, bytes)?;
        Ok(Self { out: out.to_owned(), partial: Unfinished::make(out)?, replaces })
    }

    pub(super) fn folder(&self) -> &Path {
        self.partial.path()
    }

    /// A small file.
    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.folder().join(name);
        std::fs::write(&path, bytes).map_err(|source| Error::Write { path, source })
    }

    /// Everything that is neither weights nor `config.json`.
    pub(super) fn text(&self, source: &Source, checkpoint: &Checkpoint) -> Result<()> {
        match source {
            Source::Embedded(files) => {
                for (name, bytes) in files.iter().filter(|(name, _)| is_carried(name)) {
                    self.write(name, bytes)?;
                }
                Ok(())
            }
            Source::Directory(folder) => self.carry(folder),
            Source::File(_) => self.write_text(checkpoint),
        }
    }

    /// The text files of a folder, as they are.
    fn carry(&self, folder: &Path) -> Result<()> {
        let io = |source| Error::Io { path: folder.to_owned(), source };
        let code = code::files(folder);
        for entry in std::fs::read_dir(folder).map_err(io)? {
            let entry = entry.map_err(io)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let path = folder.join(&name);
            let metadata = std::fs::metadata(&path).ok();
            let fits =
                metadata.is_some_and(|file| file.is_file() && file.len() <= CARRIED_BYTES_MAX);
            if fits && (is_carried(&name) || code.contains(&name)) {
                let to = self.folder().join(&name);
                std::fs::copy(&path, &to).map_err(|source| Error::Write { path: to, source })?;
            }
        }
        Ok(())
    }

    /// What a single file had in it or beside it, as files of a folder.
    fn write_text(&self, checkpoint: &Checkpoint) -> Result<()> {
        let text = &checkpoint.text;
        let template = text.chat_template.as_ref().map(String::as_bytes);
        let files = [
            ("tokenizer.json", text.tokenizer.as_deref()),
            ("tiktoken.model", text.tiktoken.as_deref()),
            ("tokenizer_config.json", text.tokenizer_config.as_deref()),
            ("chat_template.jinja", template),
        ];
        for (name, bytes) in files {
            if let Some(bytes) = bytes {
                self.write(name, bytes)?;
            }
        }
        let generation = super::config::generation_json(&checkpoint.generation);
        self.write("generation_config.json", generation.as_bytes())
    }

    /// Gives the folder its name.
    pub(super) fn finish(self) -> Result<()> {
        self.partial.finish(&self.out, self.replaces)
    }
}

fn is_carried(name: &str) -> bool {
    let is_ours = name == "config.json" || name.ends_with(".index.json");
    let ending = Path::new(name).extension().and_then(|ending| ending.to_str());
    let is_licence = name.starts_with("LICENSE");
    !is_ours
        && !name.starts_with('.')
        && (is_licence || ending.is_some_and(|e| CARRIED.contains(&e)))
}

/// Whether something is there that will be replaced; refuses what must not be.
fn check(source: &Source, out: &Path, force: bool) -> Result<bool> {
    let refuse =
        |problem: &str| Err(Error::Format { path: out.to_owned(), problem: problem.to_owned() });
    let Ok(metadata) = std::fs::symlink_metadata(out) else { return Ok(false) };
    if let (Source::Directory(from) | Source::File(from), Ok(to)) = (source, out.canonicalize())
        && from.canonicalize().is_ok_and(|from| from.starts_with(&to))
    {
        return refuse("it holds the checkpoint that is converted");
    }
    if !force {
        return refuse("it is there already; `--force` replaces a checkpoint");
    }
    if !metadata.is_dir() {
        return refuse("it is no folder");
    }
    // A folder given by mistake must not be lost: only what looks like a checkpoint, or is empty, is replaced.
    let io = |source| Error::Io { path: out.to_owned(), source };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(out).map_err(io)? {
        let entry = entry.map_err(io)?;
        let is_file = entry.file_type().map_err(io)?.is_file();
        names.push((entry.file_name().to_string_lossy().into_owned(), is_file));
    }
    let code = code::files(out);
    let is_ours = |(name, is_file): &(String, bool)| {
        *is_file
            && (name == "config.json"
                || name.ends_with(".index.json")
                || name.ends_with(".safetensors")
                || is_carried(name)
                || code.contains(name))
    };
    let has_config = names.iter().any(|(name, _)| name == "config.json");
    if names.is_empty() || has_config && names.iter().all(is_ours) {
        return Ok(true);
    }
    refuse("it holds other things than a checkpoint, and is not replaced")
}

/// Whether the disk has room.
fn check_room(folder: &Path, needed_bytes: u64) -> Result<()> {
    // Where the system does not say, writing will.
    let Ok(disk) = rustix::fs::statvfs(folder) else { return Ok(()) };
    let free_bytes = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free_bytes < needed_bytes {
        let problem = format!("{needed_bytes} bytes are to be written, {free_bytes} are free");
        return Err(Error::Format { path: folder.to_owned(), problem });
    }
    Ok(())
}
