//! Where a conversion goes: a hidden folder beside the wanted one, which takes its name when everything is there.

use std::path::{Path, PathBuf};

use crate::checkpoint::{Checkpoint, Source};
use crate::error::{Error, Result};

/// Endings of files that go along: tokenizers, templates, settings, what is said of the model.
const CARRIED: [&str; 5] = ["json", "jinja", "txt", "model", "md"];

/// The largest file that goes along.
const CARRIED_BYTES_MAX: u64 = 256 << 20;

/// A folder in the making. Dropped unfinished, it takes everything with it.
pub(super) struct Place {
    out: PathBuf,
    partial: PathBuf,
    replaces: bool,
    is_finished: bool,
}

impl Place {
    /// Checks that the place is free and the disk has room, and makes the hidden folder.
    pub(super) fn prepare(source: &Source, out: &Path, bytes: u64, force: bool) -> Result<Self> {
        let replaces = check(source, out, force)?;
        let (Some(name), parent) = (out.file_name(), parent(out)) else {
            let problem = "wanted the name of a folder to make".to_owned();
            return Err(Error::Format { path: out.to_owned(), problem });
        };
        let io = |path: &Path, source| Error::Write { path: path.to_owned(), source };
        std::fs::create_dir_all(&parent).map_err(|source| io(&parent, source))?;
        check_room(&parent, bytes)?;
        let name = name.to_string_lossy();
        let partial = parent.join(format!(".{name}.partial-{}", std::process::id()));
        std::fs::create_dir(&partial).map_err(|source| io(&partial, source))?;
        Ok(Self { out: out.to_owned(), partial, replaces, is_finished: false })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.partial
    }

    /// A small file.
    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.partial.join(name);
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
        for entry in std::fs::read_dir(folder).map_err(io)? {
            let entry = entry.map_err(io)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let path = folder.join(&name);
            let metadata = std::fs::metadata(&path).ok();
            let fits =
                metadata.is_some_and(|file| file.is_file() && file.len() <= CARRIED_BYTES_MAX);
            if fits && is_carried(&name) {
                let to = self.partial.join(&name);
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
    pub(super) fn finish(mut self) -> Result<()> {
        let io = |source| Error::Write { path: self.out.clone(), source };
        if self.replaces {
            // Two renames: at no moment is there half of the old and half of the new.
            let mut old = self.partial.clone().into_os_string();
            old.push("-old");
            let old = PathBuf::from(old);
            std::fs::rename(&self.out, &old).map_err(io)?;
            if let Err(source) = std::fs::rename(&self.partial, &self.out) {
                // What was there goes back to its place; the error says what happened.
                let _ = std::fs::rename(&old, &self.out);
                return Err(io(source));
            }
            self.is_finished = true;
            return std::fs::remove_dir_all(&old)
                .map_err(|source| Error::Write { path: old, source });
        }
        std::fs::rename(&self.partial, &self.out).map_err(io)?;
        self.is_finished = true;
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.is_finished {
            // Nobody is left to tell; a hidden folder without `config.json` is no checkpoint.
            let _ = std::fs::remove_dir_all(&self.partial);
        }
    }
}

fn parent(out: &Path) -> PathBuf {
    match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
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
    let is_ours = |(name, is_file): &(String, bool)| {
        *is_file
            && (name == "config.json"
                || name.ends_with(".index.json")
                || name.ends_with(".safetensors")
                || is_carried(name))
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
