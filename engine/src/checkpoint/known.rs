//! What earlier listings have read, so that the next one reads the headers of what has changed since: a page that polls
//! must not parse a hundred thousand tensors' headers each time.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::Metadata;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use super::discover::{Found, single_format};
use super::gguf;

/// One entry of a folder, as far as the system tells without reading it.
pub(super) struct Entry {
    pub(super) name: OsString,
    pub(super) is_link: bool,
    /// Of what a link leads to; `None` when it leads nowhere.
    pub(super) metadata: Option<Metadata>,
}

impl Entry {
    /// Its name, where that is text.
    pub(super) fn text(&self) -> Option<&str> {
        self.name.to_str()
    }

    pub(super) fn is_file(&self) -> bool {
        self.metadata.as_ref().is_some_and(Metadata::is_file)
    }

    pub(super) fn is_dir(&self) -> bool {
        self.metadata.as_ref().is_some_and(Metadata::is_dir)
    }

    fn mark(&self, hasher: &mut DefaultHasher) {
        self.name.hash(hasher);
        let Some(metadata) = &self.metadata else { return };
        (metadata.len(), metadata.modified().ok(), changed(metadata)).hash(hasher);
    }
}

/// A folder's entries, hidden ones too, looked at once a listing.
pub(super) struct Snapshot {
    /// Sorted by name.
    pub(super) entries: Vec<Entry>,
    /// Changes with any of them.
    all: u64,
    /// Changes with any that is no model by itself.
    beside: u64,
}

impl Snapshot {
    /// At most so many entries; none of a folder that cannot be read.
    pub(super) fn of(folder: &Path, entries_max: usize) -> std::io::Result<Self> {
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(folder)?.flatten().take(entries_max) {
            entries.push(Entry {
                name: entry.file_name(),
                is_link: entry.file_type().is_ok_and(|kind| kind.is_symlink()),
                metadata: std::fs::metadata(entry.path()).ok(),
            });
        }
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let (mut all, mut beside) = (DefaultHasher::new(), DefaultHasher::new());
        for entry in &entries {
            entry.mark(&mut all);
            if single_format(Path::new(&entry.name)).is_none() {
                entry.mark(&mut beside);
            }
        }
        Ok(Self { entries, all: all.finish(), beside: beside.finish() })
    }

    /// Changes with anything that a folder in Hugging Face layout could be read from.
    pub(super) fn mark(&self) -> u64 {
        self.all
    }

    /// Changes with anything that a file in the folder is read from: its other parts, or what lies beside it.
    pub(super) fn mark_of(&self, file: &Path, format: &str) -> u64 {
        let mut hasher = DefaultHasher::new();
        for entry in self.parts(file) {
            entry.mark(&mut hasher);
        }
        if format != "gguf" {
            self.beside.hash(&mut hasher);
        }
        hasher.finish()
    }

    /// The entries of a model that goes by its first file, up to the first that is not there.
    pub(super) fn parts(&self, file: &Path) -> impl Iterator<Item = &Entry> {
        gguf::files(file).map_while(|part| {
            let name = part.file_name()?;
            let at =
                self.entries.binary_search_by(|entry| entry.name.as_os_str().cmp(name)).ok()?;
            self.entries.get(at)
        })
    }
}

/// What was found, by path, each with the mark of what it was read from.
#[derive(Debug, Default)]
pub struct Known {
    found: HashMap<PathBuf, (u64, Found)>,
    /// Those of the listing under way; what was not met again is gone.
    met: HashMap<PathBuf, (u64, Found)>,
}

impl Known {
    /// What was found at a path, read anew when the mark is another than before.
    pub(super) fn or_read(
        &mut self,
        path: &Path,
        mark: u64,
        read: impl FnOnce() -> Found,
    ) -> Found {
        let found = match self.found.remove(path) {
            Some((before, found)) if before == mark => found,
            _ => read(),
        };
        self.met.insert(path.to_owned(), (mark, found.clone()));
        found
    }

    /// Ends a listing.
    pub(super) fn forget_the_rest(&mut self) {
        self.found = std::mem::take(&mut self.met);
    }
}

#[cfg(unix)]
fn changed(metadata: &Metadata) -> (u64, i64, i64) {
    use std::os::unix::fs::MetadataExt;
    // Inode and time of the last change of anything, permissions too.
    (metadata.ino(), metadata.ctime(), metadata.ctime_nsec())
}

#[cfg(not(unix))]
fn changed(_: &Metadata) -> (u64, i64, i64) {
    (0, 0, 0)
}

#[cfg(test)]
mod tests {
    use super::super::discover::discover_again;
    use super::*;

    #[test]
    fn what_has_not_changed_is_not_read_again() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("m");
        std::fs::create_dir(&folder).unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
        let mut known = Known::default();
        let reason = |known: &mut Known, name: &str| {
            let found = discover_again(root.path(), known);
            let found = found.into_iter().find(|found| found.name == name);
            found.unwrap().summary.unwrap_err()
        };
        write("config.json", "[1]");
        assert!(reason(&mut known, "m").contains("wanted a JSON object"));
        // A verdict that no reading gives: it can only be the one that is kept.
        let keep = |known: &mut Known| {
            for (_, found) in known.found.values_mut() {
                found.summary = Err("kept".to_owned());
            }
        };
        keep(&mut known);
        assert_eq!(reason(&mut known, "m"), "kept");
        write("config.json", "{");
        assert!(reason(&mut known, "m").contains("JSON"));
        // Files that are models by themselves depend on themselves, on their parts, and `.pt` on what lies beside.
        for name in ["a.gguf", "b-00001-of-00002.gguf", "c.pt"] {
            write(name, "x");
            assert_ne!(reason(&mut known, &format!("m/{name}")), "kept");
        }
        keep(&mut known);
        write("a.gguf", "xx");
        assert_ne!(reason(&mut known, "m/a.gguf"), "kept");
        assert_eq!(reason(&mut known, "m/b-00001-of-00002.gguf"), "kept");
        assert_eq!(reason(&mut known, "m/c.pt"), "kept");
        write("b-00002-of-00002.gguf", "x");
        assert_ne!(reason(&mut known, "m/b-00001-of-00002.gguf"), "kept");
        assert_eq!(reason(&mut known, "m/c.pt"), "kept");
        write("config.yaml", "x");
        assert_ne!(reason(&mut known, "m/c.pt"), "kept");
        std::fs::remove_dir_all(&folder).unwrap();
        discover_again(root.path(), &mut known);
        assert!(known.found.is_empty(), "what is not met again is forgotten");
    }
}
